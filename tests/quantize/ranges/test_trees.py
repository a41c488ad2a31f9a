"""Ranges where trees are quantized: masked leaves, stacks, real calls of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import prune, quantize
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize
from jaxcompress.quantize.ranges import KMeans, Percentile

RNG = np.random.default_rng(0)
STACK = jnp.asarray(RNG.standard_t(4, (3, 32, 32)) * np.array([0.2, 0.1, 0.3])[:, None, None], jnp.float32)
X = jnp.asarray(RNG.standard_normal((64, 32)), jnp.float32)


def scanned(params, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]


def test_ranking_on_the_outputs_of_a_scanned_model():
    """Clipped grids beat whole ones, fitted tables beat clipped grids: on what the model computes."""
    params, found = {"w": STACK}, sites(scanned, {"w": STACK}, X)
    exact, off = scanned(params, X), {}
    for name, options in {
        "absmax": {},
        "mse": {"ranges": "mse"},
        "kmeans": {"format": "levels", "ranges": "kmeans"},
    }.items():
        packed = quantize.rtn(params, bits=3, sites=found, **options)
        off[name] = float(jnp.linalg.norm(scanned(materialize(packed), X) - exact))
    assert off["kmeans"] < 0.95 * off["mse"] < 0.9 * off["absmax"]


@pytest.mark.parametrize("ranges", [Percentile(99.0), KMeans(iterations=10)])
def test_masked_leaves_keep_their_zeros_in_tables(ranges):
    pruned = prune.magnitude({"w": STACK[0]}, sparsity=0.6)
    packed = quantize.rtn(pruned, bits=3, format="levels", ranges=ranges)
    dropped = np.asarray(materialize(pruned)["w"]) == 0
    assert (np.asarray(materialize(packed)["w"])[dropped] == 0).all()
    assert (packed["w"].values.table == 0).any(-1).all()


@pytest.mark.parametrize("ranges", ["moving_average", "entropy"])
def test_static_activations_by_every_range(ranges):
    """Eight bits of activations hardly change the model, whichever way their ranges were found."""
    params = {"w": STACK}
    format = quantize.format_of("int", 8, False)
    stats = observe(scanned, params, [X[:32], X[32:]], what=quantize.required_statistics(ranges, format))
    weights = quantize.rtn(params, bits=8, sites=sites(scanned, params, X))
    packed = quantize.activations(weights, stats, bits=8, symmetric=False, ranges=ranges)
    exact = scanned(params, X)
    found = jax.jit(lift(scanned))(packed, X)
    assert float(jnp.linalg.norm(found - exact)) < 0.05 * float(jnp.linalg.norm(exact))
