"""Fields: by what factor every entry of a value is scaled, as logarithms linear in unknowns.

Every parameter may be scaled along its axes by unknown positive factors. What that does to a value of the trace is a
sum of terms: a coefficient times an array of labels, one label (an unknown) for every index of the axes that the term
depends on. Primitives hand terms on or demand that sums of terms vanish; the solutions are the scale symmetries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Source, line_of

ZERO = 0
"""The label of what is not scaled."""

_LARGEST = 1 << 20


class Term(NamedTuple):
    """A part of a field: ``coefficient * unknown[labels]``, axes of length 1 where labels are equal."""

    coefficient: Fraction
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A value of the trace, as the analysis sees it.

    Attributes:
        terms: their sum is the logarithm of the factor of every entry. Labels have the axes of the steps of the
            enclosing scans, then those of the value.
        const: the number that all entries equal, if it is known.
        data: whether it depends on inputs, and not on parameters and constants alone.
    """

    terms: tuple[Term, ...] = ()
    const: float | None = None
    data: bool = False

    @property
    def neutral(self) -> bool:
        """True of zeros and infinities, which no positive factor changes."""
        return self.const is not None and (self.const == 0 or math.isinf(self.const))


class Equation(NamedTuple):
    """Sums that vanish: for every column of ``labels`` [terms, sums], ``coefficients @ unknown[column] == 0``."""

    coefficients: tuple[Fraction, ...]
    labels: np.ndarray
    reason: str
    source: Source

    def __str__(self) -> str:
        line = line_of(self.source)
        return f"{self.reason}, at {line}" if line else self.reason


class System:
    """All equations that a walk over a trace finds."""

    def __init__(self) -> None:
        """No unknown but the one that is zero."""
        self.count = 1
        self.equations: list[Equation] = []
        self.source: Source = ()

    def fresh(self, *shape: int) -> np.ndarray:
        """Labels of new unknowns."""
        first = self.count
        self.count += math.prod(shape)
        return np.arange(first, self.count).reshape(shape)

    @contextlib.contextmanager
    def at(self, eqn: JaxprEqn) -> Iterator[None]:
        """What is found inside is found at this equation of the trace."""
        outer, self.source = self.source, (*self.source, eqn)
        try:
            yield
        finally:
            self.source = outer

    def zero(self, terms: Iterable[Term], reason: str) -> None:
        """Demands that a sum of terms vanishes everywhere.

        Terms that depend on other axes than the rest must vanish by themselves. That is more than is needed, since a
        constant could pass from one axis to another; but such a constant scales a parameter along one axis and back
        along the other.
        """
        rest = combined(terms)
        parts = sorted({dependence(term.labels) for term in rest}, key=len, reverse=True)
        largest = [part for i, part in enumerate(parts) if not any(part <= other for other in parts[:i])]
        for axes in largest:
            together = [term for term in rest if dependence(term.labels) <= axes]
            rest = [term for term in rest if not dependence(term.labels) <= axes]
            self._add(together, reason)

    def equal(self, first: Sequence[Term], second: Sequence[Term], reason: str) -> None:
        """Demands that two fields are equal."""
        self.zero([*first, *times(second, -1)], reason)

    def _add(self, terms: Sequence[Term], reason: str) -> None:
        shape = np.broadcast_shapes(*(term.labels.shape for term in terms))
        if math.prod(shape) > _LARGEST and len(terms) > 1:
            for term in terms:
                self._add([term], reason)
            return
        columns = np.stack([np.broadcast_to(term.labels, shape).ravel() for term in terms])
        coefficients = tuple(term.coefficient for term in terms)
        self.equations.append(Equation(coefficients, np.unique(columns, axis=1), reason, self.source))

    def mark(self) -> tuple[int, int]:
        """Where the system stands, for `rollback`."""
        return self.count, len(self.equations)

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forgets what came after a mark."""
        self.count = mark[0]
        del self.equations[mark[1] :]


def dependence(labels: np.ndarray) -> frozenset[int]:
    """The axes along which labels may differ."""
    return frozenset(axis for axis, size in enumerate(labels.shape) if size != 1)


def combined(terms: Iterable[Term]) -> list[Term]:
    """The same sum, each array of labels once, nothing that is zero."""
    sums: dict[tuple[tuple[int, ...], bytes], Term] = {}
    for coefficient, labels in terms:
        key = labels.shape, np.ascontiguousarray(labels).tobytes()
        known = sums[key].coefficient if key in sums else Fraction(0)
        sums[key] = Term(known + coefficient, labels)
    return [term for term in sums.values() if term.coefficient and term.labels.any()]


def times(terms: Iterable[Term], factor: Fraction | int) -> list[Term]:
    """The field of a power."""
    return [Term(coefficient * factor, labels) for coefficient, labels in terms]


def thin(labels: np.ndarray) -> np.ndarray:
    """The same labels, with axes of length 1 where they are equal."""
    for axis, size in enumerate(labels.shape):
        first = labels.take([0], axis) if size > 1 else labels
        if size > 1 and (labels == first).all():
            labels = first
    return labels


def raised(terms: Iterable[Term], ndim: int) -> tuple[Term, ...]:
    """Terms with axes of length 1 appended up to ``ndim``: those of a scalar that meets an array."""
    return tuple(
        Term(coefficient, labels.reshape(labels.shape + (1,) * (ndim - labels.ndim))) for coefficient, labels in terms
    )
