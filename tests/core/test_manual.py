"""`shard_map`: fields are split along the axes that their dense axes are split along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Thin, floats_of_shape, served

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16)), jnp.float32)
PARAMS = {"w": Thin.random(0, 16, 24)}


def mesh(*sizes):
    names = ("a", "b")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def mapped(body, specs, out, *sizes, **options):
    shard_map = jax.shard_map(body, mesh=mesh(*(sizes or (8,))), in_specs=specs, out_specs=out, **options)
    return lambda params, x: shard_map(params["w"], x)


CASES = {
    "batch": mapped(lambda w, x: x @ w, (P(), P("a")), P("a")),
    "batch_unchecked": mapped(lambda w, x: x @ w, (P(), P("a")), P("a"), check_vma=False),
    "columns": mapped(lambda w, x: x @ w, (P(None, "a"), P()), P(None, "a")),
    "rows": mapped(lambda w, x: lax.psum(x @ w, "a"), (P("a"), P(None, "a")), P()),
    "two_axes": mapped(lambda w, x: lax.psum(x @ w, "b"), (P("b", None), P("a", "b")), P("a"), 2, 4),
    "joined_axes": mapped(lambda w, x: x @ w, (P(None, ("a", "b")), P()), P(None, ("a", "b")), 2, 4),
    "partly_manual": mapped(lambda w, x: x @ w, (P(), P("a")), P("a"), 2, 4, axis_names={"a"}),
    "loop_inside": mapped(
        lambda w, x: lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ w @ w.T * jnp.float32(0.01)), x),
        (P(), P("a")),
        P("a"),
    ),
    "gathered": mapped(
        lambda w, x: lax.all_gather(x @ w, "a", axis=1, tiled=True),
        (P(None, "a"), P()),
        P(),
        check_vma=False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_leaves_enter_split(name):
    fn = CASES[name]
    assert served(fn, PARAMS, X), explain(fn, PARAMS, X)
    assert floats_of_shape(lift(fn), (16, 24), PARAMS, X) == 0
    ours, theirs = jax.jit(lift(fn))(PARAMS, X), jax.jit(fn)(materialize(PARAMS), X)
    assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_groups_are_not_split_apart_from_their_scales():
    """Four groups of four rows on eight devices: a device would find the scale of other rows."""
    params = {"w": Grouped.of(jnp.asarray(X.T @ X, jnp.float32), 4)}
    for name in ("rows", "columns"):
        fn = CASES[name]
        np.testing.assert_allclose(
            jax.jit(lift(fn))(params, X), jax.jit(fn)(materialize(params), X), rtol=1e-4, atol=1e-2
        )  # entries of order 1e3
    assert "cannot be split" in explain(CASES["rows"], params, X)[0].how
    assert "cannot be split" not in explain(CASES["columns"], params, X)[0].how


def test_gradients():
    fn = CASES["rows"]
    ours = jax.jit(jax.grad(lambda p, x: jnp.sum(lift(fn)(p, x) ** 2)))(PARAMS, X)
    theirs = jax.jit(jax.grad(lambda p, x: jnp.sum(fn(materialize(p), x) ** 2)))(PARAMS, X)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2)  # entries of order 1e3


def test_varying_axes_are_still_checked():
    """A result that differs between devices must not pass for a replicated one."""
    wrong = mapped(lambda w, x: x @ w, (P("a"), P(None, "a")), P())
    with pytest.raises(ValueError, match="out_specs"):
        lift(wrong)(PARAMS, X)


def test_a_leaf_that_leaves_the_region():
    fn = mapped(lambda w, x: (w * 2, x), (P(None, "a"), P()), (P(None, "a"), P()))
    (line,) = explain(fn, PARAMS, X)
    assert not line.served
    np.testing.assert_allclose(lift(fn)(PARAMS, X)[0], 2 * PARAMS["w"].materialize(), rtol=1e-5)
