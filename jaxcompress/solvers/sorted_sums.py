"""Sorted values, and the moments of any interval of them at the cost of a cube root of their number.

A prefix sum over a million float32 values loses the small clusters in the tails. Here runs of neighbours have moments
about their own middle, runs of runs likewise, and an interval is the sum of the few that it consists of, all of it
relative to the number that is asked about: nothing large cancels.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

_DIRECT = 128  # entries that are summed over one by one

Moments: TypeAlias = "tuple[jax.Array, jax.Array, jax.Array]"


class _Level(NamedTuple):
    """Runs of neighbours: their middles, and their moments about these; of single values the weights alone."""

    centre: jax.Array  # [runs]
    moments: tuple[jax.Array, ...]  # of orders 0, or 0, 1 and 2; each [runs]


class SortedSums(NamedTuple):
    """Values in ascending order, weights beside them, padded by weights of 0; then runs of ``size`` each, and so on."""

    levels: tuple[_Level, ...]
    size: int

    @property
    def values(self) -> jax.Array:
        """The sorted values, with the padding."""
        return self.levels[0].centre

    @property
    def weights(self) -> jax.Array:
        """Their weights."""
        return self.levels[0].moments[0]


def sorted_sums(x: jax.Array, weights: jax.Array | None = None) -> SortedSums:
    """Sorts values and adds them up in runs of runs.

    Args:
        x: finite floats ``[n]``, n at least 1.
        weights: nonnegative ``[n]``, or bool: which values count. None: all do.

    Example:
        >>> sums = sorted_sums(jnp.array([3.0, 1.0, 2.0]), jnp.array([True, True, False]))
        >>> sums.values.tolist(), sums.weights.tolist()
        ([1.0, 3.0, 3.0], [1.0, 1.0, 0.0])
    """
    values, mass = _sorted(x, weights)
    size = _run_length(x.size)
    levels = [_Level(values, (mass,))]
    while levels[-1].centre.size > _DIRECT:
        below = _padded(levels.pop(), size)
        levels += [below, _runs(below, size)]
    return SortedSums(tuple(levels), size)


def interval_moments(sums: SortedSums, about: jax.Array, start: jax.Array, end: jax.Array) -> Moments:
    """Weight, and moments of orders 1 and 2 about a number, of the values at sorted positions ``start`` to ``end - 1``.

    Args:
        sums: of `sorted_sums`.
        about: ``[intervals]``, and so the following.
        start: int32, from 0.
        end: int32; what ends before it starts is empty.

    Example:
        >>> sums = sorted_sums(jnp.array([1.0, 5.0, 3.0]))
        >>> [m.tolist() for m in interval_moments(sums, jnp.array([3.0]), jnp.array([1]), jnp.array([3]))]
        [[2.0], [2.0], [4.0]]
    """
    return _inside(sums.levels, sums.size, about, start, end)


def quantiles(sums: SortedSums, fraction: jax.Array) -> jax.Array:
    """The least values below which at least the given fractions of the weight lie (or equal to them)."""
    reached = jnp.cumsum(sums.weights)
    at = jnp.searchsorted(reached, fraction * reached[-1])
    return sums.values[jnp.minimum(at, sums.values.size - 1)]


def _inside(levels: tuple[_Level, ...], size: int, about: jax.Array, start: jax.Array, end: jax.Array) -> Moments:
    """Runs that an interval holds whole are summed on the next level; those that it cuts, entry by entry."""
    level, rest = levels[0], levels[1:]
    if not rest:
        every = jnp.arange(level.centre.size, dtype=jnp.int32)[None, :]
        return _masked_sum(jax.tree.map(lambda part: part[None, :], level), about, every, start, end)
    first, last = start // size, end // size  # the runs that hold the ends; `last` may lie past the array
    whole = _inside(rest, size, about, first + 1, last)
    cut = jnp.concatenate([first, last])
    begin = jnp.concatenate([start, jnp.maximum(start, last * size)])
    stop = jnp.concatenate([end, jnp.where(last > first, end, 0)])
    entries = cut[:, None] * size + jnp.arange(size, dtype=jnp.int32)[None, :]  # [2 intervals, size]
    run = jnp.minimum(cut, level.centre.size // size - 1)
    taken = jax.tree.map(lambda part: part.reshape(-1, size)[run], level)
    ends = _masked_sum(taken, jnp.tile(about, 2), entries, begin, jnp.minimum(stop, level.centre.size))
    halves = (part.reshape(2, -1) for part in ends)
    m0, m1, m2 = (a + b[0] + b[1] for a, b in zip(whole, halves, strict=True))
    return m0, m1, m2


def _masked_sum(entries: _Level, about: jax.Array, position: jax.Array, start: jax.Array, end: jax.Array) -> Moments:
    """Moments about a number of the entries at positions in an interval; one interval a row."""
    inside = (position >= start[:, None]) & (position < end[:, None])
    shift = entries.centre - about[:, None]
    m0, m1, m2 = _moved(entries.moments, shift)
    zero = jnp.zeros((), shift.dtype)
    a, b, c = (jnp.sum(jnp.where(inside, moment, zero), axis=1) for moment in (m0, m1, m2))
    return a, b, c


def _moved(moments: tuple[jax.Array, ...], shift: jax.Array) -> Moments:
    """Moments about another number, by how much it is less."""
    m0 = moments[0]
    if len(moments) == 1:
        return m0, m0 * shift, m0 * shift * shift
    _, m1, m2 = moments
    return m0, m1 + shift * m0, m2 + shift * (2 * m1 + shift * m0)


def _runs(level: _Level, size: int) -> _Level:
    """Runs of ``size`` entries as one."""
    rows = jax.tree.map(lambda part: part.reshape(-1, size), level)
    centre = 0.5 * rows.centre[:, 0] + 0.5 * rows.centre[:, -1]
    m0, m1, m2 = _moved(rows.moments, rows.centre - centre[:, None])
    return _Level(centre, (m0.sum(axis=1), m1.sum(axis=1), m2.sum(axis=1)))


def _padded(level: _Level, size: int) -> _Level:
    """Entries without weight at the end, up to whole runs."""
    more = -level.centre.size % size
    moments = tuple(jnp.pad(moment, (0, more)) for moment in level.moments)
    return _Level(jnp.pad(level.centre, (0, more), mode="edge"), moments)


def _run_length(count: int) -> int:
    """The root of the count that is small enough to sum over: its square root up to 16384, its cube root up to 2 M."""
    levels = 1
    while _DIRECT**levels < count:
        levels += 1
    size = round(count ** (1 / levels))
    return max(2, size if size**levels >= count else size + 1)


def _sorted(x: jax.Array, weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Ascending values and their weights. Floats are sorted as integers: five times as fast on a CPU."""
    if weights is None:
        # Ones that XLA does not know to be ones: it would add up a constant of this size while compiling, for seconds.
        return _as_floats(lax.sort(_as_integers(x)), x.dtype), jnp.isfinite(x).astype(x.dtype)
    if weights.dtype != jnp.bool_:
        keys, mass = lax.sort((_as_integers(x), weights.astype(x.dtype)), num_keys=1)
        return _as_floats(keys, x.dtype), mass
    largest = jnp.max(jnp.where(weights, x, -jnp.inf))  # what does not count stands behind, as the largest that does
    largest = jnp.where(weights.any(), largest, jnp.zeros((), x.dtype))
    values = _as_floats(lax.sort(_as_integers(jnp.where(weights, x, largest))), x.dtype)
    counted = jnp.arange(x.size, dtype=jnp.int32) < jnp.sum(weights, dtype=jnp.int32)
    return values, counted.astype(x.dtype)


def _as_integers(x: jax.Array) -> jax.Array:
    """Integers in the order of the floats."""
    bits = lax.bitcast_convert_type(x, jnp.int64 if x.dtype == jnp.float64 else jnp.int32)
    return _flipped(bits)


def _as_floats(keys: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return lax.bitcast_convert_type(_flipped(keys), dtype)


def _flipped(bits: jax.Array) -> jax.Array:
    """All but the sign of negative numbers, whose magnitude grows the other way."""
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
