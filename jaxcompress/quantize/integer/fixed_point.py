"""Multiplication of integers by real constants, in integers: a 31-bit fraction and a power of two.

The arithmetic is gemmlowp's and LiteRT's, rounding by rounding: a saturating rounding doubling high multiplication,
then a rounding division by a power of two. The 64-bit product in between is built from 16-bit halves, so that nothing
here needs 64-bit integers, which JAX has off by default.

References:
    Jacob et al., 2018, section 2.2. https://arxiv.org/abs/1712.05877
    gemmlowp, fixedpoint/fixedpoint.h. https://github.com/google/gemmlowp
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


def fixed_point(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reals as ``multiplier * 2 ** (shift - 31)``, with 31 significant bits.

    Reals below ``2 ** -32`` in magnitude become zero, those from ``2 ** 30`` on the largest that there is.

    Args:
        real: finite, of any shape and sign.

    Returns:
        ``(multiplier, shift)``, int32: the multiplier is zero or of a magnitude from ``2 ** 30`` on.

    Example:
        >>> multiplier, shift = fixed_point(np.array([0.5, 3.0]))
        >>> multiplier.tolist(), shift.tolist()
        ([1073741824, 1610612736], [0, 2])
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    multiplier = np.round(fraction * 2.0**31).astype(np.int64)
    carried = np.abs(multiplier) == 2**31
    multiplier = np.where(carried, multiplier // 2, multiplier)
    exponent = exponent + carried
    multiplier = np.where(exponent < -31, 0, multiplier)
    multiplier = np.where(exponent > 30, np.sign(multiplier) * _LARGEST, multiplier)
    exponent = np.where(multiplier == 0, 0, np.clip(exponent, -31, 30))
    return multiplier.astype(np.int32), exponent.astype(np.int32)


def rescale(x: jax.Array, multiplier: jax.Array, shift: jax.Array) -> jax.Array:
    """``x * multiplier * 2 ** (shift - 31)``, rounded twice as gemmlowp does; saturates instead of overflowing.

    Args:
        x: int32.
        multiplier: int32, of a shape that broadcasts to that of ``x`` with as many axes.
        shift: likewise, in ``[-31, 30]``.

    Example:
        >>> rescale(jnp.array([7, -7]), jnp.array([1 << 30]), jnp.array([0])).tolist()
        [4, -3]
        >>> rescale(jnp.array([3]), *map(jnp.asarray, fixed_point(np.array([2.5])))).tolist()
        [8]
    """
    multiplier, shift = (jnp.broadcast_to(array, x.shape) for array in (multiplier, shift))
    left = jnp.maximum(shift, jnp.int32(0))
    return rounding_shift(high_mul(shift_left(x, left), multiplier), left - shift)


def shift_left(x: jax.Array, count: jax.Array) -> jax.Array:
    """``x * 2 ** count`` in int32, saturated."""
    smallest, largest = (lax.shift_right_arithmetic(jnp.full_like(x, end), count) for end in (_SMALLEST, _LARGEST))
    shifted = lax.shift_left(x, count)
    return jnp.where(x > largest, _LARGEST, jnp.where(x < smallest, _SMALLEST, shifted))


def high_mul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The high half of twice the product, rounded to nearest: gemmlowp's SaturatingRoundingDoublingHighMul.

    Halves round away from zero for positive products and towards zero for negative ones, as in gemmlowp.

    Args:
        a: int32.
        b: int32 of the same shape.

    Example:
        >>> high_mul(jnp.array([1 << 30, -(2**31)]), jnp.array([1 << 30, -(2**31)])).tolist()
        [536870912, 2147483647]
    """
    negative = (a < 0) != (b < 0)
    high, low = _product(_magnitude(a), _magnitude(b))
    nudge = jnp.where(negative, jnp.uint32(2**30 - 1), jnp.uint32(2**30))
    nudged = low + nudge
    high = high + (nudged < low).astype(jnp.uint32)
    magnitude = (high << 1) | (nudged >> 31)  # the 64 bits shifted right by 31; 2 ** 31 only for the saturated case
    magnitude = jnp.minimum(magnitude, jnp.uint32(_LARGEST)).astype(jnp.int32)
    return jnp.where(negative, -magnitude, magnitude)


def rounding_shift(x: jax.Array, count: jax.Array) -> jax.Array:
    """``x / 2 ** count`` rounded to nearest, halves away from zero: gemmlowp's RoundingDivideByPOT.

    Args:
        x: int32.
        count: int32 in ``[0, 31]``, of the same shape.

    Example:
        >>> rounding_shift(jnp.array([5, -5, 6, -6]), jnp.array([1, 1, 2, 2])).tolist()
        [3, -3, 2, -2]
    """
    mask = lax.shift_left(jnp.ones_like(x), count) - 1
    threshold = lax.shift_right_arithmetic(mask, jnp.ones_like(x)) + (x < 0).astype(jnp.int32)
    return lax.shift_right_arithmetic(x, count) + ((x & mask) > threshold).astype(jnp.int32)


def _magnitude(x: jax.Array) -> jax.Array:
    """Absolute value as uint32, of the smallest integer too."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(x < 0, ~bits + jnp.uint32(1), bits)


def _product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All 64 bits of a product of uint32: ``(high, low)``."""
    a_high, a_low = a >> 16, a & 0xFFFF
    b_high, b_low = b >> 16, b & 0xFFFF
    low, middle, other = a_low * b_low, a_high * b_low, a_low * b_high
    carry = (low >> 16) + (middle & 0xFFFF) + (other & 0xFFFF)
    return a_high * b_high + (middle >> 16) + (other >> 16) + (carry >> 16), (carry << 16) | (low & 0xFFFF)
