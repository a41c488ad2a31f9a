"""How far predictions of a cost agree with what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Predictions against the truth, on a sample.

    Attributes:
        spearman: correlation of the ranks, in ``[-1, 1]``: what matters where candidates are compared.
        r2: share of the variance of the truth that the predictions explain, as they stand (no line is fitted): 1 is
            exact, 0 no better than the mean, below it worse.
        predicted: of every candidate of the sample.
        measured: of every candidate of the sample.
    """

    spearman: float
    r2: float
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Agreement(spearman={self.spearman:.3f}, r2={self.r2:.3f}, sample={len(self.measured)})"


def agreement(predicted: Sequence[float] | np.ndarray, measured: Sequence[float] | np.ndarray) -> Agreement:
    """Compares predictions with the truth.

    Args:
        predicted: one number for each candidate.
        measured: the true one of each.

    Returns:
        Spearman's rank correlation (equal values share their mean rank) and R^2. A constant on either side has no rank
        correlation: 0.

    Raises:
        ValueError: if the lengths differ, there are fewer than 3 candidates, or a number is not finite.

    Example:
        >>> agreement([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0])
        Agreement(spearman=0.800, r2=0.600, sample=4)
    """
    p, m = (np.asarray(values, np.float64).reshape(-1) for values in (predicted, measured))
    if len(p) != len(m) or len(p) < 3:
        raise ValueError(f"agreement: takes equally many predicted and measured, at least 3; got {len(p)} and {len(m)}")
    if not (np.isfinite(p).all() and np.isfinite(m).all()):
        raise ValueError(f"agreement: not finite: predicted {p[~np.isfinite(p)]}, measured {m[~np.isfinite(m)]}")
    spread = np.square(m - m.mean()).sum()
    r2 = 1 - np.square(m - p).sum() / spread if spread else float("nan")
    return Agreement(_correlation(_ranks(p), _ranks(m)), float(r2), tuple(p.tolist()), tuple(m.tolist()))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale else 0.0
