"""Sets of units whose number is elastic, and the masks that runtime counts of them put over parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.groups import Member
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """Units that leave a network one after the other: channels of a group, or the layers of a scanned stack.

    Attributes:
        name: of the variable of the space.
        members: the axes that they own indices of.
        counts: how many may stay, ascending; the last is all of them.
        ranked: the units, the one that stays longest first.
        branches: names of the branches without which none of them stays.
        group: index of the group in `jaxcompress.groups`; None for layers.
    """

    name: str
    members: tuple[Member, ...]
    counts: tuple[int, ...]
    ranked: np.ndarray
    branches: tuple[str, ...] = ()
    group: int | None = None

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.ranked)

    def kept(self, count: int) -> np.ndarray:
        """The units that stay, ascending."""
        return np.sort(self.ranked[:count])


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """The tables behind masks: whose unit every index of every cut axis is.

    Attributes:
        rank: int32 ``[units of all sets]``: the place of a unit in the order of its set.
        owner: int32 ``[units of all sets]``: its set.
        axes: by path and axis int32 ``[length]``: the unit that owns an index; one past the last for none.
    """

    rank: np.ndarray
    owner: np.ndarray
    axes: Mapping[tuple[str, int], np.ndarray]

    @classmethod
    def of(cls, sets: Sequence[Units], shapes: Mapping[str, tuple[int, ...]]) -> Masking:
        """Tables for some sets over leaves of the given shapes."""
        starts = np.cumsum([0, *(units.size for units in sets)])
        rank = np.concatenate([np.zeros(0, np.int32), *(np.argsort(units.ranked) for units in sets)]).astype(np.int32)
        owner = np.repeat(np.arange(len(sets), dtype=np.int32), np.diff(starts))
        axes: dict[tuple[str, int], np.ndarray] = {}
        for start, units in zip(starts[:-1], sets, strict=True):
            for member in units.members:
                key = member.path, member.axis
                free = np.full(shapes[member.path][member.axis], starts[-1], np.int32)
                table = axes.setdefault(key, free)
                table[member.positions] = start + np.arange(units.size, dtype=np.int32)[:, None]
        return cls(rank, owner, axes)

    @functools.cached_property
    def by_path(self) -> dict[str, list[tuple[int, np.ndarray]]]:
        """The cut axes of every leaf."""
        found: dict[str, list[tuple[int, np.ndarray]]] = {}
        for (path, axis), table in self.axes.items():
            found.setdefault(path, []).append((axis, table))
        return found

    def alive(self, counts: jax.Array) -> jax.Array:
        """Which units stay with ``counts`` int32 ``[sets]``: bool ``[units + 1]``, the last for what is no unit's."""
        if not len(self.rank):
            return jnp.ones(1, bool)
        return jnp.concatenate([jnp.asarray(self.rank) < counts[self.owner], jnp.ones(1, bool)])

    def masks(self, counts: jax.Array) -> dict[tuple[str, int], jax.Array]:
        """Which indices of every cut axis stay."""
        alive = self.alive(counts)
        return {key: alive[table] for key, table in self.axes.items()}

    def apply(self, params: Any, counts: jax.Array) -> Any:
        """The tree with zeros at what does not stay; differentiable, what is dropped has zero gradient.

        Raises:
            ValueError: if a leaf that is cut is compressed or missing.
        """
        alive = self.alive(counts)
        paths, leaves, treedef = flatten_with_paths(params)
        missing = sorted(set(self.by_path) - set(paths))
        if missing:
            raise ValueError(f"supernet: params has no leaf at {missing[0]!r}; it has {paths}")
        masked = [
            self._masked(path, leaf, alive) if path in self.by_path else leaf
            for path, leaf in zip(paths, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, masked)

    def _masked(self, path: str, leaf: Any, alive: jax.Array) -> jax.Array:
        if is_compressed(leaf):
            raise ValueError(f"supernet: the leaf at {path!r} is compressed ({leaf.kind}): jaxcompress.materialize it")
        mask = jnp.ones((1,) * leaf.ndim, bool)
        for axis, table in self.by_path[path]:
            mask = mask & alive[table].reshape([-1 if other == axis else 1 for other in range(leaf.ndim)])
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))
