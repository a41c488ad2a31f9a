"""Entries of tables by their numbers, where a table serves an array, a layer, a channel or a group.

The tables of an array have as many leading axes as it has, the size of each dividing its (as scales have, see
`jaxcompress.solvers.grid`); then come the levels, and the axes of an entry if that is no scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.solvers.grid import grouped


def look_up_levels(codes: jax.Array, table: jax.Array) -> jax.Array:
    """Levels by number; numbers past the end take the last one.

    Args:
        codes: integers of any shape.
        table: the sizes of the groups, then the levels.

    Example:
        >>> look_up_levels(jnp.array([2, 0], jnp.uint8), jnp.array([[-1.0, 0.0, 3.0]])).tolist()
        [3.0, -1.0]
    """
    flat, back = _by_table(codes, table.shape[:-1])
    values = jnp.take_along_axis(table.reshape(*flat.shape[:-1], table.shape[-1]), flat, axis=-1, mode="clip")
    return back(values)


def look_up_rows(codes: jax.Array, table: jax.Array) -> jax.Array:
    """Vectors by number: ``codes.shape + (length,)``; numbers past the end take the last one.

    The gradient of an entry is the sum of those of the places that took it.

    Args:
        codes: integers of any shape.
        table: the sizes of the groups, then the levels, then the length of a vector.

    Example:
        >>> look_up_rows(jnp.array([1, 0], jnp.uint8), jnp.array([[[-1.0, 0.0], [3.0, 4.0]]])).tolist()
        [[3.0, 4.0], [-1.0, 0.0]]
    """
    flat, back = _by_table(codes, table.shape[:-2])
    tables = table.reshape(flat.shape[0], *table.shape[-2:])
    take = lambda rows, numbers: jnp.take(rows, numbers, axis=0, mode="clip")  # noqa: E731
    rows = take(tables[0], flat[0])[None] if len(flat) == 1 else jax.vmap(take)(tables, flat)
    return back(rows)


def _by_table(codes: jax.Array, sizes: tuple[int, ...]) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Codes as ``[tables, codes of a table]`` in int32, and what brings results of that order to the codes' places."""
    groups = grouped(codes, sizes)
    outer, inner = tuple(range(0, groups.ndim, 2)), tuple(range(1, groups.ndim, 2))
    moved = jnp.transpose(groups, (*outer, *inner))
    tables = math.prod(sizes)
    order = np.argsort((*outer, *inner)).tolist()

    def back(values: jax.Array) -> jax.Array:
        entry = values.shape[2:]
        spread = values.reshape(*moved.shape, *entry)
        own = range(len(order), len(order) + len(entry))
        return jnp.transpose(spread, (*order, *own)).reshape(*codes.shape, *entry)

    return moved.reshape(tables, codes.size // max(1, tables)).astype(jnp.int32), back
