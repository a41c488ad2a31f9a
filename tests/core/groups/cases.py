"""Small functions, one difficulty each: what the analysis must see through, and what it must keep its hands off.

`LEAST` holds cases with the sizes of groups that a person finds by hand; more groups are welcome if they are exact.
`EITHER` holds cases that may be pinned: the law says that they are never wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo.model import arrays, data, ids

D, H = 8, 16
relu, sigmoid, softmax = jax.nn.relu, jax.nn.sigmoid, jax.nn.softmax
Fn = Callable[[dict[str, jax.Array], Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """``fn(params, x)``; `least` are group sizes that must be found, None: it may be pinned."""

    fn: Fn
    least: tuple[int, ...] | None
    params: dict[str, jax.Array]
    x: Any


def case(fn: Fn, least: tuple[int, ...] | None = None, x: Any = None, **shapes: tuple[int, ...]) -> Case:
    shapes = {"a": (D, H), "b": (H, 3)} | shapes
    return Case(fn, least, arrays(**shapes), data(4, D) if x is None else x)


def hidden(function: Callable[[jax.Array], Any], least: tuple[int, ...] | None = None, **shapes: Any) -> Case:
    """``function(x @ a) @ b``."""
    return case(lambda p, x: function(x @ p["a"]) @ p["b"], least, **shapes)


def reduced(function: Callable[[jax.Array], Any], least: tuple[int, ...] | None = None, **shapes: Any) -> Case:
    """``function(x @ a)`` is the output."""
    return case(lambda p, x: function(x @ p["a"]), least, b=(1, 1), **shapes)


# -------------------------------------------------------------------------------- what must be found


@jax.custom_vjp
def straight_through(h):
    return jnp.sign(h)


straight_through.defvjp(lambda h: (jnp.sign(h), None), lambda _, g: (g,))


def bound(p, x):
    """The same compiled function on what can shrink and on what cannot."""
    double = jax.jit(lambda h: jnp.tanh(h) * 2)
    return double(double(x) @ p["a"]) @ p["b"], double(x)


def normalised(h, eps=1e-6):
    return h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + eps)


def scanned(p, x):
    """A recurrence from a bias that is the initial state, its states given out and read again."""
    start = jnp.broadcast_to(p["h"][None], (x.shape[0], H))
    _, states = lax.scan(lambda h, _: (jnp.tanh(h @ p["w"] + x @ p["a"]),) * 2, start, None, length=3)
    return states.mean(0) @ p["b"]


def stacked(p, x):
    """Two residual layers in a scan, each with its hidden units; the residual stream is one group."""

    def layer(h, weights):
        up, down = weights
        return h + relu(h @ up) @ down, None

    return lax.scan(layer, x @ p["a"], (p["u"], p["d"]))[0] @ p["b"]


def grad_inside(p, x):
    energy = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ p["a"]) ** 2))
    return x - energy(x)


def attention(p, x):
    """Heads of width 4 from one projection each."""
    q, k, v = ((x @ p[name]).reshape(2, 6, 4, 4) for name in "qkv")
    mixed = jax.nn.dot_product_attention(q, k, v).reshape(2, 6, 16)
    return mixed @ p["b"]


def image(fn, least=None, **shapes):
    return case(fn, least, x=data(2, 5, 5, 3), **shapes)


def conv(x, w, **options):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def pixels(p, x):
    h = conv(x, p["a"]).reshape(2, 5, 5, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5)
    return relu(h.reshape(2, 10, 10, 6)) @ p["b"]


def channels_first(p, x):
    y = lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NCHW"))
    return relu(y).reshape(2, -1) @ p["b"]


def shuffled(p, x):
    return (x @ p["a"]).reshape(4, 2, 8).swapaxes(1, 2).reshape(4, H) @ p["b"]


def moe(p, x):
    gate = softmax(lax.top_k(x @ p["r"], 4)[0])
    return jnp.einsum("be,beh,ehd->bd", gate, relu(jnp.einsum("bd,edh->beh", x, p["a"])), p["b"])


LEAST: dict[str, Case] = {
    "mlp": hidden(relu, (H,)),
    "sigmoid": hidden(sigmoid, (H,)),
    "exponential": hidden(lambda h: jnp.exp(h) + 1, (H,)),
    "bias": case(lambda p, x: relu(x @ p["a"] + p["c"][None]) @ p["b"], (H,), c=(H,)),
    "row bias": case(lambda p, x: relu(x @ p["a"] + p["c"]) @ p["b"], (H,), c=(1, H)),
    "transposed": case(lambda p, x: relu(x @ p["a"].T) @ p["b"].T, (H,), a=(H, D), b=(3, H)),
    "flip": hidden(lambda h: h + h[:, ::-1], (H // 2,)),
    "even and odd": case(lambda p, x: (lambda h: h[:, ::2] * h[:, 1::2])(x @ p["a"]) @ p["b"], (8,), b=(8, 3)),
    "gated": case(lambda p, x: (lambda u: u[:, :H] * sigmoid(u[:, H:]))(x @ p["a"]) @ p["b"], (H,), a=(D, 2 * H)),
    "repeat": hidden(lambda h: jnp.repeat(relu(h), 2, -1), (H,), b=(2 * H, 3)),
    "tile": hidden(lambda h: jnp.tile(relu(h), (1, 2)), (H,), b=(2 * H, 3)),
    "concatenated": case(
        lambda p, x: jnp.concatenate([relu(x @ p["a"]), x, x @ p["c"]], -1) @ p["b"], (4, H), b=(28, 3), c=(D, 4)
    ),
    "padded": hidden(lambda h: jnp.pad(h, ((0, 0), (0, 4))), (H,), b=(H + 4, 3)),
    "constant scale": hidden(lambda h: h * np.linspace(1, 2, H, dtype=np.float32)[None], (H,)),
    "constant mask": case(lambda p, x: x @ (p["a"] * jnp.tri(D, H)) @ p["b"], (H,)),
    "iota": hidden(lambda h: h * (jnp.arange(H, dtype=jnp.float32) + 1)[None], (H,)),
    "mean and centre": hidden(lambda h: h - h.mean(-1, keepdims=True), (H,)),
    "sum of squares": reduced(lambda h: (h * h).sum(-1), (H,)),
    "length": reduced(lambda h: jnp.sqrt((h * h).sum(-1) + 1e-6), (H,)),
    "root mean square": hidden(normalised, (H,)),
    "penalty": case(lambda p, x: relu(x @ p["a"]) @ p["b"] + (p["a"] ** 2).sum(), (H,)),
    "bilinear": case(lambda p, x: jnp.einsum("bi,ij,bj->b", x @ p["a"], p["w"], x @ p["a"]), (H,), w=(H, H)),
    "softmax over rows": hidden(lambda h: softmax(h, 0), (H,)),
    "tied": case(
        lambda p, x: relu(p["e"][x] @ p["w"]) @ p["v"] @ p["e"].T,
        (8, 12),
        ids(4, below=20),
        e=(20, 8),
        w=(8, 12),
        v=(12, 8),
    ),
    "ensemble": case(lambda p, x: jax.vmap(lambda p: relu(x @ p["a"]) @ p["b"])(p), (H,), a=(3, D, H), b=(3, H, 2)),
    "mean of an ensemble": case(
        lambda p, x: jax.vmap(lambda p: relu(x @ p["a"]) @ p["b"])(p).mean(0), (3, H), a=(3, D, H), b=(3, H, 2)
    ),
    "same jit twice": case(bound, (H,)),
    "checkpoint": hidden(jax.checkpoint(lambda h: jnp.sin(relu(h))), (H,)),
    "custom vjp": hidden(straight_through, (H,)),
    "custom jvp": hidden(jax.nn.relu6, (H,)),
    "grad inside": case(grad_inside, (H,)),
    "recurrence": case(scanned, (H,), w=(H, H), h=(H,)),
    "residual stack": case(stacked, (6, H), u=(2, H, 6), d=(2, 6, H)),
    "attention": case(attention, (4,), data(2, 6, 16), q=(16, 16), k=(16, 16), v=(16, 16)),
    "grouped convolution": image(
        lambda p, x: relu(conv(x @ p["z"], p["a"], feature_group_count=4)) @ p["b"],
        (4,),
        z=(3, 16),
        a=(3, 3, 4, 32),
        b=(32, 2),
    ),
    "depthwise": image(
        lambda p, x: relu(conv(x @ p["z"], p["a"], feature_group_count=8)) @ p["b"], (8,), z=(3, 8), a=(3, 3, 1, 16)
    ),
    "transposed convolution": image(
        lambda p, x: relu(lax.conv_transpose(relu(x @ p["z"]), p["a"], (2, 2), "SAME")) @ p["b"],
        (12, 16),
        z=(3, 16),
        a=(3, 3, 16, 12),
        b=(12, 2),
    ),
    "pixel shuffle": image(pixels, (6,), a=(3, 3, 3, 24), b=(6, 2)),
    "channels first": image(channels_first, (6,), a=(6, 3, 3, 3), b=(150, 2)),
    "experts": case(moe, (H,), r=(D, 4), a=(4, D, H), b=(4, H, D)),
    "channel shuffle": case(shuffled, ()),
}

# ------------------------------------------------------------------------------- exact or pinned


def cond(p, x):
    return lax.cond(x.sum() > 0, lambda h: h @ p["b"], lambda h: h @ p["c"], relu(x @ p["a"]))


def while_loop(p, x):
    def body(state):
        return state[0] + 1, jnp.tanh(state[1] @ p["w"])

    return lax.while_loop(lambda s: (s[0] < 4) & (jnp.abs(s[1]).max() < 0.8), body, (0, relu(x @ p["a"])))[1] @ p["b"]


def fori(p, x):
    return lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), relu(x @ p["a"])) @ p["b"]


def variance(h, scale=2.0):
    """The two-pass form: what is masked still has its distance from the mean."""
    centred = h - h.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale


def top_k(h):
    values, where = lax.top_k(h, 5)
    return values * where.astype(h.dtype)


def one_hot(h):
    return jax.nn.one_hot(h.argmax(-1), H)


def windows(h):
    """Each channel by the sum of squares of its neighbours."""
    return h / (1 + lax.reduce_window(h * h, 0.0, lax.add, (1, 3), (1, 1), "SAME"))


def noise(h):
    return h + jax.random.normal(jax.random.key(0), h.shape)


def dropout(h):
    return jnp.where(jax.random.bernoulli(jax.random.key(1), 0.5, h.shape), h, 0.0)


EITHER: dict[str, Case] = {
    "cond": case(cond, c=(H, 3)),
    "cond picks weights": case(
        lambda p, x: relu(x @ lax.cond(x.sum() > 0, lambda: p["a"], lambda: p["c"])) @ p["b"], c=(D, H)
    ),
    "switch": case(lambda p, x: lax.switch(jnp.int32(1), [relu, jnp.exp, lambda h: h[:, ::-1]], x @ p["a"]) @ p["b"]),
    "while": case(while_loop, w=(H, H)),
    "fori": case(fori, w=(H, H)),
    "fft": hidden(lambda h: jnp.abs(jnp.fft.fft(h))),
    "real fft": hidden(lambda h: jnp.abs(jnp.fft.rfft(h)), b=(H // 2 + 1, 3)),
    "sort": hidden(lambda h: jnp.sort(h, -1)),
    "argsort": hidden(lambda h: jnp.take_along_axis(h, jnp.argsort(-h, -1), -1)),
    "sort over rows": hidden(lambda h: jnp.sort(h, 0)),
    "top-k": hidden(top_k, b=(5, 3)),
    "argmax": reduced(lambda h: h.argmax(-1)),
    "one-hot": hidden(one_hot),
    "m to n": case(lambda p, x: (x @ p["a"]).reshape(4, 6, 4).reshape(4, 4, 6) @ p["b"], a=(D, 24), b=(6, 2)),
    "m to n with rows": case(lambda p, x: (x @ p["a"]).reshape(8, 8) @ p["b"], b=(8, 2)),
    "softmax": hidden(softmax),
    "log softmax": hidden(jax.nn.log_softmax),
    "log sum exp": reduced(lambda h: jax.nn.logsumexp(h, -1)),
    "cross entropy": reduced(lambda h: -jnp.take_along_axis(jax.nn.log_softmax(h), jnp.arange(4)[:, None], 1)),
    "sigmoid and sum": reduced(lambda h: sigmoid(h).sum(-1)),
    "cosine and mean": reduced(lambda h: jnp.cos(h).mean(-1)),
    "shifted and summed": reduced(lambda h: (h + 1).sum(-1)),
    "shifted by a parameter": case(lambda p, x: (x @ p["a"] + p["c"][0]).sum(-1), c=(2,)),
    "counted": reduced(lambda h: (h == 0).sum(-1)),
    "positive": reduced(lambda h: (h > 0).all(-1)),
    "max": reduced(lambda h: h.max(-1)),
    "min": reduced(lambda h: h.min(-1)),
    "max of relu": reduced(lambda h: relu(h).max(-1)),
    "prod": reduced(lambda h: h.prod(-1)),
    "max norm": hidden(lambda h: h / (1e-6 + jnp.abs(h).max(-1, keepdims=True))),
    "clamp and sum": reduced(lambda h: jnp.clip(h, 0.1, 2.0).sum(-1)),
    "where and sum": reduced(lambda h: jnp.where(h > 0, h, 1.0).sum(-1)),
    "select by data": case(lambda p, x: jnp.where(x.sum() > 0, x @ p["a"], 1.0).sum(-1)),
    "two-pass variance": hidden(variance),
    "variance": reduced(lambda h: h.var(-1)),
    "standard deviation of columns": hidden(lambda h: (h - h.mean(0, keepdims=True)) / h.std(0, keepdims=True)),
    "unit length": hidden(lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)),
    "weight norm": case(lambda p, x: relu(x @ (p["a"] / jnp.linalg.norm(p["a"], axis=0, keepdims=True))) @ p["b"]),
    "weight norm of rows": case(
        lambda p, x: relu(x @ (p["a"] / jnp.linalg.norm(p["a"], axis=1, keepdims=True))) @ p["b"]
    ),
    "weight standardised": case(lambda p, x: relu(x @ (p["a"] - p["a"].mean(1, keepdims=True))) @ p["b"]),
    "reciprocal": hidden(lambda h: 1 / h),
    "logarithm": hidden(lambda h: jnp.log(jnp.abs(h))),
    "entropy": reduced(lambda h: (jnp.abs(h) * jnp.log(jnp.abs(h))).sum(-1)),
    "logit of a sigmoid": hidden(lambda h: jnp.log(sigmoid(h) / (1 - sigmoid(h)))),
    "zero once masked": hidden(lambda h: 1 / (jnp.exp(h) - 1)),
    "divided where not zero": hidden(lambda h: 1 / jnp.where(h == 0, 1.0, h)),
    "inverse root": hidden(lambda h: lax.rsqrt(h * h)),
    "divided by units": case(lambda p, x: (x @ p["c"]) / (x @ p["a"]) @ p["b"], c=(D, H)),
    "divided by positive units": case(lambda p, x: (x @ p["c"]) / (1 + relu(x @ p["a"])) @ p["b"], c=(D, H)),
    "divided by a sum": hidden(lambda h: jnp.exp(h) / jnp.exp(h).sum(-1, keepdims=True)),
    "power": case(lambda p, x: jnp.abs(x @ p["a"]) ** p["c"][None] @ p["b"], c=(H,)),
    "angle": case(lambda p, x: jnp.arctan2(x @ p["a"], x @ p["c"]).sum(-1), c=(D, H)),
    "dynamic slice": hidden(lambda h: lax.dynamic_slice_in_dim(h, (h[0, 0] > 0).astype(jnp.int32), 6, 1), b=(6, 3)),
    "dynamic update": case(
        lambda p, x: lax.dynamic_update_slice_in_dim(x @ p["a"], x @ p["c"], 3, 1) @ p["b"], c=(D, 4)
    ),
    "cumulative sum": hidden(lambda h: jnp.cumsum(h, -1)),
    "cumulative maximum": hidden(lambda h: lax.cummax(h, 1)),
    "associative scan": hidden(lambda h: lax.associative_scan(jnp.add, h, axis=1)),
    "rolled": hidden(lambda h: h + jnp.roll(h, 3, -1)),
    "rolled by two": hidden(lambda h: h * jnp.roll(h, H // 2, -1)),
    "difference": hidden(lambda h: jnp.diff(h, axis=-1), b=(H - 1, 3)),
    "convolved": hidden(lambda h: jax.vmap(lambda row: jnp.convolve(row, jnp.ones(3), mode="same"))(h)),
    "windows": hidden(windows),
    "trace": case(lambda p, x: jnp.einsum("bii->b", (x @ p["a"])[:, :, None] * (x @ p["a"])[:, None]), b=(1, 1)),
    "diagonal": case(lambda p, x: jnp.diagonal(p["w"])[None] * (x @ p["a"]) @ p["b"], w=(H, H)),
    "outer product": case(
        lambda p, x: jnp.einsum("bi,bj->bij", *2 * (x @ p["a"],)).reshape(4, -1) @ p["b"], b=(256, 3)
    ),
    "triangle": case(lambda p, x: (x @ p["a"]) @ jnp.tril(p["w"]) @ p["b"], w=(H, H)),
    "identity": case(lambda p, x: (x @ p["a"]) @ (p["w"] + jnp.eye(H)) @ p["b"], w=(H, H)),
    "identity and relu": case(lambda p, x: relu((x @ p["a"]) @ (jnp.eye(H) - p["w"])) @ p["b"], w=(H, H)),
    "gather": hidden(lambda h: h[:, np.random.RandomState(0).permutation(H)]),
    "gather some": hidden(lambda h: h[:, jnp.array([3, 0, 3, 9])], b=(4, 3)),
    "gather by data": hidden(lambda h: jnp.take(h, (h[0] > 0).astype(jnp.int32), axis=1)),
    "scatter": hidden(lambda h: jnp.zeros((4, 20)).at[:, np.arange(H) + 2].set(h), b=(20, 3)),
    "scatter add": hidden(lambda h: h.at[:, :4].add(1.0)),
    "set one": hidden(lambda h: h.at[:, 3].set(2.0)),
    "set and sum": reduced(lambda h: h.at[:, 3].set(2.0).sum(-1)),
    "segments": hidden(lambda h: jax.ops.segment_sum(h.T, np.arange(H) // 4, 4).T, b=(4, 3)),
    "noise": hidden(noise),
    "noise and sum": reduced(lambda h: noise(h).sum(-1)),
    "dropout": hidden(dropout),
    "channel attention": hidden(lambda h: h @ softmax(h.T @ h)),
    "solve": hidden(lambda h: jnp.linalg.solve(h.T @ h + jnp.eye(H), h.T).T),
    "solve over rows": hidden(lambda h: jnp.linalg.solve(h @ h.T + jnp.eye(4), h)),
    "given out": case(lambda p, x: (relu(x @ p["a"]) @ p["b"], p["a"].sum(0))),
    "single unit": case(lambda p, x: relu(x @ p["a"]) @ p["b"], a=(D, 1), b=(1, 3)),
    "folded in": case(lambda p, x: (x @ p["a"]).reshape(4, 4, 4).mean(-1) @ p["b"], b=(4, 3)),
    "groups of channels": case(
        lambda p, x: (
            (lambda h: h / (1 + h.sum(-1, keepdims=True) ** 2))((x @ p["a"]).reshape(4, 4, 4)).reshape(4, H) @ p["b"]
        )
    ),
    "rounded": hidden(lambda h: jnp.round(h * 10).astype(jnp.int8).astype(jnp.float32)),
    "bits": hidden(lambda h: lax.bitcast_convert_type(lax.bitcast_convert_type(h, jnp.int32) ^ 1, jnp.float32)),
    "scan over channels": case(
        lambda p, x: lax.scan(lambda c, h: (c * 0.5 + h, c), jnp.zeros(4), (x @ p["a"]).T)[1].T @ p["b"]
    ),
    "scan sums weights": case(
        lambda p, x: x @ lax.scan(lambda c, w: (c + w, None), p["a"] * 0, p["w"])[0] @ p["b"], w=(3, D, H)
    ),
    "carry drifts": case(lambda p, x: lax.scan(lambda h, _: (h + 1, None), x @ p["a"], None, length=2)[0].sum(-1)),
    "carry turns": case(
        lambda p, x: lax.scan(lambda h, _: (h[:, ::-1] * 0.9, None), x @ p["a"], None, length=3)[0] @ p["b"]
    ),
    "max pooled channels": hidden(lambda h: h.reshape(4, 8, 2).max(-1), b=(8, 3)),
    "callback": hidden(lambda h: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((4, H), jnp.float32), h)),
}

CASES: dict[str, Case] = LEAST | EITHER
