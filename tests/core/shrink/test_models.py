"""The promise of shrink: the shrunk model is the masked one, on architectures of every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.shrink import masked, shrink, verify
from tests.core.shrink.models import MODELS

TOLERANCE = 1e-5  # relative to the largest entry: float32 sums of a few dozen products in another order


@functools.cache
def model(name):
    return MODELS[name]()


@pytest.mark.parametrize("name", MODELS)
def test_shrunk_is_masked(name):
    fn, params, inputs, kwargs, keep = model(name)
    report = verify(fn, params, keep, *inputs, tolerance=TOLERANCE, **kwargs)
    assert report.ok, report
    small = shrink(fn, params, keep)
    for (path, axis), kept in keep.items():
        leaf = functools.reduce(lambda node, key: node[key], path.split("/"), small.params)
        assert leaf.shape[axis] == len(kept)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (small.params, params)]
    assert sizes[0] < sizes[1]


QUICK = ["lenet", "residual", "separable", "lstm", "transformer"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("optimized_lstm", "gru", "llama")]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_gradient_is_the_masked_one(name):
    """On kept entries; through every custom derivative on the way."""
    fn, params, inputs, kwargs, keep = model(name)
    small = shrink(fn, params, keep)

    def loss(call):
        return lambda p: sum(jnp.sum(jnp.sin(out)) for out in jax.tree.leaves(call(p, *inputs, **kwargs)))

    def masked_loss(p):
        return loss(fn)(masked(p, keep))

    theirs = small.tree(jax.jit(jax.grad(masked_loss))(params))
    ours = jax.jit(jax.grad(loss(small.fn)))(small.params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1e-3, float(jnp.abs(b).max())))
