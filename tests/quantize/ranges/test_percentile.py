"""Percentiles against NumPy's."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import Percentile, find_scaling

INT8, UINT4 = format_of("int", 8), format_of("int", 4, symmetric=False)
X = np.random.default_rng(0).standard_t(3, size=(5, 333)).astype(np.float32)


@pytest.mark.parametrize("percentage", [50.0, 99.0, 100.0])
def test_symmetric_is_the_percentile_of_absolute_values(percentage):
    scale = find_scaling(jnp.asarray(X), (5, 1), INT8, Percentile(percentage)).scale[:, 0]
    expected = np.percentile(np.abs(X.astype(np.float64)), percentage, axis=1) / 127
    np.testing.assert_allclose(scale, expected, rtol=1e-5)  # float32 interpolates between two entries


def test_asymmetric_leaves_out_half_at_either_end():
    found = find_scaling(jnp.asarray(X), (5, 1), UINT4, Percentile(98.0))
    low, high = np.percentile(X.astype(np.float64), [1, 99], axis=1)
    np.testing.assert_allclose(found.scale[:, 0], (high - low) / 15, rtol=1e-5)
    np.testing.assert_array_equal(found.zero_point[:, 0], np.round(-8 - low / ((high - low) / 15)))


def test_weights():
    weights = np.random.default_rng(1).integers(0, 5, X.shape).astype(np.float32)
    scale = find_scaling(jnp.asarray(X), (5, 1), INT8, Percentile(90.0), weights=jnp.asarray(weights)).scale[:, 0]
    rows = zip(np.abs(X), weights, strict=True)
    expected = [np.quantile(row, 0.9, weights=w, method="inverted_cdf") for row, w in rows]
    np.testing.assert_allclose(scale * 127, expected, rtol=1e-6)


def test_what_is_pruned_does_not_count():
    support = np.random.default_rng(1).random(X.shape) < 0.3
    scale = find_scaling(jnp.asarray(X), (5, 1), INT8, Percentile(90.0), support=jnp.asarray(support)).scale[:, 0]
    kept = [np.abs(row[mask]) for row, mask in zip(X, support, strict=True)]
    expected = [np.quantile(row, 0.9, method="inverted_cdf") for row in kept]
    np.testing.assert_allclose(scale * 127, expected, rtol=1e-6)


@pytest.mark.parametrize("percentage", [0, 101, float("nan")])
def test_bad_percentages(percentage):
    with pytest.raises(ValueError, match="percentage must be above 0 and at most 100"):
        Percentile(percentage)
