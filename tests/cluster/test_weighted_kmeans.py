"""Codebooks in which errors of sensitive weights count more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.cluster import kmeans
from jaxcompress.core.lift import lift
from jaxcompress.factorize import svd
from jaxcompress.prune import magnitude
from jaxcompress.quantize import fisher
from tests.zoo.model import arrays, data


def test_table_of_two_levels_by_hand():
    """Weighted means of the two clusters: (0 * 1 + 1 * 3) / 4 and (10 * 1 + 12 * 1) / 2."""
    w, importance = jnp.array([[0.0, 1.0], [10.0, 12.0]]), jnp.array([[1.0, 3.0], [1.0, 1.0]])
    shared = kmeans({"w": w}, bits=1, weights={"w": importance})["w"]
    np.testing.assert_allclose(shared.codebook, [0.75, 11.0])


def test_weighted_optimum_against_all_clusterings():
    """Exact start: no clustering into intervals has a lower weighted error (all are tried, in float64)."""
    random = np.random.RandomState(0)
    w, h = random.standard_normal(24), random.exponential(1, 24)
    leaf = kmeans(
        {"w": jnp.asarray(w.reshape(4, 6), jnp.float32)},
        levels=3,
        init="optimal",
        weights={"w": jnp.asarray(h.reshape(4, 6), jnp.float32)},
    )["w"]
    error = np.sum(h * (w - np.asarray(leaf.materialize(), np.float64).reshape(-1)) ** 2)
    order = np.argsort(w)
    x, mass = w[order], h[order]

    def cost(i, j):
        return np.sum(mass[i:j] * (x[i:j] - np.average(x[i:j], weights=mass[i:j])) ** 2)

    best = min(cost(0, i) + cost(i, j) + cost(j, 24) for i in range(1, 23) for j in range(i + 1, 24))
    assert error <= (1 + 1e-5) * best


def test_equal_weights_change_nothing_and_none_at_all_neither():
    params = arrays(w=(16, 12))
    plain = kmeans(params, bits=3)["w"].materialize()
    for importance in (2.5, 0.0):
        weighted = kmeans(params, bits=3, weights={"w": jnp.full((16, 12), importance)})["w"].materialize()
        np.testing.assert_allclose(weighted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_under_a_mask_what_is_pruned_does_not_count():
    pruned = magnitude(arrays(w=(16, 12)), sparsity=0.5)
    importance = jnp.where(pruned["w"].mask, 1.0, 1e6)
    weighted = kmeans(pruned, bits=3, weights={"w": importance})["w"].materialize()
    np.testing.assert_allclose(weighted, kmeans(pruned, bits=3)["w"].materialize(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_fisher_information_beats_plain_errors_on_the_outputs():
    """A few inputs are large (outlier features): their weights are nearly all that matters (SqueezeLLM)."""
    params, x = arrays(w=(32, 16)), data(128, 32) * jnp.where(jnp.arange(32) < 2, 10.0, 0.3)[None]

    def fn(params, x):
        return x @ params["w"]

    def loss(params, batch):
        return jnp.sum(jnp.square(fn(params, batch[0]) - batch[1]))

    noisy = (x, fn(params, x) + data(128, 16, seed=7))
    importance = fisher(loss, params, [noisy], chunk=32)
    error = {}
    for name, weights in {"plain": None, "fisher": importance}.items():
        shared = kmeans(params, bits=4, weights=weights)
        error[name] = float(jnp.linalg.norm(lift(fn)(shared, x) - fn(params, x)))
    assert error["fisher"] < 0.7 * error["plain"]


def test_runs_under_jit():
    params, importance = arrays(w=(16, 12)), {"w": jnp.abs(arrays(seed=1, w=(16, 12))["w"])}
    jitted = jax.jit(lambda p, h: kmeans(p, bits=2, weights=h)["w"].materialize())(params, importance)
    np.testing.assert_allclose(jitted, kmeans(params, bits=2, weights=importance)["w"].materialize(), rtol=1e-5)


def test_what_is_missing_is_named():
    params = arrays(w=(16, 12), v=(16, 12))
    with pytest.raises(ValueError, match="nothing for 'v'"):
        kmeans(params, bits=2, weights={"w": jnp.ones((16, 12))})
    with pytest.raises(ValueError, match=r"shape \(12, 16\) for 'w'"):
        kmeans(params, bits=2, weights={"w": jnp.ones((12, 16))}, where="w")
    with pytest.raises(ValueError, match="negative"):
        kmeans(params, bits=2, weights={"w": -jnp.ones((16, 12))}, where="w")
    with pytest.raises(ValueError, match="w/u"):
        kmeans(svd({"w": params["w"]}, rank=2), bits=2, weights={"w": jnp.ones((16, 12))})
