"""Leaves that are networks of small arrays: how they become dense, meet data, and give single rows.

A network names the axes of its arrays. A name that several arrays share is summed over (a rank), or kept (a stack
axis); every dense axis is made of one name, or of several, its digits, the most significant first. What a kind has to
say is this naming alone: canonical and tensor-train leaves differ in nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.solvers.contraction import cheapest_order, contract

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Network:
    """The naming of a leaf's arrays.

    Attributes:
        names: for each array, a number for each of its axes.
        digits: for each dense axis the numbers of its digits.
        lengths: length of each digit, by number, in order of number: digits are numbered first, from 0.
        sizes: of the dense axes; where the digits can count further, the rest is padding, which is cut off.
    """

    names: tuple[tuple[int, ...], ...]
    digits: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]

    def split(self, axis: int) -> tuple[int, ...]:
        """The lengths of the digits of a dense axis."""
        return tuple(self.lengths[name] for name in self.digits[axis])

    def flat(self, axes: Sequence[int]) -> list[int]:
        """The digits of some dense axes in a row."""
        return [name for axis in axes for name in self.digits[axis]]


def materialize(network: Network, arrays: Sequence[jax.Array]) -> jax.Array:
    """The dense array, at the highest precision of the device."""
    axes = range(len(network.sizes))
    out = contract(arrays, network.names, network.flat(axes), precision=lax.Precision.HIGHEST)
    return _merged(network, out, 0, axes)


def matmul(
    network: Network,
    arrays: Sequence[ArrayOrLeaf],
    x: jax.Array,
    *,
    contract: Axes,
    batch: Axes,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """``dot_general(x, materialize(), (contract, batch))`` in the order of the fewest multiplications."""
    fn: Any = _LIFTED_PRODUCT if any(map(is_compressed, arrays)) else _product
    return fn(network, tuple(arrays), x, (contract, batch), precision, preferred_element_type)


def how(kind: str, network: Network, arrays: Sequence[Any], x: Any, *, contract: Axes, batch: Axes) -> str:
    """What `matmul` does, in words: how many steps and multiplications, beside those of the dense product."""
    of_x, out = _names_of_data(network, x.ndim, contract, batch)
    lengths = dict(zip(of_x, _split_shape(network, x.shape, contract, batch), strict=True))
    for names, array in zip(network.names, arrays, strict=True):
        lengths |= dict(zip(names, array.shape, strict=True))
    steps, count = cheapest_order((tuple(of_x), *network.names), tuple(out), lengths)
    if len(steps) > 1 and all(0 not in step for step in steps[:-1]):
        return f"{kind} multiplied out, cheaper for this many rows than its chain"
    dense = math.prod(size for size in x.shape if isinstance(size, int))
    free = [axis for axis in range(len(network.sizes)) if axis not in {*contract[1], *batch[1]}]
    dense *= math.prod(network.sizes[axis] for axis in free)
    if not all(isinstance(size, int) for size in x.shape):
        return f"{kind} chain of {len(steps)} products"
    return f"{kind} chain of {len(steps)} products, {count:,} multiplications for {dense:,}"


def rows(network: Network, arrays: Sequence[ArrayOrLeaf], indices: jax.Array, axis: int) -> jax.Array:
    """``take(materialize(), indices, axis, mode="clip")`` from the digits of the indices, no other entry decoded."""
    fn: Any = _LIFTED_ROWS if any(map(is_compressed, arrays)) else _rows
    return fn(network, tuple(arrays), indices, axis)


def _product(
    network: Network,
    arrays: Sequence[jax.Array],
    x: jax.Array,
    numbers: tuple[Axes, Axes],
    precision: Any,
    element: Any,
) -> jax.Array:
    contracted, batch = numbers
    of_x, out = _names_of_data(network, x.ndim, contracted, batch)
    pairs = _pairs(contracted, batch)
    missing = [math.prod(network.split(pairs[i])) - network.sizes[pairs[i]] if i in pairs else 0 for i in range(x.ndim)]
    if any(missing):
        x = jnp.pad(x, [(0, more) for more in missing])
    x = x.reshape(_split_shape(network, x.shape, contracted, batch))
    y = contract([x, *arrays], [of_x, *network.names], out, precision=precision, preferred_element_type=element)
    y = _merged(network, y, 0, batch[1])
    free = [axis for axis in range(len(network.sizes)) if axis not in {*contracted[1], *batch[1]}]
    return _merged(network, y, y.ndim - len(network.flat(free)), free)


def _rows(network: Network, arrays: Sequence[jax.Array], indices: jax.Array, axis: int) -> jax.Array:
    row = sum(map(len, network.names))  # a number that no axis has
    left = jnp.clip(indices, 0, network.sizes[axis] - 1)
    at = {}
    for name in reversed(network.digits[axis]):
        at[name] = left % network.lengths[name]
        left = left // network.lengths[name]
    taken, names = [], []
    for array, own in zip(arrays, network.names, strict=True):
        digit = next((name for name in own if name in at), None)
        taken.append(array if digit is None else jnp.take(array, at[digit], axis=own.index(digit), mode="clip"))
        names.append(tuple(row if name == digit else name for name in own))
    before, after = range(axis), range(axis + 1, len(network.sizes))
    out = contract(taken, names, [*network.flat(before), row, *network.flat(after)], precision=lax.Precision.HIGHEST)
    return _merged(network, _merged(network, out, 0, before), axis + 1, after)


_LIFTED_PRODUCT = lift(_product)
_LIFTED_ROWS = lift(_rows)


def _pairs(contracted: Axes, batch: Axes) -> dict[int, int]:
    """Axis of the data -> dense axis that it meets."""
    return dict(zip((*contracted[0], *batch[0]), (*contracted[1], *batch[1]), strict=True))


def _names_of_data(network: Network, ndim: int, contracted: Axes, batch: Axes) -> tuple[list[int], list[int]]:
    """The names of the axes of the data, split into digits, and those of the result."""
    pairs, first = _pairs(contracted, batch), sum(map(len, network.names))
    of_x: list[int] = []
    for axis in range(ndim):
        of_x += network.digits[pairs[axis]] if axis in pairs else (first + axis,)
    kept = [axis for axis in range(len(network.sizes)) if axis not in pairs.values()]
    return of_x, [*network.flat(batch[1]), *(name for name in of_x if name >= first), *network.flat(kept)]


def _split_shape(network: Network, shape: Sequence[int], contracted: Axes, batch: Axes) -> list[int]:
    pairs = _pairs(contracted, batch)
    split = [network.split(pairs[i]) if i in pairs else (size,) for i, size in enumerate(shape)]
    return [length for lengths in split for length in lengths]


def _merged(network: Network, out: jax.Array, start: int, axes: Sequence[int]) -> jax.Array:
    """Joins the digits of dense axes, which lie in a row from ``start``, and cuts their padding off."""
    count = len(network.flat(axes))
    whole = [math.prod(network.split(axis)) for axis in axes]
    shape = (*out.shape[:start], *whole, *out.shape[start + count :])
    out = out.reshape(shape) if out.shape != shape else out
    for position, axis in enumerate(axes, start):
        if out.shape[position] != network.sizes[axis]:
            out = lax.slice_in_dim(out, 0, network.sizes[axis], axis=position)
    return out
