import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from jaxcompress.solvers.intervals import best_intervals
from jaxcompress.solvers.scalar_kmeans import initial_centroids, nearest, scalar_kmeans

INITS = ("linear", "density", "quantile", "optimal")


def inertia(x, codebook):
    x, codebook = np.asarray(x, np.float64).reshape(-1), np.asarray(codebook, np.float64)
    return np.sum(np.min(np.square(x[:, None] - codebook), axis=1))


def samples(name, size=1500):
    rng = np.random.default_rng(0)
    draws = {
        "normal": lambda: rng.normal(size=size),
        "laplace": lambda: rng.laplace(size=size),
        "integers": lambda: rng.integers(0, 40, size=size),
        "two lumps": lambda: np.concatenate([rng.normal(size=size // 2) - 4, 0.1 * rng.normal(size=size // 2)]),
    }
    return draws[name]().astype(np.float32)


@pytest.mark.parametrize("name", ["normal", "laplace", "integers", "two lumps"])
@pytest.mark.parametrize(("init", "levels", "slack"), [("optimal", 8, 0.01), ("optimal", 32, 0.01), ("linear", 8, 0.1)])
def test_inertia_against_the_best_of_ten_of_scikit_learn(name, init, levels, slack):
    x = samples(name)
    theirs = KMeans(levels, n_init=10, random_state=0).fit(x[:, None].astype(np.float64)).inertia_
    ours = solve(x, levels=levels, init=init)
    # "optimal" is at most 1 % worse (it is better, mostly); the other starts end in local optima of Lloyd's iteration.
    assert inertia(x, ours.codebook) <= (1 + slack) * theirs
    assert len(np.unique(np.asarray(ours.codes))) == levels


solve = jax.jit(scalar_kmeans, static_argnames=("levels", "init"))


def test_initial_centroids_of_han_by_hand():
    x = jnp.array([0.0, 8.0, 1.0, 2.0, 3.0, 4.0])
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    start = {init: initial_centroids(x, weights, levels=3, init=init).tolist() for init in INITS[:3]}
    # Kept: 0 1 2 3 8. Cumulative weights 1 to 5: density asks for 0, 2.5 and 5, quantile for 5/6, 2.5 and 25/6.
    assert start == {"linear": [0.0, 4.0, 8.0], "density": [0.0, 2.0, 8.0], "quantile": [0.0, 2.0, 8.0]}


def test_a_fixed_point_of_lloyd_in_float64():
    x = samples("normal")
    codebook, codes = (np.asarray(part) for part in solve(x, levels=5, iterations=300))
    assert (np.diff(codebook) > 0).all()
    np.testing.assert_array_equal(codes, np.abs(x[:, None] - codebook).argmin(axis=1))
    means = [x[codes == level].astype(np.float64).mean() for level in range(5)]
    np.testing.assert_allclose(codebook, means, rtol=1e-5)  # float32 sums of 300 values about a centre near them


def test_small_clusters_far_out_keep_their_precision_among_a_million():
    rng = np.random.default_rng(0)
    x = np.concatenate([1000 + rng.normal(size=200_000), [3000.25, 3000.75, 4000.5]]).astype(np.float32)
    codebook = np.asarray(solve(x, levels=3, init="linear").codebook)
    # A float32 prefix sum reaches 2e8 here, with steps of 16: the means of the last two clusters would be lost.
    np.testing.assert_allclose(codebook, [x[:-3].astype(np.float64).mean(), 3000.5, 4000.5], rtol=1e-6)


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5, -1e30, 1e30, 1e-30, 7.0]), min_size=9, max_size=9),
    st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=9, max_size=9),
    st.sampled_from(["linear", "optimal"]),
)
def test_hostile_values_and_weights_stay_finite_and_in_range(values, weights, init):
    x, weights = np.array(values, np.float32), np.array(weights, np.float32)
    codebook, codes = (np.asarray(part) for part in solve(x, weights, levels=4, init=init))
    assert np.isfinite(codebook).all()
    assert ((codes >= 0) & (codes < 4)).all()
    kept = x[weights > 0]
    if kept.size:
        slack = 1e-5 * np.abs(kept).max()  # of float32 means
        assert (codebook >= kept.min() - slack).all()
        assert (codebook <= kept.max() + slack).all()


@settings(max_examples=15)
@given(st.permutations([5.0, -1.0, 5.0, 0.25, -1.0, 100.0, 100.0, 0.25, 0.25]), st.sampled_from(["linear", "optimal"]))
def test_distinct_values_up_to_the_levels_are_met_exactly(values, init):
    x = np.array(values, np.float32)
    codebook, codes = solve(x, np.ones(9, np.float32), levels=4, init=init)
    np.testing.assert_array_equal(np.asarray(codebook)[np.asarray(codes)], x)


def test_weights_count_as_repetitions():
    x, times = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 14.0], np.float32), np.array([3, 1, 0, 2, 5, 1])
    weighted = solve(x, times.astype(np.float32), levels=2)
    repeated = solve(np.repeat(x, times), levels=2)
    np.testing.assert_allclose(weighted.codebook, repeated.codebook, rtol=1e-6)
    np.testing.assert_allclose(weighted.codebook, [0.25, (20 + 55 + 14) / 8], rtol=1e-6)


def test_vmap_is_the_loop():
    x = np.stack([samples("normal", 600), samples("two lumps", 600)])
    batched = jax.jit(jax.vmap(lambda row: scalar_kmeans(row, levels=4)))(x)
    for i, row in enumerate(x):
        codebook, codes = solve(row, levels=4)
        np.testing.assert_allclose(batched.codebook[i], codebook, rtol=1e-6)
        np.testing.assert_array_equal(batched.codes[i], codes)


def test_another_number_of_iterations_does_not_compile_again(compilations):
    x = samples("laplace", 100)
    rough, fine = (solve(x, levels=4, iterations=n) for n in (1, 100))
    assert compilations("scalar_kmeans") == 1
    assert inertia(x, fine.codebook) <= inertia(x, rough.codebook)


def test_nearest_takes_the_lower_of_two_as_near():
    codebook = jnp.array([-1.0, 0.0, 4.0])
    assert nearest(jnp.array([-9.0, -0.5, -0.25, 2.0, 2.5, 9.0]), codebook).tolist() == [0, 0, 1, 1, 2, 2]


def test_intervals_against_all_cuts():
    rng = np.random.default_rng(0)
    x = np.sort(rng.normal(size=9))
    borders = np.asarray(
        best_intervals(jnp.ones(9), jnp.asarray(x, jnp.float32), jnp.asarray(x * x, jnp.float32), levels=3)
    )

    def cost(*borders):
        parts = [x[a:b] for a, b in itertools.pairwise(borders)]
        return sum(np.sum(np.square(part - part.mean())) for part in parts if part.size)

    least = min(cost(0, a, b, 9) for a in range(1, 9) for b in range(a, 9))
    assert cost(*borders) <= least * (1 + 1e-5)  # float32 moments


def test_what_cannot_be_clustered_is_named():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="levels must be 1 or more, got 0"):
        scalar_kmeans(x, levels=0)
    with pytest.raises(ValueError, match="got 0"):
        scalar_kmeans(jnp.ones(0), levels=1)
    with pytest.raises(ValueError, match=r"init must be .* got 'random'"):
        scalar_kmeans(x, levels=1, init="random")
