"""Weights under JAX's transformations: control flow, custom derivatives, effects, meshes, kernels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import io_callback
from jax.experimental import pallas as pl
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.zoo.model import arrays, data, entry, linen

D = 12


class Layer(nn.Module):
    """A body for `nn.scan`."""

    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(D)(x)), None


class Scanned(nn.Module):
    """`nn.scan` over layers, rematerialized or not."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        body = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(name="layers")(x, None)[0]


def nn_scan(remat):
    return linen(Scanned(remat), data(4, D), weights={"params/layers/Dense_0/kernel": "sio"})


def square(function, axes="io", **shapes):
    """A model of one (D, D) matrix (or the given shapes): ``function(params, x)``."""
    params = arrays(**(shapes or {"w": (D, D)}))
    weights = axes if isinstance(axes, dict) else {"w": axes}
    return function, params, (data(4, D),), {"weights": weights}


def scan_closure(params, x):
    return lax.scan(lambda carry, _: (jnp.tanh(carry @ params["w"]), carry.sum()), x, None, length=3)


def scan_layers(params, x):
    def body(carry, layer):
        return jnp.tanh(carry @ layer["w"] + layer["b"][None]), None

    return lax.scan(body, x, params)[0]


def scan_reverse(params, x):
    return lax.scan(lambda carry, w: (jnp.tanh(carry @ w.T), None), x, params["w"], reverse=True, unroll=2)[0]


def scan_outputs_weights(params, x):
    """The body gives its weights out again, as stacked outputs and as a carry."""

    def body(carry, w):
        x, last = carry
        return (jnp.tanh(x @ w), w + 0 * last), w

    (x, last), stacked = lax.scan(body, (x, jnp.zeros_like(params["w"][0])), params["w"])
    return x + last[:1], stacked.sum(0)


def scan_of_scan(params, x):
    def outer(carry, w):
        return lax.scan(lambda c, _: (jnp.tanh(c @ w), None), carry, None, length=2)[0], None

    return lax.scan(outer, x, params["w"])[0]


def while_loop(params, x):
    def body(state):
        i, x = state
        return i + 1, jnp.tanh(x @ params["w"])

    return lax.while_loop(lambda state: (state[0] < 3) & (jnp.abs(state[1]).max() < 9), body, (0, x))[1]


def fori_carry(params, x):
    """The parameters travel in the carry, unchanged."""

    def body(_, state):
        params, x = state
        return params, jnp.tanh(x @ params["w"])

    return lax.fori_loop(0, 3, body, (params, x))[1]


def fori_changed(params, x):
    """The parameters travel in the carry and change."""

    def body(_, state):
        w, x = state
        return w * jnp.float32(0.9), jnp.tanh(x @ w)

    return lax.fori_loop(0, 3, body, (params["w"], x))[1]


def fori_index(params, x):
    return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ params["w"][i]), x)


def fori_traced_bound(params, x):
    steps = jnp.asarray(2, jnp.int32) + (x.sum() > 1e9).astype(jnp.int32)
    return lax.fori_loop(0, steps, lambda i, x: jnp.tanh(x @ params["w"]), x)


def mapped(params, x):
    return lax.map(lambda row: row @ params["w"], x)


def cond(params, x):
    return lax.cond(x.mean() > -9, lambda w, x: x @ w["w"], lambda w, x: x @ w["v"].T, params, x)


def cond_returns_weights(params, x):
    w = lax.cond(x.mean() > -9, lambda p: p["w"], lambda p: p["v"], params)
    return x @ w


def switch(params, x):
    branches = [lambda x: x @ params["w"], lambda x: x @ params["w"].T, lambda x: x]
    return sum((lax.switch(jnp.clip(i, 0, 2), branches, x) for i in range(3)), start=jnp.zeros_like(x))


def checkpointed(params, x):
    policy = jax.checkpoint_policies.dots_saveable
    first = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))(params["w"], x)
    return jax.checkpoint(lambda w, x: jnp.sin(x @ w), policy=policy, prevent_cse=False)(params["w"], first)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def scaled_matmul(scale, x, w, transpose):
    """``scale * x @ w`` whose gradient for ``w`` is doubled on purpose, so that a lost rule shows."""
    return scale * (x @ (w.T if transpose else w))


def _scaled_forward(scale, x, w, transpose):
    return scaled_matmul(scale, x, w, transpose), (x, w)


def _scaled_backward(scale, transpose, residuals, g):
    x, w = residuals
    grad_w = 2 * scale * (g.T @ x if transpose else x.T @ g)
    return scale * (g @ (w if transpose else w.T)), grad_w


scaled_matmul.defvjp(_scaled_forward, _scaled_backward)


def custom_vjp(params, x):
    return scaled_matmul(0.5, jnp.tanh(scaled_matmul(2.0, x, params["w"], False)), params["w"], True)


@jax.custom_jvp
def clipped_matmul(x, w):
    """A product whose derivative is clipped on purpose."""
    return jnp.tanh(x @ w)


@clipped_matmul.defjvp
def _clipped_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return clipped_matmul(x, w), 0.5 * (dx @ w) + 3.0 * (x @ dw)


