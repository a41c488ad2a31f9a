"""Levels in a table: the fixed ones of nf4, and fitted ones; the nearest level of a number, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.solvers import grid
from jaxcompress.solvers.tables import look_up_levels as look_up_levels

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 levels of the 4-bit NormalFloat.

Quantiles of a normal distribution, 7 below zero and 8 above, with zero itself, scaled to end at -1 and 1.

References:
    Dettmers et al., 2023, appendix E. https://arxiv.org/abs/2305.14314
"""


def own_table(scale: jax.Array, levels: tuple[float, ...] = NF4) -> jax.Array:
    """A table of fixed levels that serves a whole array: one axis of size 1 for each of the scale's, and the levels."""
    return jnp.asarray(levels, grid.widened(scale).dtype).reshape(*(1,) * scale.ndim, len(levels))


def even_levels(low: jax.Array, high: jax.Array, count: int) -> jax.Array:
    """Levels evenly spread over a range, both ends among them.

    Example:
        >>> even_levels(jnp.array([-1.0]), jnp.array([2.0]), 4).tolist()
        [[-1.0, 0.0, 1.0, 2.0]]
    """
    steps = jnp.asarray(np.arange(count - 1), low.dtype).reshape(*(1,) * low.ndim, count - 1)
    levels = low[..., None] + (high - low)[..., None] * steps / (count - 1)
    return jnp.concatenate([levels, high[..., None]], -1)


def nearest(x: jax.Array, scale: jax.Array, table: jax.Array) -> jax.Array:
    """The number of the nearest level, in uint8; halfway between two it is the lower one.

    Args:
        x: float array.
        scale: positive; the levels are multiplied by it.
        table: ascending levels along the last axis, the axes before it as a scale's.

    Example:
        >>> levels = jnp.array([[-1.0, 0.0, 3.0]])
        >>> nearest(jnp.array([-0.6, -0.5, 1.6, 99.0]), jnp.array([1.0]), levels).tolist()
        [0, 0, 2, 2]
    """
    wide = grid.widened(scale)
    steps = (grid.grouped(x.astype(wide.dtype), wide.shape) / grid.per_group(wide)).reshape(x.shape)
    table = table.astype(wide.dtype)
    middles = (table[..., 1:] + table[..., :-1]) / 2
    groups = grid.grouped(steps, table.shape[:-1])[..., None]
    above = groups > middles.reshape(*(side for size in middles.shape[:-1] for side in (size, 1)), middles.shape[-1])
    return above.sum(-1, dtype=jnp.uint8).reshape(x.shape)


def look_up(codes: jax.Array, scale: jax.Array, table: jax.Array) -> jax.Array:
    """Levels by number, times the scale, in the dtype of the scale.

    Example:
        >>> look_up(jnp.array([2, 0], jnp.uint8), jnp.array([2.0]), jnp.array([[-1.0, 0.0, 3.0]])).tolist()
        [6.0, -2.0]
    """
    wide = grid.widened(scale)
    values = look_up_levels(codes, table.astype(wide.dtype))
    return (grid.grouped(values, wide.shape) * grid.per_group(wide)).reshape(codes.shape)
