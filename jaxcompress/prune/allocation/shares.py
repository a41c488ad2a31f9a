"""How a number of entries is shared out: in proportion to weights, between bounds, in whole steps, to the last one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share(
    total: int, weights: Sequence[float], *, least: Sequence[int], most: Sequence[int], steps: Sequence[int]
) -> list[int]:
    """Whole numbers that add up to ``total`` and follow ``clip(scale * weights, least, most)``.

    The scale is exact: the sum is piecewise linear in it, so it is found between two bounds that the sum meets. Real
    shares are rounded down to their steps, and what is left goes to the largest remainders, the earlier among equals.

    Args:
        total: between the sums of ``least`` and ``most``.
        weights: positive.
        least: fewest of each; a multiple of its step.
        most: most of each; a multiple of its step.
        steps: each share is a multiple of its step. Where all are 1, the sum is exactly ``total``; else it may fall
            short by less than the smallest step above 1.

    Raises:
        ValueError: if ``total`` is out of range.

    Example:
        >>> share(7, [1.0, 1.0, 8.0], least=[0, 3, 0], most=[9, 9, 3], steps=[1, 1, 1])
        [1, 3, 3]
    """
    low, high, weight = (np.asarray(a, np.float64) for a in (least, most, weights))
    if not low.sum() <= total <= high.sum():
        raise ValueError(f"total must lie between {int(low.sum())} and {int(high.sum())}, got {total}")
    return in_steps(total, np.clip(_scale(total, weight, low, high) * weight, low, high), most=most, steps=steps)


def in_steps(
    total: int,
    shares: Sequence[float] | np.ndarray,
    *,
    most: Sequence[int],
    steps: Sequence[int],
    least: Sequence[int] | None = None,
) -> list[int]:
    """Real shares as multiples of their steps, by largest remainders; the sum as in `share`.

    Example:
        >>> in_steps(10, [2.5, 2.6, 4.9], most=[9, 9, 9], steps=[1, 1, 1])
        [2, 3, 5]
        >>> in_steps(9, [4.0, 5.0], most=[9, 9], steps=[3, 1])
        [3, 6]
    """
    given, step, top = np.asarray(shares, np.float64), np.asarray(steps, np.int64), np.asarray(most, np.int64)
    counts = np.floor(given / step * (1 + 1e-15)).astype(np.int64) * step
    counts = np.clip(counts, 0 if least is None else np.asarray(least, np.int64), top)
    order = np.argsort(-(given - counts) / step, kind="stable")
    left = int(total) - int(counts.sum())
    while left > 0:
        before = left
        for i in order:
            if step[i] <= left and counts[i] + step[i] <= top[i]:
                counts[i] += step[i]
                left -= int(step[i])
        if left == before:
            break
    return counts.tolist()


def _scale(total: int, weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The scale at which the clipped shares add up to ``total``."""
    corners = np.unique(np.concatenate([low / weight, high / weight]))
    sums = np.array([np.clip(corner * weight, low, high).sum() for corner in corners])
    at = int(np.searchsorted(sums, total))
    if at == 0:
        return float(corners[0])
    if at == len(corners):
        return float(corners[-1])
    rise = sums[at] - sums[at - 1]
    return float(corners[at - 1] + (corners[at] - corners[at - 1]) * (total - sums[at - 1]) / rise)
