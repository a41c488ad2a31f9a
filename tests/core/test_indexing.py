"""Slices and lookups: only what is used leaves the compressed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Digits, Grouped, Probe, Thin, floats_of_shape, served

TABLE = {"t": Thin.random(0, 30, 8)}
CUBE = {"t": Probe.of(jnp.arange(5 * 6 * 7, dtype=jnp.float32).reshape(5, 6, 7))}
IDS = jnp.array([[3, 29, 0], [7, 7, 1]])


def same(fn, params, *inputs):
    for ours, theirs in zip(
        jax.tree.leaves(lift(fn)(params, *inputs)), jax.tree.leaves(fn(materialize(params), *inputs)), strict=True
    ):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


LOOKUPS = {
    "brackets": lambda t, i: t[i],
    "take": lambda t, i: jnp.take(t, i, axis=0),
    "take_clip": lambda t, i: jnp.take(t, i * 20 - 5, axis=0, mode="clip"),
    "take_fill": lambda t, i: jnp.take(t, i * 20 - 5, axis=0, mode="fill", fill_value=7.0),
    "take_wrap": lambda t, i: jnp.take(t, i * 20 - 5, axis=0, mode="wrap"),
    "negative": lambda t, i: t[-i],
    "at_get": lambda t, i: t.at[i].get(mode="fill", fill_value=0.0),
    "columns": lambda t, i: jnp.take(t, i % 8, axis=1),
    "transposed": lambda t, i: t.T[:, i],
    "vmapped": lambda t, i: jax.vmap(jax.vmap(lambda j: t[j]))(i),
    "one": lambda t, i: t[i[0, 0]],
    "scaled": lambda t, i: (t * jnp.float32(3))[i],
    "then_attend": lambda t, i: t[i] @ t.T,
    "small_integers": lambda t, i: t[i.astype(jnp.uint8)],
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_only_the_rows_taken_are_decoded(name):
    function = LOOKUPS[name]
    fn = lambda params, i: function(params["t"], i)  # noqa: E731
    same(fn, TABLE, IDS)
    for shape in ((30, 8), (8, 30)):
        assert floats_of_shape(lift(fn), shape, TABLE, IDS) == 0
    if name != "one":  # a single row is a slice, and as a result it is dense
        assert served(fn, TABLE, IDS), explain(fn, TABLE, IDS)


@pytest.mark.parametrize("name", LOOKUPS)
def test_rows_that_no_slice_gives_are_decoded_alone(name):
    function = LOOKUPS[name]
    fn = lambda params, i: function(params["t"], i)  # noqa: E731
    draw = np.random.default_rng(1).standard_normal
    params = {"t": Digits(*(jnp.asarray(draw(shape), jnp.float32) for shape in ((6, 8), (5, 8), (8,))))}
    same(fn, params, IDS)
    if name not in ("then_attend", "one"):  # the table as a whole; a row by a scalar index is a slice
        assert floats_of_shape(lift(fn), (30, 8), params, IDS) == 0
        assert served(fn, params, IDS), explain(fn, params, IDS)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32"])
@pytest.mark.parametrize("mode", ["fill", "clip"])
def test_indices_narrower_than_the_table(dtype, mode):
    """300 does not fit 8 bits: bounds have to be compared in a wider type."""
    params = {"t": Probe.of(jnp.arange(600.0).reshape(300, 2))}
    numbers = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
    fn = lambda p, i: lax.gather(p["t"], i, numbers, (1, 2), mode=mode)  # noqa: E731
    same(fn, params, jnp.array([[1], [127]], dtype))


def test_gradient_of_a_lookup():
    fn = lambda params, i: jnp.sum(params["t"][i] ** 2)  # noqa: E731
    ours = jax.grad(lift(fn))(TABLE, IDS)["t"]
    theirs = jax.grad(lambda p, i: fn(materialize(p), i))(TABLE, IDS)["t"]
    np.testing.assert_allclose(ours.u, theirs.u, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.v, theirs.v, rtol=1e-4, atol=1e-4)


INDEXING = {
    "static": lambda t, i: t[1:4, ::2, -1],
    "ellipsis": lambda t, i: t[..., 3][None],
    "reversed": lambda t, i: t[::-1, 1:],
    "rev_step": lambda t, i: t[:, ::-2],
    "dynamic": lambda t, i: lax.dynamic_slice(t, (i, i + 1, 0), (2, 3, 7)),
    "clamped": lambda t, i: lax.dynamic_slice(t, (i + 90, -i - 90, 0), (2, 3, 7)),
    "in_dim": lambda t, i: lax.dynamic_index_in_dim(t, i, 1, keepdims=False),
    "split": lambda t, i: jnp.split(t, [2, 3], axis=2),
    "unstacked": lambda t, i: list(t),
    "pair": lambda t, i: t[jnp.array([0, 2]), jnp.array([1, 3])],
    "mixed": lambda t, i: t[jnp.array([0, 2]), 1:3, jnp.array([1, 3])],
    "mask": lambda t, i: jnp.where(t > 5, t, 0),
    "along_axis": lambda t, i: jnp.take_along_axis(t, jnp.argsort(t, axis=1), axis=1),
    "empty": lambda t, i: t[:, 3:3],
    "padded": lambda t, i: jnp.pad(t, 1)[i],
    "rolled": lambda t, i: jnp.roll(t, 2, axis=0) + jnp.flip(t, (0, 2)),
    "reshaped": lambda t, i: t.reshape(5, 2, 3, 7)[:, 1, ::2],
    "merged": lambda t, i: t.reshape(30, 7)[i : i + 9] if isinstance(i, int) else t.reshape(30, 7)[3:9],
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing_is_the_dense_indexing(name):
    same(lambda params, i: INDEXING[name](params["t"], i), CUBE, jnp.int32(1))


def test_split_parts_of_fused_weights():
    fn = lambda p, x: [x @ part for part in jnp.split(p["t"], [2, 5], axis=1)]  # noqa: E731
    assert served(fn, TABLE, jnp.ones((2, 30)))
    same(fn, TABLE, jnp.ones((2, 30)))


def test_picked_experts_go_on_compressed():
    """The matrices of the experts taken stay leaves until the product that uses them."""

    def fn(p, x):
        return jnp.einsum("bi,bio->bo", x, p["e"][jnp.argmax(x[:, :3], axis=1)])

    params, x = {"e": Probe.of(jnp.arange(60.0).reshape(3, 5, 4))}, jnp.sin(jnp.arange(20.0).reshape(4, 5))
    assert served(fn, params, x), explain(fn, params, x)
    same(fn, params, x)


def test_groups_are_not_cut():
    """Rows in groups of two: a slice of one row materializes, a slice of columns does not."""
    params = {"w": Grouped.of(jnp.arange(24.0).reshape(8, 3), 4)}
    for fn in (lambda p: p["w"][1:2], lambda p: p["w"][:, 1:], lambda p: p["w"][jnp.array([0, 5])]):
        same(fn, params)
    assert "no compressed way" in explain(lambda p: p["w"][1:2], params)[0].how


starts = st.integers(-3, 8)


@settings(max_examples=8)
@given(st.tuples(starts, starts, starts), st.tuples(*(st.integers(1, n) for n in (5, 6, 7))))
def test_dynamic_slices_clamp_as_xla_does(start, sizes):
    fn = lambda p, s: lax.dynamic_slice(p["t"], s, sizes)  # noqa: E731
    ours = lift(fn)(CUBE, tuple(map(jnp.int32, start)))
    dense = np.asarray(CUBE["t"].materialize())
    at = [min(max(s if s >= 0 else s + n, 0), n - size) for s, n, size in zip(start, dense.shape, sizes, strict=True)]
    np.testing.assert_array_equal(ours, dense[tuple(slice(a, a + n) for a, n in zip(at, sizes, strict=True))])
