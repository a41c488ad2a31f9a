"""What `groups` returns: the groups of a function, what is pinned and why, and what a choice of units costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from jaxcompress.core.fields import bit_width
from jaxcompress.core.paths import matches
from jaxcompress.core.table import html_table, text_table

Keep: TypeAlias = dict[tuple[str, int], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """An axis of a parameter that shrinks with a group.

    Attributes:
        path: path of the leaf.
        axis: axis of its dense shape.
        positions: int ``[units, m]``: the indices along the axis that each unit of the group owns; ``m`` is 1 for a
            channel, the size of a head where heads move.
    """

    path: str
    axis: int
    positions: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that are removed one by one, each from all members at once.

    Attributes:
        index: position in `Groups`.
        size: number of units.
        members: the axes that shrink, in the order of the tree.
    """

    index: int
    size: int
    members: tuple[Member, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the leaves, each once."""
        return tuple(dict.fromkeys(member.path for member in self.members))


@dataclasses.dataclass(frozen=True)
class Pin:
    """An axis of a parameter that cannot shrink, or not everywhere.

    Attributes:
        path: path of the leaf.
        axis: axis of its dense shape.
        entries: how many indices of the axis are pinned.
        reason: why, with the user's source line where one says so.
    """

    path: str
    axis: int
    entries: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """Length of an axis as a function of what is kept: ``fixed + sum(per_unit * kept[group])``."""

    fixed: int
    per_unit: tuple[tuple[int, int], ...]  # (group, indices that each of its units owns)

    def length(self, kept: Mapping[int, int], sizes: Sequence[int]) -> int:
        """The length with ``kept`` units of each group."""
        return self.fixed + sum(each * kept.get(group, sizes[group]) for group, each in self.per_unit)


@dataclasses.dataclass(frozen=True)
class Work:
    """Multiply-accumulates of contractions: ``times`` the product of the lengths of the axes."""

    times: int
    axes: tuple[Axis, ...]


class Groups(Sequence[Group]):
    """The groups of a function; prints as a table.

    Attributes:
        pins: axes of parameters that cannot shrink, with reasons.
        choices: what the policy for ambiguous reshapes chose, with source lines.
        allowed: reductions that were let through with ``reductions="allow"``, and what that means.
        shapes: dense shape of every leaf, by path.
        dtypes: dense dtype of every leaf, by path.
        fn: the function.
        inputs: its arguments after the parameters; arrays as `jax.ShapeDtypeStruct`.
        kwargs: its keyword arguments, likewise.
    """

    def __init__(
        self,
        entries: Sequence[Group],
        *,
        pins: Sequence[Pin],
        choices: Sequence[str],
        allowed: Sequence[str],
        work: Sequence[Work],
        leaves: Mapping[str, tuple[tuple[Axis, ...], np.dtype]],
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """Holds what an analysis found."""
        self._entries = tuple(entries)
        self._sizes = tuple(group.size for group in entries)
        self._work, self._leaves = tuple(work), dict(leaves)
        self.pins, self.choices, self.allowed = tuple(pins), tuple(choices), tuple(allowed)
        self.shapes = {path: tuple(a.length({}, self._sizes) for a in axes) for path, (axes, _) in leaves.items()}
        self.dtypes = {path: dtype for path, (_, dtype) in leaves.items()}
        self.fn, self.inputs, self.kwargs = call

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """A group, or a tuple of them for a slice."""
        return self._entries[index]

    def __iter__(self) -> Iterator[Group]:
        """Iterates over the groups."""
        return iter(self._entries)

    @property
    def work(self) -> tuple[Work, ...]:
        """Every contraction of a call, as a product of lengths that follow what is kept."""
        return self._work

    @property
    def axes(self) -> dict[str, tuple[Axis, ...]]:
        """The lengths of the axes of every leaf as they follow what is kept, by path."""
        return {path: axes for path, (axes, _) in self._leaves.items()}

    def select(self, where: str | Sequence[str] | Callable[[Group], bool] | None = None) -> tuple[Group, ...]:
        """The groups with a member whose path fits.

        Args:
            where: globs over paths (``!`` excludes), or a predicate over groups; None takes all.

        Raises:
            ValueError: if nothing fits; lists the members.
        """
        if where is None:
            return self._entries
        if callable(where):
            found = tuple(group for group in self if where(group))
        else:
            found = tuple(group for group in self if any(matches(path, where) for path in group.paths))
        if not found:
            listed = "\n  ".join(f"{group.index}: {', '.join(group.paths)}" for group in self)
            raise ValueError(f"where={where!r} fits no group. The groups are:\n  {listed}")
        return found

    def keep(self, kept: Mapping[int, ArrayLike]) -> Keep:
        """The indices that stay along every axis, for `jaxcompress.shrink`.

        Args:
            kept: the units that stay, by index of the group, in any order; groups not named stay whole.

        Returns:
            Kept indices, ascending, by ``(path, axis)``; axes that lose nothing are left out.

        Raises:
            ValueError: if there is no such group, or a unit is out of range or named twice.
        """
        dropped: dict[tuple[str, int], list[np.ndarray]] = {}
        for index, units in kept.items():
            gone = self._dropped(index, units)
            if len(gone):
                for member in self._entries[index].members:
                    dropped.setdefault((member.path, member.axis), []).append(member.positions[gone].ravel())
        keep: Keep = {}
        for (path, axis), parts in dropped.items():
            stays = np.ones(self.shapes[path][axis], bool)
            stays[np.concatenate(parts)] = False
            keep[path, axis] = np.flatnonzero(stays)
        return keep

    def _dropped(self, index: int, units: ArrayLike) -> np.ndarray:
        if not 0 <= index < len(self):
            raise ValueError(f"keep: there is no group {index}; there are {len(self)}")
        size, chosen = self._sizes[index], np.asarray(units, np.int64).ravel()
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < size):
            raise ValueError(f"keep: group {index} has units 0 to {size - 1}, got {chosen.min()} to {chosen.max()}")
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError(f"keep: a unit of group {index} is named twice")
        return np.setdiff1d(np.arange(size), chosen)

    def flops(self, kept: Mapping[int, int] | None = None) -> int:
        """Floating point operations of one call at the analysed inputs, 2 for each multiply-accumulate.

        Counted are products and convolutions (those of attention too); a ``while`` counts as one step of its body.

        Args:
            kept: number of units kept, by index of the group; groups not named stay whole.
        """
        kept = kept or {}
        lengths: dict[int, int] = {}  # axes are shared between many contractions

        def length(axis: Axis) -> int:
            if id(axis) not in lengths:
                lengths[id(axis)] = axis.length(kept, self._sizes)
            return lengths[id(axis)]

        return 2 * sum(work.times * math.prod(map(length, work.axes)) for work in self._work)

    def parameters(self, kept: Mapping[int, int] | None = None) -> int:
        """Entries of all leaves; ``kept`` as in `flops`."""
        return sum(self._entries_of(axes, kept) for axes, _ in self._leaves.values())

    def bytes(self, kept: Mapping[int, int] | None = None) -> int:
        """Bytes of all leaves as dense arrays; ``kept`` as in `flops`."""
        return sum(-(-self._entries_of(axes, kept) * bit_width(dtype) // 8) for axes, dtype in self._leaves.values())

    def _entries_of(self, axes: tuple[Axis, ...], kept: Mapping[int, int] | None) -> int:
        return math.prod(axis.length(kept or {}, self._sizes) for axis in axes)

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, self._rows(), self._notes())

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), self._notes())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for group in self:
            for i, member in enumerate(group.members):
                head = (str(group.index), str(group.size)) if i == 0 else ("", "")
                shape = "x".join(map(str, self.shapes[member.path]))
                each = member.positions.shape[1]
                rows.append((*head, member.path, shape, str(member.axis), str(each)))
        return rows

    def _notes(self) -> list[str]:
        units = sum(self._sizes)
        notes = [f"{len(self)} groups, {units:,} units; {self.flops():,} FLOPs, {self.parameters():,} parameters"]
        notes += [f"chosen: {choice}" for choice in self.choices]
        notes += [f"allowed: {text}" for text in self.allowed]
        return notes + [f"pinned: {pin.path} axis {pin.axis} ({pin.entries}): {pin.reason}" for pin in self.pins]


_COLUMNS = ("group", "units", "member", "shape", "axis", "indices per unit")
