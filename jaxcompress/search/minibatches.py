"""Minibatches of arrays inside a compiled program: a table of row numbers, and the rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def minibatch_rows(key: jax.Array, rows: int, *, batch_size: int, steps: int) -> jax.Array:
    """Which rows each step sees: every row once before any row again, in a fresh order each time.

    Args:
        key: consumed.
        rows: how many there are. Static.
        batch_size: rows of a batch, at most ``rows``. Static.
        steps: how many batches. Static.

    Returns:
        int32 ``[steps, batch_size]``. A batch that reaches into the next order may hold a row twice.

    Raises:
        ValueError: if ``batch_size`` is not in ``1 .. rows``.

    Example:
        >>> rows = minibatch_rows(jax.random.key(0), 6, batch_size=2, steps=3)
        >>> sorted(rows.reshape(-1).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if not 1 <= batch_size <= rows:
        raise ValueError(f"batch_size={batch_size} has to be between 1 and the {rows} rows of the data")
    orders = -(-steps * batch_size // rows)
    keys = jax.random.split(key, orders)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, rows))(keys)
    return shuffled.reshape(-1)[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def rows_of(data: Any, name: str = "data") -> int:
    """How many rows the arrays of a tree share along their first axis.

    Raises:
        ValueError: if there is no array, or they differ.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(f"{name} has to be arrays with one number of rows along axis 0, got shapes {shapes}")
    return shapes[0][0]


def take_rows(data: Any, rows: jax.Array) -> Any:
    """The rows of every array of a tree."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), data)
