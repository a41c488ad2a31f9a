"""Arrays as arrays of blocks of neighbours, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcompress.solvers.grid import grouped


def to_blocks(array: jax.Array, lengths: Sequence[int]) -> jax.Array:
    """The blocks at their places, with an axis of their entries at the end.

    Example:
        >>> to_blocks(jnp.arange(8).reshape(4, 2), (2, 1)).tolist()
        [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    """
    counts = tuple(size // length for size, length in zip(array.shape, lengths, strict=True))
    pairs = grouped(array, counts)
    order = [*range(0, pairs.ndim, 2), *range(1, pairs.ndim, 2)]
    return jnp.transpose(pairs, order).reshape(*counts, math.prod(lengths))


def from_blocks(blocks: jax.Array, lengths: Sequence[int]) -> jax.Array:
    """The inverse of `to_blocks`.

    Example:
        >>> from_blocks(jnp.array([[[0, 2], [1, 3]], [[4, 6], [5, 7]]]), (2, 1)).tolist()
        [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    counts = blocks.shape[:-1]
    n = len(counts)
    order = [axis for pair in zip(range(n), range(n, 2 * n), strict=True) for axis in pair]
    shape = tuple(count * length for count, length in zip(counts, lengths, strict=True))
    return jnp.transpose(blocks.reshape(*counts, *lengths), order).reshape(shape)
