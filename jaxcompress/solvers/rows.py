"""Arrays as rows, one for every scale or table, and functions of rows that would take too much memory all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers import grid


def rows_of(x: jax.Array, scale_shape: Sequence[int]) -> jax.Array:
    """The entries under every scale, ``[groups, entries]``; groups in the order of the scales.

    Example:
        >>> rows_of(jnp.arange(8).reshape(2, 4), (1, 2)).tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    split = grid.grouped(x, scale_shape)
    outer, inner = range(0, split.ndim, 2), range(1, split.ndim, 2)
    groups = math.prod(scale_shape)
    return jnp.transpose(split, (*outer, *inner)).reshape(groups, x.size // max(1, groups))


def from_rows(rows: jax.Array, shape: Sequence[int], scale_shape: Sequence[int]) -> jax.Array:
    """The inverse of `rows_of`; further axes of the rows' entries stay the last ones.

    Example:
        >>> from_rows(jnp.array([[0, 1, 4, 5], [2, 3, 6, 7]]), (2, 4), (1, 2)).tolist()
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    n, entry = len(shape), rows.shape[2:]
    inner = tuple(size // groups if groups else 1 for size, groups in zip(shape, scale_shape, strict=True))
    split = rows.reshape(*scale_shape, *inner, *entry)
    order = [axis for pair in zip(range(n), range(n, 2 * n), strict=True) for axis in pair]
    return jnp.transpose(split, (*order, *range(2 * n, 2 * n + len(entry)))).reshape(*shape, *entry)


def by_batches(fn: Callable[..., Any], rows: Any, *, size: int) -> Any:
    """``fn`` of all rows, at most ``size`` at a time: the result of ``fn(rows)``, whose leading axes are of rows too.

    Example:
        >>> by_batches(lambda x: x * 2, jnp.arange(5), size=2).tolist()
        [0, 2, 4, 6, 8]
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    size = max(size, 1)
    if count <= size:
        return fn(rows)
    batches = -(-count // size)
    padding = batches * size - count
    fill = lambda x: jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))  # noqa: E731  # rows of zeros
    split = jax.tree.map(lambda x: fill(x).reshape(batches, size, *x.shape[1:]), rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], lax.map(fn, split))
