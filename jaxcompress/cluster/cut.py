"""How an array is cut into blocks of neighbours, each of which becomes a vector."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.roles import Roles
from jaxcompress.solvers.grid import grouped

Along: TypeAlias = Literal["inputs", "outputs"]
Tables: TypeAlias = Literal["layer", "position"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Blocks along the contracted axes of an array, or along its output axes.

    Attributes:
        shape: of the array.
        roles: of its axes.
        lengths: of a block along each axis.
        along: which axes blocks run along.
        tables: ``"layer"``: one table serves all blocks of a layer; ``"position"``: each place along these axes has its
            own.
    """

    shape: tuple[int, ...]
    roles: Roles
    lengths: tuple[int, ...]
    along: Along
    tables: Tables = "layer"

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(size // length for size, length in zip(self.shape, self.lengths, strict=True))

    @property
    def block(self) -> tuple[int, ...]:
        """Lengths behind the stack axes that lead, as `ProductCodebook` holds them."""
        lead = next((n for n, axis in enumerate(self.roles.stack) if axis != n), len(self.roles.stack))
        return self.lengths[lead:]

    @property
    def positions(self) -> int:
        """Places of a block along the axes that blocks run along."""
        return math.prod(self.codes_shape[axis] for axis in self._side)

    @property
    def layers(self) -> int:
        """Entries of the stack axes."""
        return math.prod(self.codes_shape[axis] for axis in self.roles.stack)

    @property
    def sharing(self) -> int:
        """Blocks that share a table."""
        blocks = math.prod(self.codes_shape) // max(1, self.layers)
        return blocks // max(1, self.positions) if self.tables == "position" else blocks

    @property
    def table_count(self) -> int:
        """Number of tables."""
        return self.layers * (self.positions if self.tables == "position" else 1)

    def split(self, array: jax.Array) -> jax.Array:
        """The blocks, ``[tables, positions, blocks, entries]``; with a table for each position there is one of these.

        Example:
            >>> cut = Cut((4, 2), Roles((), (0,), (1,)), (2, 1), "inputs")
            >>> cut.split(jnp.arange(8).reshape(4, 2)).tolist()
            [[[[0, 2], [1, 3]], [[4, 6], [5, 7]]]]
        """
        pairs = grouped(array, self.codes_shape)
        order = [2 * axis for axis in self._order] + list(range(1, pairs.ndim, 2))
        moved = jnp.transpose(pairs, order)
        return moved.reshape(self.table_count, self._positions_of_a_table, -1, math.prod(self.lengths))

    def join(self, codes: jax.Array) -> jax.Array:
        """Codes ``[tables, positions, blocks]`` at their places."""
        moved = codes.reshape(tuple(self.codes_shape[axis] for axis in self._order))
        return jnp.transpose(moved, np.argsort(self._order).tolist())

    def join_tables(self, tables: jax.Array) -> jax.Array:
        """Tables ``[tables, levels, entries]`` with an axis for each of the codes'."""
        held = {*self.roles.stack, *(self._side if self.tables == "position" else ())}
        sizes = tuple(self.codes_shape[axis] if axis in held else 1 for axis in self._order)
        back = np.argsort(self._order).tolist()
        own = [len(sizes), len(sizes) + 1]
        return jnp.transpose(tables.reshape(*sizes, *tables.shape[1:]), (*back, *own))

    def metric(self, moment: jax.Array) -> jax.Array:
        """The part of second moments ``[layers, features, features]`` for each block ``[tables, positions, d, d]``.

        Features are the contracted axes flattened, those of a sliding window first (as `jaxcompress.core.moments` has
        them); blocks run along inputs.
        """
        features = self._features()
        own = moment[:, features[:, :, None], features[:, None, :]]
        return own.reshape(self.table_count, self._positions_of_a_table, *own.shape[2:])

    def importance(self, moment: jax.Array) -> jax.Array:
        """The mean square of the input that meets each weight, of the array's shape broadcast; blocks run along any."""
        diagonal = jnp.diagonal(moment, axis1=1, axis2=2)
        stack = tuple(self.shape[axis] for axis in self.roles.stack)
        order = (*self.roles.stack, *_flattened(self.roles))
        held = diagonal.reshape(*stack, *(self.shape[axis] for axis in _flattened(self.roles)))
        sorted_axes = jnp.transpose(held, np.argsort(order).tolist())
        sizes = tuple(size if axis in order else 1 for axis, size in enumerate(self.shape))
        return jnp.broadcast_to(sorted_axes.reshape(sizes), self.shape)

    @property
    def _side(self) -> tuple[int, ...]:
        return self.roles.contracting if self.along == "inputs" else self.roles.output

    @property
    def _order(self) -> tuple[int, ...]:
        """Stack axes, those that blocks run along, the others."""
        taken = (*self.roles.stack, *self._side)
        return (*taken, *(axis for axis in range(len(self.shape)) if axis not in taken))

    @property
    def _positions_of_a_table(self) -> int:
        return 1 if self.tables == "position" else self.positions

    def _features(self) -> np.ndarray:
        """The numbers of the features of each block, ``[positions, entries]``."""
        flattened, axes = _flattened(self.roles), self.roles.contracting
        numbers = np.arange(math.prod(self.shape[axis] for axis in axes))
        placed = numbers.reshape([self.shape[axis] for axis in flattened])
        placed = placed.transpose([flattened.index(axis) for axis in axes])
        pairs = [part for axis in axes for part in (self.codes_shape[axis], self.lengths[axis])]
        order = [*range(0, len(pairs), 2), *range(1, len(pairs), 2)]
        return placed.reshape(pairs).transpose(order).reshape(self.positions, -1)


def cut_of(
    shape: Sequence[int], roles: Roles, block: int, *, along: Along, tables: Tables, method: str, name: str
) -> Cut:
    """Blocks of that many neighbours: along a window first, then along the innermost other axis.

    Raises:
        ValueError: if ``block`` cannot be filled evenly.

    Example:
        >>> conv = Roles(stack=(), contracting=(0, 1, 2), output=(3,), spatial=(0, 1))
        >>> cut_of((3, 3, 8, 16), conv, 18, along="inputs", tables="layer", method="product", name="w").lengths
        (3, 3, 2, 1)
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ValueError(f"{method}: block must be a positive integer, got {block!r} for {name!r}")
    axes = tuple(reversed(_flattened(roles, last=True))) if along == "inputs" else tuple(reversed(roles.output))
    lengths, remaining = [1] * len(shape), block
    for axis in axes:
        within = min(remaining, shape[axis])
        if remaining % within or shape[axis] % within:
            break
        lengths[axis], remaining = within, remaining // within
    if math.prod(lengths) != block:
        sizes = tuple(shape[axis] for axis in reversed(axes))
        raise ValueError(
            f"{method}: block={block} does not divide the {along} of {name!r} evenly (shape {tuple(shape)}, sizes "
            f"{sizes} of which the last fills first): choose another, or leave the leaf out of where="
        )
    return Cut(tuple(shape), roles, tuple(lengths), along, tables)


def _flattened(roles: Roles, *, last: bool = False) -> tuple[int, ...]:
    """The contracted axes with those of a sliding window first, or last."""
    return tuple(sorted(roles.contracting, key=lambda axis: ((axis not in roles.spatial) != last, axis)))
