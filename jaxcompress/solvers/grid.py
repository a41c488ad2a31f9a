"""Integer grids: scales and zero points over channels or groups, rounding to the grid, and back.

A symmetric grid of ``bits`` bits holds the codes ``-(2 ** (bits - 1) - 1) .. 2 ** (bits - 1) - 1`` times a scale:
zero is in the middle. An asymmetric one holds ``-(2 ** (bits - 1)) .. 2 ** (bits - 1) - 1`` less a zero point, times a
scale: zero is on the grid wherever it lies. Grids of one bit have the codes -1 and +1; a symmetric one has no zero.

A scale has as many axes as its array; the size of each divides that of the array, and entry ``j`` of an axis serves the
``j``-th run of neighbours (all of them if the size is 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def largest_code(bits: int) -> int:
    """The largest integer of a grid: 127 for 8 bits, 7 for 4, 1 for 2 and for 1.

    Example:
        >>> largest_code(8), largest_code(4), largest_code(1)
        (127, 7, 1)
    """
    return max(1, 2 ** (bits - 1) - 1)


def smallest_code(bits: int, *, symmetric: bool = True) -> int:
    """The smallest integer of a grid: the negative of the largest one, one less where the grid is asymmetric.

    Example:
        >>> smallest_code(8), smallest_code(8, symmetric=False), smallest_code(1, symmetric=False)
        (-127, -128, -1)
    """
    return -largest_code(bits) if symmetric or bits == 1 else -largest_code(bits) - 1


def group_range(x: jax.Array, scale_shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest entry of each group, 0 for groups without entries.

    Returns:
        Two arrays of ``scale_shape`` in float32 (float64 for float64 arrays).

    Example:
        >>> low, high = group_range(jnp.array([1.0, -7.0, 3.5, 0.0]), (2,))
        >>> low.tolist(), high.tolist()
        ([-7.0, 0.0], [1.0, 3.5])
    """
    groups = grouped(x.astype(compute_dtype(x)), scale_shape)
    if not groups.size:
        return jnp.zeros(tuple(scale_shape), groups.dtype), jnp.zeros(tuple(scale_shape), groups.dtype)
    inside = tuple(range(1, groups.ndim, 2))
    return jnp.min(groups, axis=inside), jnp.max(groups, axis=inside)


def symmetric_grid(low: jax.Array, high: jax.Array, *, bits: int) -> jax.Array:
    """The scale of the finest symmetric grid that reaches both ends of a range; 1 where that would underflow.

    Example:
        >>> symmetric_grid(jnp.array([-1.0, 0.0]), jnp.array([3.5, 0.0]), bits=4).tolist()
        [0.5, 1.0]
    """
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    return or_one(largest / jnp.asarray(largest_code(bits), largest.dtype))


def asymmetric_grid(low: jax.Array, high: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array]:
    """Scale and zero point of the asymmetric grid over a range, widened to hold zero.

    The zero point is rounded to a code, so that zero is met exactly and the ends to half a step. Where the scale would
    underflow it is 1. One bit has two values: zero, and the end that lies farther off.

    Returns:
        Scale in the dtype of the range, zero point in int8.

    Example:
        >>> scale, zero_point = asymmetric_grid(jnp.array([-1.0]), jnp.array([14.0]), bits=4)
        >>> scale.tolist(), zero_point.tolist()
        ([1.0], [-7])

    References:
        Jacob et al., 2018, section 2.1 and equation 13. https://arxiv.org/abs/1712.05877
    """
    low, high = jnp.minimum(low, jnp.zeros_like(low)), jnp.maximum(high, jnp.zeros_like(high))
    if bits == 1:
        above = high >= -low
        scale = or_one(jnp.where(above, high, -low) / 2)
        return scale, jnp.where(above, -1, 1).astype(jnp.int8)
    smallest, largest = smallest_code(bits, symmetric=False), largest_code(bits)
    scale = or_one(high / (largest - smallest) - low / (largest - smallest))  # the difference itself may overflow
    return scale, jnp.clip(jnp.round(smallest - low / scale), smallest, largest).astype(jnp.int8)


def or_one(scale: jax.Array) -> jax.Array:
    """The scale, 1 where it is zero or so small that it would underflow; NaN stays, so that it is not hidden.

    Example:
        >>> or_one(jnp.array([0.5, 0.0, 1e-44])).tolist()
        [0.5, 1.0, 1.0]
    """
    return jnp.where(scale <= jnp.finfo(scale.dtype).tiny, jnp.ones((), scale.dtype), scale)


