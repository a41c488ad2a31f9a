import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.sorted_sums import interval_moments, quantiles, sorted_sums

RNG = np.random.default_rng(0)


def exact(x, weights, about, start, end):
    """Moments in float64, interval by interval, in NumPy's order of the sorted values."""
    order = np.argsort(x, kind="stable")
    x, weights = x[order].astype(np.float64), weights[order].astype(np.float64)
    rows = []
    for c, i, j in zip(about.astype(np.float64), start, end, strict=True):
        offsets = x[i : max(i, j)] - c
        rows.append([np.sum(weights[i : max(i, j)] * offsets**power) for power in range(3)])
    return np.array(rows).T


@pytest.mark.parametrize("count", [1, 100, 5000, 20_000])  # direct, direct, one level of runs, two
def test_any_interval_against_float64(count):
    x = RNG.normal(size=count).astype(np.float32)
    weights = RNG.exponential(size=count).astype(np.float32)
    ends = RNG.integers(0, count + 1, size=(2, 40))
    start, end = np.minimum(*ends), np.maximum(*ends)
    start[0], end[0], start[1], end[1] = 0, count, end[1], start[1]  # all; one that ends before it starts
    about = RNG.normal(size=40).astype(np.float32)
    sums = sorted_sums(jnp.asarray(x), jnp.asarray(weights))
    ours = interval_moments(sums, jnp.asarray(about), jnp.int32(start), jnp.int32(end))
    scale = exact(np.abs(x), weights, -np.abs(about), [0] * 40, [count] * 40)  # sums of the absolute values
    assert (np.abs(np.stack(ours) - exact(x, weights, about, start, end)) <= 1e-6 * scale).all()


@pytest.mark.slow
def test_a_small_interval_far_out_is_exact():
    """About 300 units in the last place of a prefix sum of these values would be 5; the moments are right to 1e-6."""
    x = np.concatenate([1000 + RNG.normal(size=30_000), [3000.25, 3000.75]]).astype(np.float32)
    m0, m1, m2 = interval_moments(
        sorted_sums(jnp.asarray(x)), jnp.array([3000.0]), jnp.array([30_000]), jnp.array([30_002])
    )
    np.testing.assert_allclose([m0[0], m1[0], m2[0]], [2, 1, 0.625], rtol=1e-6)


def test_what_does_not_count_stands_behind():
    x = jnp.array([5.0, -1.0, -0.0, 2.0, 7.0])
    sums = sorted_sums(x, jnp.array([True, True, True, False, False]))
    np.testing.assert_array_equal(sums.values, [-1, 0, 5, 5, 5])
    np.testing.assert_array_equal(sums.weights, [1, 1, 1, 0, 0])
    nothing = sorted_sums(x, jnp.zeros(5, bool))
    assert np.isfinite(nothing.values).all()
    assert not nothing.weights.any()


def test_float64_stays():
    with jax.enable_x64(True):
        x = RNG.normal(size=200)
        sums = sorted_sums(jnp.asarray(x))
        np.testing.assert_array_equal(sums.values[:200], np.sort(x))


def test_quantiles_by_hand():
    sums = sorted_sums(jnp.array([8.0, 0.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 0.0, 2.0]))
    assert quantiles(sums, jnp.array([0.0, 0.25, 0.26, 0.75, 1.0])).tolist() == [0.0, 0.0, 2.0, 2.0, 8.0]
