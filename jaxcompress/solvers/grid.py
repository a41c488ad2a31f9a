"""Symmetric integer grids: scales over channels or groups, rounding to the grid, and back.

A scale has as many axes as its array; the size of each divides that of the array, and entry ``j`` of an axis serves the
``j``-th run of neighbours (all of them if the size is 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def largest_code(bits: int) -> int:
    """The largest integer of a symmetric grid: 127 for 8 bits, 7 for 4. The smallest is its negative.

    Example:
        >>> largest_code(8), largest_code(4)
        (127, 7)
    """
    return 2 ** (bits - 1) - 1


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
    wide = x.astype(_compute_dtype(x))
    grouped = jnp.abs(wide).reshape(_split(x.shape, scale_shape))
    largest = jnp.max(grouped, axis=tuple(range(1, grouped.ndim, 2)), initial=0)
    scale = largest / jnp.asarray(largest_code(bits), wide.dtype)
    return jnp.where(scale > jnp.finfo(wide.dtype).tiny, scale, jnp.ones((), wide.dtype))


def quantize(x: jax.Array, scale: jax.Array, *, bits: int) -> jax.Array:
    """Rounds to the nearest code (halves to even) and clips to the grid.

    Args:
        x: float array.
        scale: positive, as in the module's docstring.
        bits: 2 to 8, static.

    Returns:
        int8 codes, int4 where ``bits`` is 4 or less.

    Example:
        >>> quantize(jnp.array([0.4, 1.5, -9.0]), jnp.array([1.0]), bits=4).tolist()
        [0, 2, -7]
    """
    top = jnp.asarray(largest_code(bits), scale.dtype)
    grouped = x.astype(scale.dtype).reshape(_split(x.shape, scale.shape))
    codes = jnp.clip(jnp.round(grouped / _per_group(scale)), -top, top)
    return codes.reshape(x.shape).astype(jnp.int4 if bits <= 4 else jnp.int8)


def dequantize(qvalue: jax.Array, scale: jax.Array) -> jax.Array:
    """Codes times scale, in the dtype of the scale.

    Example:
        >>> dequantize(jnp.array([1, 2, 3, 4], jnp.int8), jnp.array([0.5, 2.0])).tolist()
        [0.5, 1.0, 6.0, 8.0]
    """
    grouped = qvalue.astype(scale.dtype).reshape(_split(qvalue.shape, scale.shape))
    return (grouped * _per_group(scale)).reshape(qvalue.shape)


def spread(scale: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The scale with each entry repeated over its group, up to ``shape``.

    Example:
        >>> spread(jnp.array([1.0, 2.0]), (4,)).tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    return jnp.broadcast_to(_per_group(scale), _split(shape, scale.shape)).reshape(tuple(shape))


def _split(shape: Sequence[int], scale_shape: Sequence[int]) -> tuple[int, ...]:
    """Every axis as (groups, entries of a group)."""
    pairs = ((groups, size // groups if groups else 1) for size, groups in zip(shape, scale_shape, strict=True))
    return tuple(part for pair in pairs for part in pair)


def _per_group(scale: jax.Array) -> jax.Array:
    return scale.reshape(_split(scale.shape, scale.shape))


def _compute_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
