"""One function of a flat layer, over many leaves: layers of one size are batched, whatever their shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

_LARGE = 1 << 17  # entries of a layer from which one after the other is faster: the passes then stay in the cache


def layer_size(shape: tuple[int, ...], stack: tuple[int, ...]) -> int:
    """Entries of one layer of a leaf that holds layers along the axes ``stack``.

    Example:
        >>> layer_size((12, 3, 4), (0,))
        12
    """
    return math.prod(size for axis, size in enumerate(shape) if axis not in stack)


def layer_count(shape: tuple[int, ...], stack: tuple[int, ...]) -> int:
    """Layers that a leaf holds along the axes ``stack``.

    Example:
        >>> layer_count((12, 3, 4), (0,))
        12
    """
    return math.prod(shape[axis] for axis in stack)


def over_layers(
    fn: Callable[..., jax.Array],
    columns: Sequence[Sequence[jax.Array]],
    extras: Sequence[Sequence[jax.Array]],
    *,
    stacks: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """``fn(*flat, *extra) -> flat`` of every layer of every leaf. Call it under ``jit``.

    ``fn`` is compiled once for each size of a layer and each set of dtypes.

    Args:
        fn: takes one flat layer ``[size]`` of each column and one entry of each extra; returns ``[size]``.
        columns: arrays per leaf; the leaves of all columns have the same shapes.
        extras: per leaf an array of one entry per layer (counts, keys).
        stacks: per leaf, the axes along which it holds layers.

    Returns:
        Per leaf an array of its shape.

    Example:
        >>> double = over_layers(lambda row, k: row * k, [[jnp.ones((2, 3))]], [[jnp.array([1.0, 5.0])]], stacks=[(0,)])
        >>> double[0].tolist()
        [[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]
    """
    shapes = [leaf.shape for leaf in columns[0]]
    groups: dict[tuple[int, tuple[jnp.dtype, ...]], list[int]] = {}
    for i, (shape, stack) in enumerate(zip(shapes, stacks, strict=True)):
        groups.setdefault((layer_size(shape, stack), tuple(column[i].dtype for column in columns)), []).append(i)
    results: dict[int, jax.Array] = {}
    for (size, _), members in groups.items():
        rows = [jnp.concatenate([_rows(column[i], stacks[i], size) for i in members]) for column in columns]
        more = [jnp.concatenate([extra[i] for i in members]) for extra in extras]
        batched = jax.vmap(fn)(*rows, *more) if size < _LARGE else jax.lax.map(lambda row: fn(*row), (*rows, *more))
        end = 0
        for i in members:
            begin, end = end, end + layer_count(shapes[i], stacks[i])
            results[i] = _leaf(batched[begin:end], shapes[i], stacks[i])
    return [results[i] for i in range(len(shapes))]


def _rows(leaf: jax.Array, stack: tuple[int, ...], size: int) -> jax.Array:
    """The layers of a leaf, ``[layers, size]``."""
    return jnp.moveaxis(leaf, stack, tuple(range(len(stack)))).reshape(layer_count(leaf.shape, stack), size)


def _leaf(rows: jax.Array, shape: tuple[int, ...], stack: tuple[int, ...]) -> jax.Array:
    """The inverse of `_rows`."""
    front = tuple(shape[axis] for axis in stack)
    rest = tuple(size for axis, size in enumerate(shape) if axis not in stack)
    return jnp.moveaxis(rows.reshape(front + rest), tuple(range(len(stack))), stack)
