import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from jaxcompress.solvers.vector_kmeans import vector_kmeans

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 6)
LUMPS = (RNG.normal(size=(12, 4))[RNG.integers(0, 12, 600)] * 3 + RNG.normal(size=(600, 4))).astype(np.float32)
NOISE = RNG.normal(size=(600, 4)).astype(np.float32)
METRICS = np.einsum("pdi,pei->pde", *[RNG.normal(size=(3, 4, 8)) * np.geomspace(3, 0.3, 4)[:, None]] * 2)


@functools.partial(jax.jit, static_argnames="levels")
def starts(x, weights=None, metric=None, levels=8, iterations=200):
    """From six keys, side by side."""
    one = lambda key: vector_kmeans(  # noqa: E731
        x, levels=levels, key=key, weights=weights, metric=metric, iterations=iterations, tolerance=0.0
    )
    return jax.vmap(one)(KEYS)


def solve(*args, **options):
    """The best of them."""
    found = starts(*(None if arg is None else jnp.asarray(arg, jnp.float32) for arg in args), **options)
    return jax.tree.map(lambda field: np.asarray(field[int(jnp.argmin(found.error))]), found)


def error(x, found, metric=None, counts=1.0):
    """The sum of squared distances of the vectors to their centroids, in float64."""
    offset = (np.asarray(x, np.float64) - found.codebook.astype(np.float64)[found.codes]) * counts
    return np.sum(offset**2) if metric is None else np.einsum("pnd,pde,pne->", offset, metric, offset)


@pytest.mark.parametrize("x", [LUMPS, NOISE], ids=["lumps", "noise"])
def test_inertia_against_scikit_learn(x):
    found = solve(x)
    theirs = KMeans(8, n_init=10, random_state=0).fit(x.astype(np.float64)).inertia_
    assert error(x, found) <= 1.02 * theirs  # best of six starts against best of ten
    np.testing.assert_allclose(found.error, error(x, found), rtol=1e-5)
    again = KMeans(8, init=found.codebook.astype(np.float64), n_init=1).fit(x.astype(np.float64))
    np.testing.assert_allclose(found.codebook, again.cluster_centers_, atol=1e-4)  # a fixed point of theirs
    np.testing.assert_array_equal(found.codes, again.labels_)


@pytest.mark.slow
def test_metric_is_k_means_of_the_vectors_it_makes():
    """With one metric L L^T everywhere the problem is plain k-means of v L: scikit-learn solves that one."""
    x, metric = LUMPS.reshape(3, 200, 4), np.repeat(METRICS[:1], 3, axis=0)
    found = solve(x, None, metric)
    theirs = KMeans(8, n_init=10, random_state=0).fit(LUMPS.astype(np.float64) @ np.linalg.cholesky(METRICS[0]))
    assert error(x, found, metric) <= 1.02 * theirs.inertia_
    np.testing.assert_allclose(found.error, error(x, found, metric), rtol=1e-4)


def test_every_step_is_the_best_one_for_metrics_that_differ():
    """Codes are nearest, centroids solve the normal equations of their cluster, in float64."""
    x = LUMPS.reshape(3, 200, 4)
    found = solve(x, None, METRICS)
    table, codes = found.codebook.astype(np.float64), found.codes
    offsets = x[:, :, None] - table
    distances = np.einsum("pnkd,pde,pnke->pnk", offsets, METRICS, offsets)
    chosen = np.take_along_axis(distances, codes[..., None], 2)[..., 0]
    assert (chosen <= distances.min(2) + 1e-5 * distances.mean()).all()
    for k in range(8):
        left = sum(np.sum(codes[p] == k) * METRICS[p] for p in range(3))
        right = sum(METRICS[p] @ x[p][codes[p] == k].astype(np.float64).sum(0) for p in range(3))
        off = table[k] - np.linalg.solve(left, right)
        assert off @ left @ off <= 1e-5 * chosen.sum()
    assert error(x, found, METRICS) < 0.95 * error(x, solve(x, None, np.repeat(np.eye(4)[None], 3, 0)), METRICS)


def test_entries_that_do_not_count_have_no_say():
    counts = RNG.random((600, 4)) < 0.6
    spoiled = np.where(counts, LUMPS, 1e3)
    found = solve(spoiled, counts)
    np.testing.assert_allclose(found.error, error(LUMPS, found, counts=counts), rtol=1e-4)
    for k in range(8):
        held = counts[found.codes == k]
        means = (LUMPS * counts)[found.codes == k].sum(0) / np.maximum(held.sum(0), 1)
        np.testing.assert_allclose(found.codebook[k][held.any(0)], means[held.any(0)], atol=1e-3)


@pytest.mark.slow
def test_metric_over_the_entries_that_count():
    counts = (RNG.random((600, 4)) < 0.6).reshape(3, 200, 4)
    x = LUMPS.reshape(3, 200, 4)
    found = solve(np.where(counts, x, 1e3), counts, METRICS)
    np.testing.assert_allclose(found.error, error(x, found, METRICS, counts), rtol=1e-3)
    assert found.error < 0.9 * error(x, solve(x, None, METRICS), METRICS, counts)


def test_few_distinct_vectors_are_met_and_more_levels_go_unused():
    few = np.array([[0, 0, 1, 1], [5, 1, 0, 0], [9, 9, 2, 3], [-4, 2, 7, 7], [1, 7, 7, 1]], np.float32)
    x = np.repeat(few, [1, 3, 593, 2, 1], axis=0)
    found = starts(jnp.asarray(x))
    assert np.isfinite(found.codebook).all()
    for codebook, codes in zip(np.asarray(found.codebook), np.asarray(found.codes), strict=True):  # from every start
        np.testing.assert_allclose(codebook[codes], x, atol=1e-4)


def test_chunks_are_the_whole(monkeypatch):
    monkeypatch.setattr("jaxcompress.solvers.vector_kmeans._CHUNK", 130)  # 600 vectors in five chunks of 120
    found = jax.jit(functools.partial(vector_kmeans, levels=8, key=KEYS[0]))(LUMPS[:590])
    np.testing.assert_allclose(found.error, error(LUMPS[:590], jax.tree.map(np.asarray, found)), rtol=1e-5)
    assert found.error < 1.3 * solve(LUMPS).error  # one start


def test_another_number_of_iterations_does_not_compile_again(compilations):
    rough, fine = (solve(NOISE[::-1], iterations=n) for n in (1, 50))
    assert compilations("starts") <= 1
    assert fine.error <= rough.error


def test_what_does_not_fit_is_named():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="levels must be 1 or more, got 0"):
        vector_kmeans(x, levels=0, key=KEYS[0])
    with pytest.raises(ValueError, match=r"got the shape \(4,\)"):
        vector_kmeans(x[:, 0], levels=1, key=KEYS[0])
    with pytest.raises(ValueError, match=r"weights must have the shape of x, \(4, 2\), got \(4,\)"):
        vector_kmeans(x, levels=1, key=KEYS[0], weights=jnp.ones(4))
    with pytest.raises(ValueError, match=r"metric must have the shape \(2, 2\)"):
        vector_kmeans(x, levels=1, key=KEYS[0], metric=jnp.ones((3, 3)))
