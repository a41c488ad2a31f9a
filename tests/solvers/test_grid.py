import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.grid import (
    absmax_scale,
    asymmetric_grid,
    dequantize,
    group_range,
    largest_code,
    quantize,
    smallest_code,
    spread,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("bits", "dtype"), [(8, jnp.int8), (4, jnp.int4)])
@pytest.mark.parametrize("scale_shape", [(6, 8), (6, 1), (1, 8), (1, 1), (3, 2)])
def test_round_trip_is_within_half_a_step(bits, dtype, scale_shape):
    x = RNG.normal(size=(6, 8)).astype(np.float32)
    scale = jax.jit(absmax_scale, static_argnames=("scale_shape", "bits"))(x, scale_shape=scale_shape, bits=bits)
    groups = x.reshape(scale_shape[0], 6 // scale_shape[0], scale_shape[1], 8 // scale_shape[1])
    np.testing.assert_allclose(scale, np.abs(groups).max((1, 3)) / (2 ** (bits - 1) - 1), rtol=1e-6)
    codes = quantize(jnp.asarray(x), scale, bits=bits)
    assert codes.dtype == dtype
    full = np.repeat(np.repeat(np.asarray(scale), 6 // scale_shape[0], 0), 8 // scale_shape[1], 1)
    np.testing.assert_array_equal(spread(scale, (6, 8)), full)
    np.testing.assert_array_equal(dequantize(codes, scale), np.asarray(codes, np.float32) * full)
    assert np.all(np.abs(dequantize(codes, scale) - x) <= 0.5001 * full)  # 1e-4 for the rounding of the quotient
    assert np.abs(np.asarray(codes, np.int32)).max() == largest_code(bits)


def test_halves_round_to_even_and_the_grid_is_symmetric():
    x = jnp.array([0.5, 1.5, 2.5, -0.5, -1.5, 1000.0, -1000.0])
    assert quantize(x, jnp.ones(1), bits=8).tolist() == [0, 2, 2, 0, -2, 127, -127]
    assert quantize(x, jnp.ones(1), bits=4).tolist() == [0, 2, 2, 0, -2, 7, -7]


def test_a_quantized_array_is_a_fixed_point():
    x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    scale = absmax_scale(x, (4, 1), bits=8)
    once = dequantize(quantize(x, scale, bits=8), scale)
    np.testing.assert_array_equal(dequantize(quantize(once, scale, bits=8), scale), once)


def test_narrow_floats_are_measured_in_float32():
    x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.bfloat16)
    assert absmax_scale(x, (1, 6), bits=8).dtype == jnp.float32
    assert absmax_scale(jnp.zeros((0, 3)), (1, 3), bits=8).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("scale_shape", [(6, 1), (3, 2)])
def test_asymmetric_grids_are_those_of_the_definition(bits, scale_shape):
    x = (RNG.normal(size=(6, 8)) + 1).astype(np.float32)
    low, high = group_range(jnp.asarray(x), scale_shape)
    groups = x.reshape(scale_shape[0], 6 // scale_shape[0], scale_shape[1], 8 // scale_shape[1])
    np.testing.assert_array_equal(low, groups.min((1, 3)))
    np.testing.assert_array_equal(high, groups.max((1, 3)))
    scale, zero_point = asymmetric_grid(low, high, bits=bits)
    bottom, top = np.minimum(groups.min((1, 3)), 0).astype(np.float64), np.maximum(groups.max((1, 3)), 0)
    expected = (top - bottom) / (2**bits - 1)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    np.testing.assert_array_equal(zero_point, np.round(-(2 ** (bits - 1)) - bottom / expected))
    assert (smallest_code(bits, symmetric=False), largest_code(bits)) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = np.asarray(quantize(jnp.asarray(x), scale, zero_point, bits=bits), np.int32)
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1
    repeat = lambda a: np.repeat(np.repeat(np.asarray(a), 6 // a.shape[0], 0), 8 // a.shape[1], 1)  # noqa: E731
    values = np.asarray(dequantize(jnp.asarray(codes, jnp.int8), scale, zero_point))
    np.testing.assert_array_equal(values, (codes - repeat(zero_point)).astype(np.float32) * repeat(scale))
    assert np.all(np.abs(values - x) <= 1.0001 * repeat(scale))  # half a step, and at the ends half a step of the zero


def test_one_bit_is_a_sign_or_zero_and_an_end():
    x = jnp.array([0.3, -0.2, 0.0, -9.0])
    assert quantize(x, jnp.ones(1), bits=1).tolist() == [1, -1, 1, -1]
    scale, zero_point = asymmetric_grid(*group_range(x, (1,)), bits=1)
    assert (scale.tolist(), zero_point.tolist()) == ([4.5], [1])
    assert dequantize(quantize(x, scale, zero_point, bits=1), scale, zero_point).tolist() == [0.0, 0.0, 0.0, -9.0]
