"""Labels: what every index of every axis of every value in a trace is tied to.

Each index of each axis carries an integer. Operations either hand label arrays on (a transpose, a slice, a
concatenation reuse them) or tie labels of different values together (an addition ties its operands' axes index by
index). What is connected must be removed together; what is pinned stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A value of the trace, as the analysis sees it.

    Attributes:
        labels: for every axis an int array, one label per index.
        zeros: for every axis a bool array: True where the slice at that index is exactly zero once the unit that its
            label belongs to is masked (its entries in every parameter set to zero).
        const: the number that all entries equal, if it is known.
        weight: True if the value depends on a parameter.
    """

    labels: tuple[np.ndarray, ...]
    zeros: tuple[np.ndarray, ...]
    const: float | None = None
    weight: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(len(axis) for axis in self.labels)


class Pinned(NamedTuple):
    """Labels that stay, why, and the equation that says so."""

    labels: np.ndarray
    reason: str
    eqn: JaxprEqn | None


class Reshape(NamedTuple):
    """Axes that one axis is split into, or merged from: decided when everything else is known.

    Attributes:
        factors: labels of the several axes, outermost first.
        merged: labels of the one axis.
        weight: False if the value depends on no parameter: it is computed whole and cut where it is used.
        eqn: the reshape.
    """

    factors: tuple[np.ndarray, ...]
    merged: np.ndarray
    weight: bool
    eqn: JaxprEqn


class Product(NamedTuple):
    """Multiply-accumulates of one contraction: ``trips`` times the product of ``sizes`` and of the axes' lengths."""

    trips: int
    sizes: int
    axes: tuple[np.ndarray, ...]


def shape_of(var: Any) -> tuple[int, ...]:
    """Dense shape of a variable of the trace."""
    return var.aval.shape


class Graph:
    """All that a walk over a trace finds out."""

    def __init__(self) -> None:
        """An empty graph."""
        self.count = 0
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

    def pin(self, labels: np.ndarray, reason: str, eqn: JaxprEqn | None = None) -> None:
        """Says that these indices stay."""
        if len(labels):
            self.pins.append(Pinned(labels, reason, eqn))

    def allow(self, labels: np.ndarray, reason: str, eqn: JaxprEqn) -> None:
        """Notes what would have been a pin."""
        self.allowed.append(Pinned(labels, reason, eqn))

    def value(
        self, shape: Sequence[int], *, const: float | None = None, weight: bool = False, zero: bool | None = None
    ) -> Labelled:
        """A value with fresh labels; ``zero`` says whether masked slices are zero (by default, if ``const`` is 0)."""
        flag = const == 0 if zero is None else zero
        return Labelled(
            tuple(self.fresh(size) for size in shape), tuple(np.full(size, flag) for size in shape), const, weight
        )

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