def absmax_scale(x: jax.Array, scale_shape: Sequence[int], *, bits: int) -> jax.Array:
    """The finest scale whose grid reaches the largest absolute value of each group.

    Groups of zeros (or so small that the scale would underflow) get the scale 1.

    Args:
        x: float array.
        scale_shape: shape of the scale, as in the module's docstring.
        bits: width of the codes, static.

    Returns:
        Scale in float32 (float64 for float64 arrays).

    Example:
        >>> absmax_scale(jnp.array([[1.0, -7.0], [3.5, 0.0]]), (2, 1), bits=4).tolist()
        [[1.0], [0.5]]
    """
    return symmetric_grid(*group_range(x, scale_shape), bits=bits)


def quantize(
    x: jax.Array, scale: jax.Array, zero_point: jax.Array | None = None, *, bits: int, full: bool = False
) -> jax.Array:
    """Rounds to the nearest code (halves to even) and clips to the grid.

    Args:
        x: float array.
        scale: positive, as in the module's docstring.
        zero_point: int8, of the scale's shape; None: the grid is symmetric.
        bits: 1 to 8, static. Of one bit, zero and above are +1.
        full: without a zero point, take the lowest code too (-8 of 4 bits), static.

    Returns:
        int8 codes, int4 where ``bits`` is 4 or less.

    Example:
        >>> quantize(jnp.array([0.4, 1.5, -9.0]), jnp.array([1.0]), bits=4).tolist()
        [0, 2, -7]
        >>> quantize(jnp.array([0.4, 1.5, -19.0]), jnp.array([1.0]), jnp.array([3], jnp.int8), bits=4).tolist()
        [3, 5, -8]
    """
    steps = grouped(x.astype(scale.dtype), scale.shape) / per_group(scale)
    shift = None if zero_point is None else per_group(zero_point).astype(scale.dtype)
    if bits == 1:
        steps = steps if shift is None else steps + shift
        codes = jnp.where(steps >= 0, 1, -1)
    else:
        codes = jnp.round(steps) if shift is None else jnp.round(steps) + shift
        codes = jnp.clip(codes, smallest_code(bits, symmetric=shift is None and not full), largest_code(bits))
    return codes.reshape(x.shape).astype(jnp.int4 if bits <= 4 else jnp.int8)


def dequantize(qvalue: jax.Array, scale: jax.Array, zero_point: jax.Array | None = None) -> jax.Array:
    """Codes, less the zero point, times scale: in the dtype of the scale, float32 where that has less than 16 bits.

    Example:
        >>> dequantize(jnp.array([1, 2, 3, 4], jnp.int8), jnp.array([0.5, 2.0])).tolist()
        [0.5, 1.0, 6.0, 8.0]
    """
    scale = widened(scale)
    codes = grouped(qvalue.astype(scale.dtype), scale.shape)
    if zero_point is not None:
        codes -= per_group(zero_point).astype(scale.dtype)
    return (codes * per_group(scale)).reshape(qvalue.shape)


def widened(scale: jax.Array) -> jax.Array:
    """A scale in a dtype to compute in: itself, or in float32 where it is held in less than 16 bits.

    Example:
        >>> widened(jnp.ones(1, jnp.float8_e8m0fnu)).dtype, widened(jnp.ones(1, jnp.bfloat16)).dtype
        (dtype('float32'), dtype(bfloat16))
    """
    return scale.astype(jnp.float32) if jnp.dtype(scale.dtype).itemsize < 2 else scale


def spread(scale: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The scale with each entry repeated over its group, up to ``shape``.

    Example:
        >>> spread(jnp.array([1.0, 2.0]), (4,)).tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    return jnp.broadcast_to(per_group(scale), _split(shape, scale.shape)).reshape(tuple(shape))


def grouped(x: jax.Array, scale_shape: Sequence[int]) -> jax.Array:
    """The array with every axis as two: the groups along it, and the entries of a group.

    Example:
        >>> grouped(jnp.zeros((6, 8)), (3, 1)).shape
        (3, 2, 1, 8)
    """
    return x.reshape(_split(x.shape, scale_shape))


def _split(shape: Sequence[int], scale_shape: Sequence[int]) -> tuple[int, ...]:
    """Every axis as (groups, entries of a group)."""
    pairs = ((groups, size // groups if groups else 1) for size, groups in zip(shape, scale_shape, strict=True))
    return tuple(part for pair in pairs for part in pair)


def per_group(scale: jax.Array) -> jax.Array:
    """A scale laid out against `grouped`: after each axis one of size 1.

    Example:
        >>> per_group(jnp.zeros((3, 2))).shape
        (3, 1, 2, 1)
    """
    return scale.reshape(_split(scale.shape, scale.shape))


def compute_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype in which scales of an array are found: float32, float64 for float64 arrays.

    Example:
        >>> compute_dtype(jnp.zeros(3, jnp.bfloat16))
        dtype('float32')
    """
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
