"""One rule per primitive: either the kept entries of the dense result, or an error that says where and why."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.shrink import masked, shrink, verify
from jaxcompress.core.shrink.verify import output_cuts
from tests.zoo.model import data

X = jnp.round(data(3, 4) * 4) / 4  # products of these have no rounding: results agree to the bit
PARAMS = {"w": jnp.round(data(4, 12, seed=2) * 4) / 4}
KEPT = [0, 1, 4, 5, 8, 9]  # in (3, 4): columns 0 and 1; in (6, 2): rows 0, 2, 4
KEEP = {("w", 1): KEPT}
B = jnp.arange(12, dtype=jnp.float32)
I = jnp.array([[1], [0]])  # noqa: E741


def convolve(h, kernel, **options):
    return lax.conv_general_dilated(
        h[:, None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), **options
    )  # fmt: skip


def window(h, init, op, **options):
    return lax.reduce_window(h[:, None], init, op, (1, 2, 1), (1, 1, 1), "SAME", **options)


def switch(h):
    branches = [lambda h: (h, jnp.zeros_like(h)), lambda h: (jnp.zeros_like(h), h * 2)]
    return lax.switch((h.sum() > 0).astype(jnp.int32), branches, h)


def loops(h):
    def body(state):
        i, total, fresh = state
        return i + 1, total + h, fresh + jnp.float32(1)

    return lax.while_loop(lambda s: (s[0] < 3) & (s[1].sum() < 100), body, (0, jnp.zeros_like(h), jnp.float32(0)))


def nested_scans(h):
    def inner(carry, x):
        return carry + x, carry.sum()

    def outer(carry, x):
        (total, fresh), _ = carry
        fresh, sums = lax.scan(inner, fresh, jnp.stack([x, x * 2]))
        return ((total + fresh, jnp.zeros_like(fresh)), total), (sums, x)

    zeros = jnp.zeros((12,), jnp.float32)
    return lax.scan(outer, ((zeros, zeros), zeros), h, reverse=True)


@jax.custom_vjp
def straight_through(x, levels):
    return jnp.round(x * levels.astype(x.dtype)) / levels.astype(x.dtype)


straight_through.defvjp(
    lambda x, levels: (straight_through(x, levels), jnp.abs(x) < 1), lambda inside, g: (jnp.where(inside, g, 0), None)
)


@jax.custom_jvp
def odd_slope(x, y, n):
    return x * y * n.astype(x.dtype), n + 1


@odd_slope.defjvp
def odd_slope_jvp(primals, tangents):
    x, y, n = primals
    out, count = odd_slope(x, y, n)
    return (out, count), (7 * tangents[0] + 3 * y * tangents[1], np.zeros(count.shape, jax.dtypes.float0))


FAMILIES = {
    "elementwise": {
    "constants": lambda h: h * B[None] + jnp.ones_like(h) - lax.iota(jnp.float32, 12)[None],
    "size_one": lambda h: h * h.sum(1, keepdims=True) + h[:1],
    "where": lambda h: (jnp.where(h > 0, h, 0.0), jnp.where(h.sum() > 0, h, B[None]), jnp.clip(h, -1, 1)),
    "dropout": lambda h: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h / 0.5, 0),
    "casts": lambda h: h.astype(jnp.bfloat16).astype(jnp.int32) + lax.bitcast_convert_type(h, jnp.int32),
    "bits": lambda h: lax.bitcast_convert_type(h, jnp.uint8),
    "barrier": lambda h: lax.optimization_barrier((h, X))[0] + lax.stop_gradient(h),
    "complex": lambda h: jnp.abs(lax.complex(h, h * B[None])),
    },
    "structural": {
    "transpose": lambda h: jnp.swapaxes(h[:, None], 0, 2),
    "split_axis": lambda h: h.reshape(3, 3, 4),
    "split_axis_inner": lambda h: h.reshape(3, 6, 2).sum(1),
    "merge": lambda h: h.reshape(3, 3, 4).transpose(0, 2, 1).reshape(12, 3).reshape(3, 12),
    "flatten": lambda h: h.reshape(-1),
    "ones": lambda h: h[:, None, :, None].reshape(1, 3, 12, 1).squeeze(3),
    "shuffle": lambda h: h.reshape(3, 3, 4).transpose(0, 2, 1).reshape(3, 12),
    "expand": lambda h: jnp.broadcast_to(h[:, None, :, None], (3, 2, 12, 5)),
    "broadcast_constant": lambda h: jnp.broadcast_to(jnp.float32(2), (3, 12)) * h + jnp.broadcast_to(X[:, :1], (3, 12)),
    "flip": lambda h: jnp.flip(h, 1),
    "flip_other": lambda h: h + jnp.flip(h, 0),
    "slices": lambda h: (h[:, 2:9], h[1:, ::4], h[:, 1::3], h[:, 2:4], h[:, 4:5] * B[None, :3], h[:, 5]),
    "strided_everything": lambda h: h[:, 1::4],
    },
    "joining": {
    "concatenate": lambda h: jnp.concatenate([X, h, jnp.zeros((3, 2), h.dtype)], 1),
    "concatenate_other": lambda h: jnp.concatenate([h, jnp.ones((2, 12), h.dtype)], 0),
    "stack": lambda h: jnp.stack([h, jnp.ones_like(h)], 1),
    "unstack": lambda h: sum(lax.index_in_dim(h, i, 0, keepdims=False) for i in range(3)) + jnp.unstack(h)[0],
    "split": lambda h: (*jnp.split(h, 3, axis=1), *jnp.split(h, [1], axis=0)),
    "tile": lambda h: (jnp.tile(h, (2, 3)), jnp.repeat(h, 2, axis=0), jnp.tile(h, (2, 1, 1))),
    "roll": lambda h: jnp.roll(h, 5, 1),
    "pad": lambda h: (jnp.pad(h, ((0, 0), (2, 1))), jnp.pad(h, ((1, 1), (0, 0)), mode="reflect")),
    "pad_negative": lambda h: lax.pad(h, jnp.float32(3), ((0, 1, 2), (-3, 2, 0))),
    },
    "reductions": {
    "sums": lambda h: (h.sum(), h.mean(1), (h**2).sum(0), jnp.any(h > 1, 0), h.min(0), h.max(0), jnp.prod(h, 0)),
    "norm": lambda h: h * lax.rsqrt((h**2).mean(1, keepdims=True) + 1e-6),
    "arg": lambda h: (jnp.argmax(h, 0), jnp.argmin(h, 0)),
    "cumulative": lambda h: (jnp.cumsum(h, 0), lax.cummax(h, 0), lax.cumlogsumexp(h, 0)),
    "sort_other": lambda h: (jnp.sort(h, 0), jnp.argsort(h, 0), lax.top_k(h.T, 2)[0]),
    "fft_other": lambda h: jnp.abs(jnp.fft.rfft(h.T)),
    "reduce_generic": lambda h: lax.reduce((h, h * 2), (0.0, 1.0), lambda a, b: (a[0] + b[0], a[1] * b[1]), (0,)),
    "pooling": lambda h: (window(h, 0.0, lax.add), window(h, -jnp.inf, lax.max)),
    "pooling_generic": lambda h: window(h, 1.0, lax.mul),
    "pooling_derivative": jax.grad(lambda h: (window(jnp.sin(h), -jnp.inf, lax.max) ** 2).sum()),
    },
    "contraction": {
    "dot": lambda h: (h @ B[:, None], jnp.einsum("bi,bj->bij", h, X), jnp.einsum("bi,bi->b", h, h)),
    "dot_batch": lambda h: jnp.einsum("bi,ij->ib", h, jnp.ones((12, 5))) @ X,
    "convolution": lambda h: convolve(h, data(3, 12, 5)),
    "convolution_batch": lambda h: convolve(h.T.reshape(12, 3), data(3, 3, 5)),
    "convolution_kernel": lambda h: lax.conv_general_dilated(
        data(2, 5, 3), h[:, None], (1,), "SAME", dimension_numbers=("NWC", "IWO", "NWC")
    ),
    "depthwise": lambda h: convolve(h, data(3, 1, 12), feature_group_count=12),
    "depthwise_multiplied": lambda h: convolve(h, data(3, 1, 24), feature_group_count=12),
    "grouped_alike": lambda h: convolve(h, data(3, 4, 9), feature_group_count=3),
    "ragged": lambda h: lax.ragged_dot(h, data(2, 12, 5), jnp.array([2, 1])),
    },
    "indexing": {
    "rows": lambda h: (h[I[:, 0]], jnp.take(h, I, axis=0), h[jnp.array([2, 9])]),
    "rows_along": lambda h: jnp.take_along_axis(h, jnp.broadcast_to(I, (2, 12)), axis=0),
    "dynamic": lambda h: (lax.dynamic_slice_in_dim(h, I[0, 0], 2, 0), lax.dynamic_index_in_dim(h, I[0, 0])),
    "dynamic_mapped": lambda h: jax.vmap(lambda i: lax.dynamic_slice_in_dim(h, i, 2, 0))(I[:, 0]),
    "update": lambda h: lax.dynamic_update_slice_in_dim(jnp.zeros((5, 12)), h, I[0, 0], 0),
    "scatter": lambda h: (jnp.ones((5, 12)).at[I[:, 0]].add(h[:2]), h.at[I[0, 0]].set(1.0), h.at[I].max(0.5)),
    "scatter_along": lambda h: jax.vmap(lambda a, i: a.at[i].add(1.0), (1, None))(h, I[:, 0]),
    },
    "control": {
    "jit": lambda h: jax.jit(lambda a, b: (a + b, b))(h, B[None]),
    "switch": switch,
    "while": loops,
    "scans": nested_scans,
    "scanned_axis": lambda h: lax.scan(lambda c, x: (c + x[0].sum(), x[0] * x[1]), jnp.float32(0), (h.T, B)),
    "map": lambda h: lax.map(lambda row: jnp.tanh(row) * B, h),
    "associative": lambda h: lax.associative_scan(jnp.add, h),
    "remat": jax.checkpoint(lambda h: jnp.sin(h) @ B[:, None], policy=jax.checkpoint_policies.dots_saveable),
    "platforms": lambda h: lax.platform_dependent(h, cpu=lambda h: h * 2, default=lambda h: h * 3),
    "custom": lambda h: (straight_through(h, jnp.int32(4)), odd_slope(h, B[None], jnp.int32(2))),
    "softplus": lambda h: jax.nn.logsumexp(jnp.stack([h, jnp.zeros_like(h)]), 0) + jax.nn.relu(h) + jax.nn.gelu(h),
    },
}  # fmt: skip
OPERATIONS = {name: operation for family in FAMILIES.values() for name, operation in family.items()}
GRADIENTS = {"while_for": lambda h: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c + h) * B[None], jnp.zeros_like(h))}


def function(operation):
    return lambda params, x: operation(x @ params["w"])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_what_the_dense_function_gives(family):
    report = verify(
        lambda params, x: {name: operation(x @ params["w"]) for name, operation in FAMILIES[family].items()},
        PARAMS,
        KEEP,
        X,
    )
    assert report.ok, report


@pytest.mark.parametrize("name", ["where", "pooling", "grouped_alike", "scans", "while_for", "custom", "softplus"])
def test_gradient_is_the_masked_one(name):
    """On kept entries, whatever comes back into the kept entries of the results."""
    fn = function(GRADIENTS.get(name) or OPERATIONS[name])
    small = shrink(fn, PARAMS, KEEP)
    cuts = output_cuts(fn, PARAMS, KEEP, X)

    def masked_fn(p, x):
        return [cut(out) for cut, out in zip(cuts, jax.tree.leaves(fn(masked(p, KEEP), x)), strict=True)]

    def loss(call):
        return lambda p: sum(jnp.sum(jnp.sin(o)) for o in jax.tree.leaves(call(p, X)) if o.dtype == jnp.float32)

    theirs = small.tree(jax.jit(jax.grad(loss(masked_fn)))(PARAMS))
    ours = jax.jit(jax.grad(loss(small.fn)))(small.params)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs["w"]).max()))


def test_further_derivatives_are_the_author_s():
    """Forward mode, and reverse over reverse, through rules that disagree with what they are rules of."""
    fn = function(lambda h: odd_slope(h, B[None], jnp.int32(2))[0] + jax.nn.relu(h))
    small = shrink(fn, PARAMS, KEEP)

    def energy(call):
        return lambda p: jnp.sum(jax.grad(lambda p: jnp.sum(jnp.sin(call(p, X))))(p)["w"] ** 2)

    cut = output_cuts(fn, PARAMS, KEEP, X)[0]
    theirs = small.tree(jax.jit(jax.grad(energy(lambda p, x: cut(fn(masked(p, KEEP), x)))))(PARAMS))
    ours = jax.jit(jax.grad(energy(small.fn)))(small.params)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs["w"]).max()))
    tangent = {"w": jnp.ones((4, 6))}
    forward = jax.jit(lambda p, t: jax.jvp(lambda p: small.fn(p, X), (p,), (t,)))(small.params, tangent)[1]
    along = (masked(PARAMS, KEEP), small.expand(tangent))
    expected = jax.jit(lambda p, t: jax.jvp(lambda p: cut(fn(p, X)), (p,), (t,)))(*along)[1]
    np.testing.assert_allclose(forward, expected, rtol=1e-5)


def test_feature_groups_without_inputs_give_zeros():
    """All inputs of every feature group are gone, its outputs stay: they are zero, not fewer."""
    params = PARAMS | {"k": data(3, 4, 9, seed=3)}

    def fn(params, x):
        return convolve(x @ params["w"], params["k"], feature_group_count=3)

    report = verify(fn, params, {("w", 1): [], ("k", 1): []}, X)
    assert report.ok, report
    assert [out.shape for out in report.outputs] == [(3, 1, 9)]
