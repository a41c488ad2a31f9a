"""Labels: what every index of every axis of every value in a trace is tied to.

Each index of each axis carries an integer. Operations either hand label arrays on (a transpose, a slice, a
concatenation reuse them) or tie labels of different values together (an addition ties its operands' axes index by
index). What is connected must be removed together; what is pinned stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import user_line


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A value of the trace, as the analysis sees it.

    Attributes:
        labels: for every axis an int array, one label per index.
        masked: for every axis a float array: the number that all entries of the slice at that index equal once the unit
            of its label is masked (its entries in every parameter set to zero); NaN where that is not known, infinity
            where all that is known is that it may be zero (a select between zero and something else).
        const: the number that all entries equal, if it is known.
        weight: True if the value depends on a parameter.
    """

    labels: tuple[np.ndarray, ...]
    masked: tuple[np.ndarray, ...]
    const: float | None = None
    weight: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(len(axis) for axis in self.labels)


Source = tuple[JaxprEqn, ...]
"""An equation after those that enclose it."""


class Pinned(NamedTuple):
    """Labels that stay, why, and where it is said."""

    labels: np.ndarray
    reason: str
    source: Source


class Reshape(NamedTuple):
    """Axes that one axis is split into, or merged from: decided when everything else is known.

    Attributes:
        factors: labels of the several axes, outermost first.
        merged: labels of the one axis.
        weight: False if the value depends on no parameter: it is computed whole and cut where it is used.
        source: of the reshape.
    """

    factors: tuple[np.ndarray, ...]
    merged: np.ndarray
    weight: bool
    source: Source


class Product(NamedTuple):
    """Multiply-accumulates of one contraction: ``trips`` times the product of ``sizes`` and of the axes' lengths."""

    trips: int
    sizes: int
    axes: tuple[np.ndarray, ...]


def agreed(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """What masked values agree on; NaN where they do not."""
    same = np.all([first == other for other in others], axis=0) if others else True
    return np.where(same, first, np.nan)


def line_of(source: Source) -> str:
    """The innermost line of the user's code; an equation of a library's nested ``jit`` may know none of its own."""
    return next((line for eqn in reversed(source) if (line := user_line(eqn.source_info))), "")


def shape_of(var: Any) -> tuple[int, ...]:
    """Dense shape of a variable of the trace."""
    return var.aval.shape


class Graph:
    """All that a walk over a trace finds out."""

    def __init__(self) -> None:
        """An empty graph."""
        self.count = 0
        self.source: Source = ()
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[Pinned] = []
        self.reshapes: list[Reshape] = []
        self.products: list[Product] = []
        self.allowed: list[Pinned] = []

    def fresh(self, size: int) -> np.ndarray:
        """New labels, tied to nothing."""
        first = self.count
        self.count += size
        return np.arange(first, self.count)

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Ties two axes index by index."""
        if a is not b:
            self.ties.append((a, b))

    @contextlib.contextmanager
    def at(self, eqn: JaxprEqn) -> Iterator[None]:
        """What is found out inside is found at this equation."""
        outer, self.source = self.source, (*self.source, eqn)
        try:
            yield
        finally:
            self.source = outer

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """Says that these indices stay."""
        if len(labels):
            self.pins.append(Pinned(labels, reason, self.source))

    def reshape(self, factors: Sequence[np.ndarray], merged: np.ndarray, *, weight: bool) -> None:
        """Says that one axis is several axes merged, or split into them."""
        self.reshapes.append(Reshape(tuple(factors), merged, weight, self.source))

    def allow(self, labels: np.ndarray, reason: str) -> None:
        """Notes what would have been a pin."""
        self.allowed.append(Pinned(labels, reason, self.source))

    def value(
        self,
        shape: Sequence[int],
        *,
        const: float | None = None,
        weight: bool = False,
        masked: float | None = None,
    ) -> Labelled:
        """A value with fresh labels; ``masked`` (by default ``const``) is what all its masked slices equal."""
        known = const if masked is None else masked
        filling = np.nan if known is None else known
        labels = tuple(self.fresh(size) for size in shape)
        return Labelled(labels, tuple(np.full(size, filling) for size in shape), const, weight)

    def mark(self) -> tuple[int, ...]:
        """Where the graph stands, for `rollback`."""
        return (self.count, *(len(part) for part in self._parts()))

    def rollback(self, mark: tuple[int, ...]) -> None:
        """Forgets what came after a mark."""
        self.count = mark[0]
        for part, length in zip(self._parts(), mark[1:], strict=True):
            del part[length:]

    def _parts(self) -> tuple[list[Any], ...]:
        return self.ties, self.pins, self.reshapes, self.products, self.allowed
