"""Solving the equations of a system: unknowns fall apart into small blocks, and equal blocks are solved once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxcompress.core.rescaling.fields import ZERO, Equation, System

Vector = tuple[Fraction, ...]
Sum = tuple[int, tuple[int, ...], Vector]
"""Number of an equation, unknowns, their coefficients: together zero."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Unknowns that hang together, once for every unit of the same form.

    Attributes:
        owners: for every unknown of the block the part of the parameters that it scales; -1 for none.
        labels: int [units, unknowns].
        basis: solutions, each with one coefficient per unknown; together they span all.
    """

    owners: tuple[int, ...]
    labels: np.ndarray
    basis: tuple[Vector, ...]

    def solution(self, wanted: dict[int, int], order: Sequence[int]) -> Vector | None:
        """A solution with given coefficients of some unknowns, as many as possible zero of others, in an order."""
        space = _Space(len(self.basis))
        for unknown, value in wanted.items():
            if not space.demand([vector[unknown] for vector in self.basis], Fraction(value)):
                return None
        for unknown in order:
            space.demand([vector[unknown] for vector in self.basis], Fraction(0))
        shares = space.point()
        return tuple(
            sum((share * vector[i] for share, vector in zip(shares, self.basis, strict=True)), Fraction(0))
            for i in range(len(self.owners))
        )


def solve(system: System, owner: np.ndarray, rank: np.ndarray) -> tuple[list[Block], np.ndarray]:
    """Finds all scales that a system allows.

    Args:
        system: the equations.
        owner: for every label the part of the parameters that it scales; -1 for none.
        rank: for every such part how late it should be expressed by others: the last are free.

    Returns:
        The blocks that have solutions, and for every label the equation that makes it zero (-1: none does by itself).
    """
    cause = np.full(system.count, -1)
    zero = np.zeros(system.count, bool)
    zero[ZERO] = True
    _propagate(system.equations, zero, cause)
    members = _components(system.equations, zero)
    sums: dict[int, list[Sum]] = {}
    for number, equation in enumerate(system.equations):
        alive = ~zero[equation.labels]
        for column in np.flatnonzero(alive.any(axis=0)):
            chosen = alive[:, column]
            labels = equation.labels[chosen, column]
            coefficients = tuple(np.array(equation.coefficients, object)[chosen].tolist())
            sums.setdefault(int(members[labels[0]]), []).append((number, tuple(labels.tolist()), coefficients))
    found = np.flatnonzero(~zero & (owner >= 0))
    wanted = np.unique(members[found])
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], [wanted, wanted + 1])
    grouped: dict[tuple[tuple[int, ...], tuple[Sum, ...]], list[np.ndarray]] = {}
    for component, start, end in zip(wanted.tolist(), *bounds.tolist(), strict=True):
        labels = np.sort(order[start:end])
        place = {label: i for i, label in enumerate(labels.tolist())}
        rows = tuple(
            (number, tuple(place[label] for label in row), coefficients)
            for number, row, coefficients in sums.get(component, ())
        )
        grouped.setdefault((tuple(owner[labels].tolist()), rows), []).append(labels)
    blocks = []
    for (owners, rows), units in grouped.items():
        basis = _null_space(owners, rows, rank)
        if basis:
            blocks.append(Block(owners, np.stack(units), basis))
        else:
            last = rows[-1][0] if rows else -1
            for labels in units:
                cause[labels] = np.where(cause[labels] < 0, last, cause[labels])
    return blocks, cause


def _propagate(equations: Sequence[Equation], zero: np.ndarray, cause: np.ndarray) -> None:
    """Marks what an equation with a single unknown makes zero, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for number, equation in enumerate(equations):
            alive = ~zero[equation.labels]
            if equation.labels.shape[0] == 1:
                hit = equation.labels[0][alive[0]]
            else:
                single = alive.sum(axis=0) == 1
                hit = equation.labels[:, single][alive[:, single]]
            if len(hit):
                zero[hit] = True
                cause[hit] = number
                changed = True


