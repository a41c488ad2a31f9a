"""Entries of tables by their numbers, where a table serves an array, a layer, a channel or a group.

The tables of an array have as many leading axes as it has, the size of each dividing its (as scales have, see
`jaxcompress.solvers.grid`); then come the levels, and the axes of an entry if that is no scalar.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcompress.solvers.rows import from_rows, rows_of


def look_up_levels(codes: jax.Array, table: jax.Array) -> jax.Array:
    """Levels by number; numbers past the end take the last one.

    Args:
        codes: integers of any shape.
        table: the sizes of the groups, then the levels.

    Example:
        >>> look_up_levels(jnp.array([2, 0], jnp.uint8), jnp.array([[-1.0, 0.0, 3.0]])).tolist()
        [3.0, -1.0]
    """
    sizes = table.shape[:-1]
    rows = rows_of(codes, sizes).astype(jnp.int32)
    values = jnp.take_along_axis(table.reshape(rows.shape[0], table.shape[-1]), rows, axis=-1, mode="clip")
    return from_rows(values, codes.shape, sizes)


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
    sizes = table.shape[:-2]
    rows = rows_of(codes, sizes).astype(jnp.int32)
    tables = table.reshape(rows.shape[0], *table.shape[-2:])
    take = lambda entries, numbers: jnp.take(entries, numbers, axis=0, mode="clip")  # noqa: E731
    vectors = take(tables[0], rows[0])[None] if len(rows) == 1 else jax.vmap(take)(tables, rows)
    return from_rows(vectors, codes.shape, sizes)
