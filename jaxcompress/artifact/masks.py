"""Models of a bitmask: which rows and columns its True entries stand in, or nothing but how many there are.

Pruned weights leave rows and columns empty or nearly so: how many True entries each row and each column has tells much
about where they are. These numbers are coded first; then the entries, column by column, each under the probability that
the numbers *still to come* give it. What is certain (an exhausted row, a row that must be full) costs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from jaxcompress.artifact.entropy import Coder, adaptive, snap
from jaxcompress.artifact.tallies import tallies

_SMALL, _LARGE = 1 << 16, 1 << 19  # elements; masks above are tried in fewer ways, coded in coarser steps, for speed
_SLICES, _SLICE_ROWS = 8, 16  # a column of a small mask is coded in so many steps, of so many rows at least


def mask(io: Coder, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Codes a bool array by the cheapest of several models, which differ in the axes that are rows, too."""
    count = math.prod(shape)
    flat = None if values is None else np.ascontiguousarray(values, np.int32).reshape(-1)
    options: list[Callable[[Coder], np.ndarray]] = [lambda io: adaptive(io, flat, count, 2, 1)]
    if count:
        options += [
            lambda io, split=split, transposed=transposed, both=both: _in_view(
                io, values, shape, split, transposed, both
            )
            for split, transposed in _views(shape)
            for both in (False, True)
        ]
    return io.choose(options).astype(np.bool_).reshape(shape)


def _views(shape: tuple[int, ...]) -> list[tuple[int, bool]]:
    """The matrices that a mask is tried as: ``(axes that are rows, transposed)``."""
    splits = range(1, len(shape))
    if math.prod(shape) <= _SMALL:
        return list(itertools.product(splits, (False, True)))
    return [(split, math.prod(shape[:split]) < math.prod(shape[split:])) for split in splits[-1:]]


def _in_view(
    io: Coder, values: np.ndarray | None, shape: tuple[int, ...], split: int, transposed: bool, both: bool
) -> np.ndarray:
    sides = math.prod(shape[:split]), math.prod(shape[split:])
    matrix = None if values is None else values.reshape(sides)
    if transposed:
        return _by_margins(io, None if matrix is None else matrix.T, sides[1], sides[0], both).T.reshape(-1)
    return _by_margins(io, matrix, *sides, both).reshape(-1)


def _by_margins(io: Coder, matrix: np.ndarray | None, rows: int, columns: int, both: bool) -> np.ndarray:
    """Codes a bool matrix given how many entries of each row (and, with ``both``, of each column) are True."""
    row = tallies(io, None if matrix is None else matrix.sum(1), rows, columns)
    column = None
    if both:
        column = tallies(io, None if matrix is None else matrix.sum(0), columns, rows)
    steps = range(columns) if column is None else np.flatnonzero(column).tolist()
    slices = _SLICES if rows * columns <= _LARGE else 1
    out = np.zeros((columns, rows), np.bool_)
    given = None if matrix is None else np.ascontiguousarray(matrix.T)
    for done, step in enumerate(steps):
        active = np.flatnonzero(row > 0)
        if not active.size:
            break
        left = len(steps) - done
        need = None if column is None else int(column[step])
        size = active.size if need is None else max(_SLICE_ROWS, -(-active.size // slices))
        for start in range(0, active.size, size):
            if need is not None and need <= 0:
                break
            rest = active[start:]
            share = np.minimum(row[rest] / left, 1.0)
            probability = share if need is None else _tilt(share, row[rest], left, need)
            chosen = rest[:size]
            bits = io.binary(None if given is None else given[step, chosen], snap(probability[:size]))
            out[step, chosen] = bits
            row[chosen] -= bits
            need = None if need is None else need - int(bits.sum())
    return out.T


def _tilt(share: np.ndarray, row: np.ndarray, left: int, need: int) -> np.ndarray:
    """Tilts the odds of the rows so that about ``need`` of them are expected to be True."""
    count = share.size
    if need >= count:
        return np.ones(count)
    odds = snap(share) / (1 - snap(share))
    expected = int(row.sum()) / left
    for _ in range(2):
        expected = min(max(expected, 1e-3), count - 1e-3)
        odds = odds * (need / (count - need)) / (expected / (count - expected))
        probability = odds / (1 + odds)
        expected = int(np.rint(probability * (1 << 20)).sum(dtype=np.float64)) / (1 << 20)
    return odds / (1 + odds)
