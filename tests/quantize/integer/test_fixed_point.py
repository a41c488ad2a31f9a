"""Fixed-point multiplication is gemmlowp's, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.integer.fixed_point import fixed_point, high_mul, rescale, rounding_shift
from tests.quantize.integer import reference

ENDS = [-(2**31), -(2**31) + 1, -(2**30), -65536, -65535, -3, -2, -1, 0, 1, 2, 3, 32768, 65536, 2**30, 2**31 - 1]


def numbers(seed, count=4000):
    """Integers of every magnitude, and the ends in all pairs with them."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(-(2**31), 2**31, count)
    small = wide >> rng.integers(0, 31, count)
    return np.concatenate([wide, small])


def test_high_mul_is_gemmlowp_s():
    ends = np.array(ENDS)
    a = np.concatenate([numbers(0), np.repeat(ends, len(ends))])
    b = np.concatenate([numbers(1), np.tile(ends, len(ends))])
    ours = jax.jit(high_mul)(jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32))
    np.testing.assert_array_equal(ours, reference.high_mul(a, b))


def test_high_mul_of_known_numbers():
    """By hand: 2**30 * 2**30 * 2 / 2**32 = 2**29; 3 * 2**30 / 2**31 = 1.5 to 2; its negative to -1; saturation."""
    a = jnp.array([2**30, 3, -3, -(2**31)], jnp.int32)
    b = jnp.array([2**30, 2**30, 2**30, -(2**31)], jnp.int32)
    assert high_mul(a, b).tolist() == [2**29, 2, -1, 2**31 - 1]


def test_rounding_shift_is_gemmlowp_s():
    x, count = np.meshgrid(np.concatenate([numbers(2, 200), ENDS]), np.arange(32))
    ours = rounding_shift(jnp.asarray(x, jnp.int32), jnp.asarray(count, jnp.int32))
    np.testing.assert_array_equal(ours, reference.rounding_shift(x, count))


def test_rescale_is_litert_s():
    x = np.concatenate([numbers(3, 500), ENDS])
    multiplier = np.concatenate([[2**30, 2**31 - 1, -(2**30), 0], np.random.default_rng(4).integers(2**30, 2**31, 40)])
    shift = np.arange(-31, 13)
    grid = np.meshgrid(x, multiplier, indexing="ij")
    shifts = np.broadcast_to(shift, grid[0].shape)
    ours = jax.jit(rescale)(*(jnp.asarray(a, jnp.int32) for a in (*grid, shifts)))
    np.testing.assert_array_equal(ours, reference.rescale(*grid, shifts))


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 0.003, 0.5, 1.0, 1.5, 700.0])
def test_rescale_is_near_the_product(scale):
    """Two roundings of a half each, the first before a shift: three quarters of a unit at most, and the fraction."""
    x = np.random.default_rng(5).integers(-(2**20), 2**20, 1000)
    multiplier, shift = fixed_point(np.array([scale]))
    ours = rescale(jnp.asarray(x, jnp.int32), jnp.asarray(multiplier), jnp.asarray(shift))
    assert np.abs(np.asarray(ours) - x * scale).max() <= 0.76 + np.abs(x * scale).max() * 2.0**-30


def test_fixed_point_is_litert_s():
    reals = np.concatenate([np.logspace(-12, 8, 200), -np.logspace(-9, 3, 50), [0.0, 0.5, 1.0, 1 - 2.0**-40, 2.0**-33]])
    multiplier, shift = fixed_point(reals)
    assert list(zip(multiplier.tolist(), shift.tolist(), strict=True)) == [reference.fixed_point(r) for r in reals]


def test_fixed_point_saturates():
    multiplier, shift = fixed_point(np.array([1e30, -1e30, 1e-30]))
    assert multiplier.tolist() == [2**31 - 1, -(2**31 - 1), 0]
    assert shift.tolist() == [30, 30, 0]