def custom_jvp_in_scan(params, x):
    return lax.scan(lambda carry, w: (clipped_matmul(carry, w), None), x, params["w"])[0]


def custom_jvp_captured(params, x):
    """The weight reaches the custom function as a closure of its caller, beside a rule that is JAX's own."""
    return jax.nn.relu(clipped_matmul(x, params["w"])) + jax.nn.silu(x @ params["w"])


def grad_inside(params, x):
    """The model takes a derivative of its own, with respect to the data."""
    energy = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ params["w"]) ** 2))
    return x - 0.1 * energy(x)


def jvp_inside(params, x):
    return jax.jvp(lambda x: jnp.tanh(x @ params["w"]), (x,), (jnp.ones_like(x),))


def vmap_weights(params, x):
    """A stack of weights mapped by the user's `vmap`."""
    return jax.vmap(lambda w, b: jnp.tanh(x @ w + b[None]))(params["w"], params["b"])


def printed(params, x):
    jax.debug.print("mean {}", x.mean(), ordered=True)
    y = x @ params["w"]
    jax.debug.print("first {}", params["w"][0, 0], ordered=True)
    return y


def called_back(params, x):
    y = x @ params["w"]
    seen = io_callback(lambda a: a * 2, jax.ShapeDtypeStruct((), y.dtype), y.sum(), ordered=True)
    return y + seen * jnp.zeros((), y.dtype)


def random_noise(params, x):
    noise = jax.random.normal(jax.random.key(3), x.shape)
    return (x + noise) @ params["w"]


def mesh():
    return jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))


def sharded_rows(params, x):
    """Batch over 8 devices, weights replicated; varying manual axes are checked."""
    body = jax.shard_map(lambda w, x: x @ w, mesh=mesh(), in_specs=(P(), P("d")), out_specs=P("d"))
    return body(params["w"], x)


def sharded_contraction(params, x):
    """The contracted axis over 8 devices, summed."""

    def body(w, x):
        return lax.psum(x @ w, "d")

    return jax.shard_map(body, mesh=mesh(), in_specs=(P("d"), P(None, "d")), out_specs=P())(params["w"], x)


def sharded_columns(params, x):
    """Output features over 8 devices, gathered by the out spec."""
    body = jax.shard_map(lambda w, x: x @ w, mesh=mesh(), in_specs=(P(None, "d"), P()), out_specs=P(None, "d"))
    return body(params["w"], x)


def pallas(params, x):
    """A kernel that JAX interprets on the CPU."""

    def kernel(x_ref, w_ref, out_ref):
        out_ref[...] = jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32)

    shape = jax.ShapeDtypeStruct((x.shape[0], params["w"].shape[1]), x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, params["w"])


LAYERS = {"w": (3, D, D), "b": (3, D)}
STACK = {"w": (3, D, D)}
TWO = {"w": (D, D), "v": (D, D)}
SHARDED = {"w": (16, 24)}


def wide(function):
    return function, arrays(**SHARDED), (data(8, 16),), {"weights": {"w": "io"}}


def model(name, function, axes, *tags, **shapes):
    return entry(f"transform_{name}", lambda: square(function, axes, **shapes), *tags)


MODELS = (
    entry("transform_nn_scan", functools.partial(nn_scan, False)),
    entry("transform_nn_scan_remat", functools.partial(nn_scan, True)),
    model("scan_closure", scan_closure, "io"),
    model("scan_layers", scan_layers, "sio", **LAYERS),
    model("scan_reverse", scan_reverse, "soi", **STACK),
    model("scan_outputs_weights", scan_outputs_weights, "sio", **STACK),
    model("scan_of_scan", scan_of_scan, "sio", **STACK),
    model("while_loop", while_loop, "io", "no_grad"),
    model("fori_carry", fori_carry, "io"),
    model("fori_changed", fori_changed, {}),
    model("fori_index", fori_index, "sio", **STACK),
    model("fori_traced_bound", fori_traced_bound, "io", "no_grad"),
    model("map", mapped, "io"),
    model("cond", cond, {"w": "io", "v": "oi"}, **TWO),
    model("cond_returns_weights", cond_returns_weights, {}, **TWO),
    model("switch", switch, "io/oi"),
    model("checkpoint", checkpointed, "io"),
    model("custom_vjp", custom_vjp, "io/oi"),
    model("custom_jvp_in_scan", custom_jvp_in_scan, "sio", **STACK),
    model("custom_jvp_captured", custom_jvp_captured, "io"),
    model("grad_inside", grad_inside, "io/oi"),
    model("jvp_inside", jvp_inside, "io"),
    model("vmap_weights", vmap_weights, "oio", **LAYERS),
    model("debug_print", printed, "io", "effects", "no_vmap", "no_export"),
    model("io_callback", called_back, "io", "effects", "no_vmap", "no_grad", "no_export"),
    model("random", random_noise, "io"),
    entry("transform_shard_map_rows", functools.partial(wide, sharded_rows), "no_export"),
    entry("transform_shard_map_contraction", functools.partial(wide, sharded_contraction), "no_export"),
    entry("transform_shard_map_columns", functools.partial(wide, sharded_columns), "no_export"),
    model("pallas", pallas, {}, "no_grad", "no_export"),
)
