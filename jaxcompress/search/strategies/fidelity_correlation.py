"""How far the ranking of candidates at little effort agrees with their ranking at more effort."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcompress.core.table import html_table, text_table

_COLUMNS = ("fidelity", "against", "candidates", "Spearman", "Kendall")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two fidelities, and the candidates that were evaluated at both.

    Attributes:
        low: the lesser fidelity.
        high: the greater.
        count: how many candidates were evaluated at both (failed ones are not counted).
        spearman: the correlation of their ranks, NaN for fewer than two or where all are equal.
        kendall: Kendall's tau-b, likewise.
    """

    low: float
    high: float
    count: int
    spearman: float
    kendall: float


@dataclasses.dataclass(frozen=True)
class FidelityCorrelation:
    """The agreements of all pairs of fidelities; prints as a table.

    Attributes:
        pairs: the agreements.
    """

    pairs: tuple[Agreement, ...]

    def of(self, low: float, high: float) -> Agreement:
        """The agreement of two fidelities.

        Raises:
            KeyError: if there is none; lists those there are.
        """
        for pair in self.pairs:
            if math.isclose(pair.low, low, rel_tol=1e-6) and math.isclose(pair.high, high, rel_tol=1e-6):
                return pair
        raise KeyError(f"no pair {(low, high)}; there are {[(pair.low, pair.high) for pair in self.pairs]}")

    def __str__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, [_row(pair) for pair in self.pairs], [_NOTE])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, [_row(pair) for pair in self.pairs], [_NOTE])


_NOTE = "only candidates that reached both fidelities: the best of the lower one, who are alike: ranks agree less"


def fidelity_correlation(losses: Any, fidelities: Sequence[float]) -> FidelityCorrelation:
    """Rank correlations between all pairs of fidelities over the candidates that were evaluated at both.

    Where a strategy let only the best climb, these are alike, and correlations are lower than they would be over all
    candidates (a restricted range): a lower bound on what little effort is worth, not an estimate of it.

    Args:
        losses: float ``[candidates, fidelities]``; NaN or infinite where not evaluated, or failed.
        fidelities: rising.

    Returns:
        The agreements of all pairs.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> print(fidelity_correlation([[3.0, 0.3], [1.0, 0.1], [2.0, np.nan], [4.0, 0.2]], (0.5, 1.0)))
        fidelity  against  candidates  Spearman  Kendall
        0.5       1        3           0.500     0.333
        only candidates that reached both ...
    """
    import scipy.stats  # a third of a second: not for those who never ask

    table = np.asarray(losses, np.float64)
    if table.ndim != 2 or table.shape[1] != len(fidelities):
        raise ValueError(f"losses must be [candidates, {len(fidelities)}], got {table.shape}")
    pairs = []
    for low, high in itertools.combinations(range(len(fidelities)), 2):
        both = table[np.isfinite(table[:, [low, high]]).all(1)][:, [low, high]]
        ranked = len(both) > 1 and (np.ptp(both, axis=0) > 0).all()
        spearman = float(np.asarray(scipy.stats.spearmanr(*both.T))[0]) if ranked else math.nan
        kendall = float(np.asarray(scipy.stats.kendalltau(*both.T))[0]) if ranked else math.nan
        pairs.append(Agreement(float(fidelities[low]), float(fidelities[high]), len(both), spearman, kendall))
    return FidelityCorrelation(tuple(pairs))


def _row(pair: Agreement) -> list[str]:
    numbers = ["-" if math.isnan(value) else f"{value:.3f}" for value in (pair.spearman, pair.kendall)]
    return [f"{pair.low:.3g}", f"{pair.high:.3g}", str(pair.count), *numbers]
