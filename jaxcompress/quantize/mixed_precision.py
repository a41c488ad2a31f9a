"""Mixed precision: a width for every weight, so that the sum of scores is least within a budget of stored bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxcompress.core.table import html_table, text_table
from jaxcompress.quantize.second_order.scores import Scores
from jaxcompress.solvers.choices import best_choices as best_choices


class BitAllocation(dict[str, int]):
    """Width by path, as ``bits=`` of every method takes it; prints as a table.

    Attributes:
        scores: what it was chosen from; None for a plain dict.
        score: sum of the scores of the chosen widths.
        bound: no choice within the budget has a lower sum than this.
        stored_bits: that the leaves hold, scales and all.
        budget_bits: that they were allowed.
        exact: True if no choice within the budget is better (to the rounding of sums of floats).
    """

    def __init__(
        self,
        bits: Mapping[str, int] | Iterable[tuple[str, int]] = (),
        *,
        scores: Scores | None = None,
        score: float = math.nan,
        bound: float = math.nan,
        stored_bits: int = 0,
        budget_bits: int = 0,
        exact: bool = False,
    ) -> None:
        """Holds widths, and what the table shows besides."""
        super().__init__(bits)
        self.scores, self.score, self.bound, self.exact = scores, score, bound, exact
        self.stored_bits, self.budget_bits = stored_bits, budget_bits

    @property
    def average_bits(self) -> float:
        """Stored bits per weight, scales and all."""
        return self.stored_bits / sum(self.scores.sizes) if self.scores is not None else math.nan

    def __repr__(self) -> str:
        """The table as text, the plain dict where nothing is known besides."""
        return super().__repr__() if self.scores is None else text_table(*self._table(self.scores))

    def _repr_html_(self) -> str:
        return super().__repr__() if self.scores is None else html_table(*self._table(self.scores))

    def _table(self, scores: Scores) -> tuple[list[str], list[list[str]], list[str]]:
        rows = []
        for i, path in enumerate(scores.paths):
            at = scores.bits.index(self[path])
            stored = int(scores.stored_bits[i, at])
            rows.append([path, f"{scores.sizes[i]:,}", str(self[path]), f"{stored:,}", f"{scores.values[i, at]:.4g}"])
        notes = [
            f"{self.average_bits:.4g} bits per weight; {self.stored_bits:,} of {self.budget_bits:,} bits; score "
            f"{self.score:.4g}, {'the least there is' if self.exact else f'no less than {self.bound:.4g} is possible'}",
            scores.curvature,
        ]
        return ["path", "weights", "bits", "stored bits", "score"], rows, notes


def allocate_bits(
    scores: Scores,
    *,
    average_bits: float | None = None,
    bytes: int | None = None,
    choices: Sequence[int] | None = None,
) -> BitAllocation:
    """Chooses a width for every scored leaf: the least sum of scores within a budget.

    The budget counts what the leaves really hold: codes, scales, zero points, masks. A leaf's width is one of those
    that were scored. The choice is exact: partial choices over ever more leaves are kept as long as no other is better
    in both bits and score and as long as they could still beat the best that is known (the relaxed problem, in which a
    leaf may mix two widths, says what could). Where more than a million remain, which takes hundreds of leaves of
    nearly the same worth, the most promising million go on and ``exact`` is False; ``bound`` says how far the best can
    be.

    Args:
        scores: of `sensitivity`.
        average_bits: the budget in stored bits per weight. Scales count, so that 4 does not buy 4 bits everywhere; for
            the bytes of a uniform width pass ``bytes=scores.bytes_at(4)``.
        bytes: the budget in bytes instead; exactly one of the two must be given.
        choices: which of the scored widths; by default all.

    Returns:
        A dict from paths to widths, for ``bits=`` of the method that was scored.

    Raises:
        ValueError: if not exactly one budget is given, a choice was not scored, or the budget does not hold the leaves
            even at their smallest; says what they need.

    Example:
        >>> w = jax.random.normal(jax.random.key(0), (32, 32))
        >>> params = {"a": w, "b": w}
        >>> loss = lambda p, x: jnp.sum(x @ (p["a"] + 100 * p["b"]))  # b matters 100 times as much
        >>> scores = jc.quantize.sensitivity(params, jc.quantize.fisher(loss, params, [jnp.ones((1, 32))]), bits=(2, 8))
        >>> {bits: scores.bytes_at(bits) for bits in scores.bits}
        {2: 768, 8: 2304}
        >>> dict(jc.quantize.allocate_bits(scores, bytes=2000))
        {'a': 2, 'b': 8}

    References:
        Dong et al., 2020 (HAWQ-V2), section 3.3 (Pareto frontier). https://arxiv.org/abs/1911.03852; Nemhauser and
        Ullmann, 1969 (the algorithm). https://doi.org/10.1287/mnsc.15.9.494
    """
    if (average_bits is None) == (bytes is None):
        raise ValueError(
            f"allocate_bits: give either average_bits= or bytes=, got average_bits={average_bits!r} and bytes={bytes!r}"
        )
    widths = scores.bits if choices is None else tuple(sorted(set(choices)))
    missing = [width for width in widths if width not in scores.bits]
    if missing or not widths:
        raise ValueError(f"allocate_bits: choices={list(widths)} must be among the scored widths {list(scores.bits)}")
    weights = sum(scores.sizes)
    budget = 8 * bytes if bytes is not None else math.floor(average_bits * weights)  # pyright: ignore[reportOptionalOperand]
    at = [scores.bits.index(width) for width in widths]
    costs, values = scores.stored_bits[:, at].astype(np.int64), scores.values[:, at].astype(np.float64)
    least = int(costs.min(axis=1).sum())
    if least > budget:
        raise ValueError(
            f"allocate_bits: a budget of {budget:,} bits does not hold the leaves, which take {least:,} bits at their "
            f"smallest ({-(-least // 8):,} bytes, {least / weights:.4g} bits per weight)"
        )
    picks, bound, exact = best_choices(costs, values, budget)
    rows = np.arange(len(picks))
    return BitAllocation(
        {path: widths[pick] for path, pick in zip(scores.paths, picks, strict=True)},
        scores=scores,
        score=float(values[rows, picks].sum()),
        bound=bound,
        stored_bits=int(costs[rows, picks].sum()),
        budget_bits=int(budget),
        exact=exact,
    )