def _components(equations: Sequence[Equation], zero: np.ndarray) -> np.ndarray:
    """Component of every label; what is zero ties nothing."""
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for equation in equations:
        alive = ~zero[equation.labels]
        for column_of in range(1, equation.labels.shape[0]):
            both = alive[:column_of].any(axis=0) & alive[column_of]
            first = equation.labels[alive[:column_of].argmax(axis=0), np.arange(equation.labels.shape[1])]
            ends.append((first[both], equation.labels[column_of][both]))
    a, b = (np.concatenate([end[side] for end in ends] or [np.zeros(0, int)]) for side in (0, 1))
    count = len(zero)
    return connected_components(coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count)), directed=False)[1]


def _null_space(owners: tuple[int, ...], rows: Sequence[Sum], rank: np.ndarray) -> tuple[Vector, ...]:
    """Solutions of one block, each with the fewest unknowns; those that scale no parameter are left out."""
    order = sorted(range(len(owners)), key=lambda i: (owners[i] >= 0, rank[owners[i]] if owners[i] >= 0 else 0, i))
    position = {unknown: i for i, unknown in enumerate(order)}
    reduced: dict[int, dict[int, Fraction]] = {}  # pivot position -> row
    for _, unknowns, coefficients in rows:
        row: dict[int, Fraction] = {}
        for unknown, coefficient in zip(unknowns, coefficients, strict=True):
            row[position[unknown]] = row.get(position[unknown], Fraction(0)) + coefficient
        row = _eliminated({at: c for at, c in row.items() if c}, reduced)
        if row:
            pivot = min(row)
            row = {at: c / row[pivot] for at, c in row.items()}
            for other, known in reduced.items():
                if pivot in known:
                    reduced[other] = _minus(known, row, known[pivot])
            reduced[pivot] = row
    basis = []
    for free in range(len(order)):
        if free in reduced:
            continue
        vector = [Fraction(0)] * len(order)
        vector[order[free]] = Fraction(1)
        for pivot, row in reduced.items():
            vector[order[pivot]] = -row.get(free, Fraction(0))
        if any(c and owners[i] >= 0 for i, c in enumerate(vector)):
            basis.append(tuple(vector))
    return tuple(basis)


def independent(vectors: Sequence[Vector]) -> list[Vector]:
    """Those that are no combination of vectors before them."""
    reduced: dict[int, dict[int, Fraction]] = {}
    kept = []
    for vector in vectors:
        row = _eliminated({at: c for at, c in enumerate(vector) if c}, reduced)
        if row:
            pivot = min(row)
            row = {at: c / row[pivot] for at, c in row.items()}
            for other, known in reduced.items():
                if pivot in known:
                    reduced[other] = _minus(known, row, known[pivot])
            reduced[pivot] = row
            kept.append(vector)
    return kept


def _eliminated(row: dict[int, Fraction], reduced: dict[int, dict[int, Fraction]]) -> dict[int, Fraction]:
    for pivot in [at for at in row if at in reduced]:
        row = _minus(row, reduced[pivot], row[pivot])
    return row


def _minus(row: dict[int, Fraction], other: dict[int, Fraction], factor: Fraction) -> dict[int, Fraction]:
    out = dict(row)
    for at, coefficient in other.items():
        out[at] = out.get(at, Fraction(0)) - factor * coefficient
        if not out[at]:
            del out[at]
    return out


class _Space:
    """Points of a space of few dimensions that meet linear demands."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: dict[int, tuple[list[Fraction], Fraction]] = {}

    def demand(self, row: Sequence[Fraction], value: Fraction) -> bool:
        """Adds ``row @ point == value`` unless it contradicts what was demanded before; True if it holds now."""
        row = list(row)
        for pivot, (known, result) in self._rows.items():
            if row[pivot]:
                factor = row[pivot]
                row = [a - factor * b for a, b in zip(row, known, strict=True)]
                value -= factor * result
        pivot = next((i for i, c in enumerate(row) if c), None)
        if pivot is None:
            return not value
        row, value = [c / row[pivot] for c in row], value / row[pivot]
        for other, (known, result) in self._rows.items():
            if known[pivot]:
                factor = known[pivot]
                self._rows[other] = [a - factor * b for a, b in zip(known, row, strict=True)], result - factor * value
        self._rows[pivot] = row, value
        return True

    def point(self) -> list[Fraction]:
        """The point whose undetermined coordinates are zero."""
        return [self._rows[i][1] if i in self._rows else Fraction(0) for i in range(self._size)]
