"""What a rotation of parameters makes of a value: along every axis it is turned, constant, or as it was.

Every axis of every parameter may be turned by an orthogonal matrix of its own. Along an axis a value is then one of:

* turned: ``x -> x @ Q`` with the matrix of a class; classes are joined where two values meet that must be turned alike;
* even: constant along the axis (it was broadcast there), so that no matrix shows;
* a square: the diagonal of ``a.T @ b`` for two values turned alike. Only its sum, the trace, is as it was.

A class that is fixed has the identity for its matrix: an ordinary axis.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from jaxcompress.core.groups.labels import Source, line_of


class Step(NamedTuple):
    """The step of a scan as the index of an axis."""

    scan: int


Picks: TypeAlias = "tuple[tuple[int, int | Step], ...]"
"""Axes of a parameter that an index, or the step of a scan, took off."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """A parameter that a value is, up to moves: ``scale * leaf + offset``; not ``exact``: times further factors."""

    path: str
    shape: tuple[int, ...]
    picks: Picks = ()
    scale: float = 1.0
    offset: float = 0.0
    exact: bool = True

    def pick(self, axis: int, index: int | Step) -> Leaf:
        """What is left after an index along an axis of the parameter."""
        return dataclasses.replace(self, picks=tuple(sorted({**dict(self.picks), axis: index}.items())))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a value.

    Attributes:
        node: what turns it; None if the value is constant along it.
        square: True of the diagonal of a product.
        of: the axis of the value's `Leaf` that it is.
    """

    node: int | None = None
    square: bool = False
    of: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value of the trace, as the analysis sees it.

    Attributes:
        axes: one for each of its axes.
        const: the number that all entries equal, if it is known.
        data: whether it depends on inputs, and not on parameters and constants alone.
        leaf: the parameter that it is, if it is one.
    """

    axes: tuple[Axis, ...]
    const: float | None = None
    data: bool = False
    leaf: Leaf | None = None


class Slice(NamedTuple):
    """Entries of a parameter along one axis, with what took the other axes off."""

    path: str
    axis: int
    picks: Picks


class Vector(NamedTuple):
    """A slice that multiplies data: by ``scale * entries + offset``, or by a multiple of that where not ``exact``."""

    slice: Slice
    scale: float
    offset: float


class Link(NamedTuple):
    """Data of class ``before`` multiplied by a parameter, entry by entry, is of class ``after``."""

    before: int
    after: int
    gain: Vector
    source: Source


class Edge(NamedTuple):
    """Two nodes that were joined, how, and the slices of parameters that they were, if they were."""

    nodes: tuple[int, int]
    how: str
    slices: tuple[Slice | None, Slice | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """An axis that may be turned: of a parameter (``"leaf"``), of data times a gain (``"gain"``), or of other data."""

    kind: str
    path: str = ""
    axis: int = 0


class Classes:
    """Nodes, joined where they are turned by the same matrix, and all that was found out about them."""

    def __init__(self) -> None:
        """No node."""
        self.nodes: list[Node] = []
        self.links: list[Link] = []
        self.edges: list[Edge] = []
        self.gains: dict[int, Source] = {}  # nodes of parameters that data is multiplied by
        self.spoiled: dict[int, str] = {}  # nodes that are used as more than an operand of products and sums
        self.source: Source = ()
        self._parents: list[int] = []
        self._fixed: dict[int, str] = {}
        self._ones: dict[int, str] = {}

    @contextlib.contextmanager
    def at(self, eqn: Any) -> Iterator[None]:
        """What is found inside is found at this equation of the trace."""
        outer, self.source = self.source, (*self.source, eqn)
        try:
            yield
        finally:
            self.source = outer

    def told(self, reason: str, source: Source | None = None) -> str:
        """A reason with the user's line."""
        line = line_of(self.source if source is None else source)
        return f"{reason}, at {line}" if line else reason

    def fresh(self, node: Node | None = None) -> int:
        """A new node in a class of its own."""
        self.nodes.append(node or Node("data"))
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, node: int) -> int:
        """The node that stands for the class."""
        while self._parents[node] != node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def join(self, a: int, b: int, how: str, slices: tuple[Slice | None, Slice | None] = (None, None)) -> None:
        """Says that two nodes are turned alike."""
        self.edges.append(Edge((a, b), how, slices))
        first, second = self.root(a), self.root(b)
        if first == second:
            return
        self._parents[second] = first
        for known in (self._fixed, self._ones):
            if second in known:
                known.setdefault(first, known[second])

    def fix(self, node: int, reason: str) -> None:
        """Says that a class is not turned."""
        self.fix_as(node, self.told(reason))

    def fix_as(self, node: int, reason: str) -> None:
        """The same for a reason that names its line."""
        self._fixed.setdefault(self.root(node), reason)

    def fixed(self, node: int) -> str | None:
        """Why a class is not turned; None if it may be."""
        return self._fixed.get(self.root(node))

    def keep_ones(self, node: int, reason: str) -> None:
        """Says that the matrix of a class has to map the vector of ones to itself."""
        self._ones.setdefault(self.root(node), self.told(reason))

    def ones(self, node: int) -> str | None:
        """Why a class keeps the vector of ones; None if it need not."""
        return self._ones.get(self.root(node))

    def spoil(self, node: int, reason: str) -> None:
        """Says that a node is used in a way that a factor does not pass."""
        self.spoiled.setdefault(node, self.told(reason))

    def members(self) -> dict[int, list[int]]:
        """Nodes by the root of their class."""
        found: dict[int, list[int]] = {}
        for node in range(len(self.nodes)):
            found.setdefault(self.root(node), []).append(node)
        return found


def slice_of(value: Value, axis: int) -> Slice | None:
    """The entries of a parameter that a value is linear in along one of its axes, or None."""
    leaf, of = value.leaf, value.axes[axis].of
    return None if leaf is None or of is None or leaf.offset else Slice(leaf.path, of, leaf.picks)


def vector_of(value: Value, axis: int) -> Vector | None:
    """The entries of a parameter that a value is a multiple of along one of its axes, if it has no other axis there."""
    leaf, of = value.leaf, value.axes[axis].of
    if leaf is None or of is None:
        return None
    gone = {of, *dict(leaf.picks)}
    alone = all(size == 1 for place, size in enumerate(leaf.shape) if place not in gone)
    return Vector(Slice(leaf.path, of, leaf.picks), leaf.scale, leaf.offset) if alone else None


def even(ndim: int) -> tuple[Axis, ...]:
    """Axes along which nothing changes."""
    return (Axis(),) * ndim


def raised(values: Sequence[Value]) -> list[Value]:
    """Scalars that meet arrays, with an even axis for each of theirs."""
    ndim = max(len(value.axes) for value in values)
    return [value if value.axes else dataclasses.replace(value, axes=even(ndim)) for value in values]
