"""Mixed precision: a width for every weight, so that the sum of scores is least within a budget of stored bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxcompress.core.table import html_table, text_table
from jaxcompress.quantize.second_order.scores import Scores

Steps = Sequence[Sequence[tuple[float, int, float, int]]]

MOST_STATES = 1 << 20


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


def best_choices(
    costs: np.ndarray, values: np.ndarray, budget: int, *, most_states: int = MOST_STATES
) -> tuple[np.ndarray, float, bool]:
    """One choice per row, of the least sum of values whose sum of costs is within the budget.

    Args:
        costs: integers, ``[rows, choices]``.
        values: floats of the same shape.
        budget: no less than the sum of every row's least cost.
        most_states: how many partial choices are kept.

    Returns:
        The choices; a lower bound of what is possible; True if they are the best.

    Example:
        >>> best_choices(np.array([[1, 2], [1, 4]]), np.array([[5.0, 1.0], [9.0, 2.0]]), 5)[0].tolist()
        [0, 1]
    """
    rows = np.arange(len(costs))
    steps = [_hull_steps(cost, value) for cost, value in zip(costs, values, strict=True)]
    cheapest = np.lexsort((values, costs))[:, 0]
    base_cost, base_value = costs[rows, cheapest], values[rows, cheapest]
    fallback = _greedy(steps, cheapest, int(base_cost.sum()), budget)
    incumbent = float(values[rows, fallback].sum())
    cost, value = np.zeros(1, np.int64), np.zeros(1)
    back: list[tuple[np.ndarray, np.ndarray]] = []
    exact, bound = True, incumbent
    for row in range(len(costs)):
        relaxed = _Relaxed(steps[row + 1 :], base_cost[row + 1 :], base_value[row + 1 :])
        now_cost = (cost[:, None] + costs[row][None]).reshape(-1)
        now_value = (value[:, None] + values[row][None]).reshape(-1)
        best = now_value + relaxed(budget - now_cost)
        slack = 1e-9 * abs(incumbent)  # a bound that is met exactly is not lost to rounding
        keep = _undominated(now_cost, now_value, best <= incumbent + slack)
        if not keep.size:  # only after a cut: no state that was left can do better
            return fallback, bound, False
        bound = float(best[keep].min()) if row == 0 else bound
        if keep.size > most_states:
            keep, exact = np.sort(keep[np.argsort(best[keep], kind="stable")[:most_states]]), False
        back.append((keep // costs.shape[1], keep % costs.shape[1]))
        cost, value = now_cost[keep], now_value[keep]
    state = int(np.argmin(value))
    picks = np.zeros(len(costs), np.int64)
    for row in reversed(range(len(costs))):
        before, pick = back[row]
        picks[row], state = pick[state], int(before[state])
    return (picks, float(values[rows, picks].sum()), True) if exact else (picks, bound, False)


def _hull_steps(costs: np.ndarray, values: np.ndarray) -> list[tuple[float, int, float, int]]:
    """The lower convex hull of one row's points from its cheapest on, as steps ``(slope, cost, value, choice)``."""
    points: list[tuple[int, float, int]] = []
    for cost, value, choice in sorted(zip(costs.tolist(), values.tolist(), range(len(costs)), strict=True)):
        if points and (value >= points[-1][1] or cost == points[-1][0]):
            continue
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], (cost, value, choice)):
            points.pop()
        points.append((cost, value, choice))
    return [(_slope(a, b), b[0] - a[0], b[1] - a[1], b[2]) for a, b in itertools.pairwise(points)]


def _slope(a: tuple[int, float, int], b: tuple[int, float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _greedy(steps: Steps, cheapest: np.ndarray, cost: int, budget: int) -> np.ndarray:
    """Choices that are surely possible: from the cheapest on, the steepest steps that fit, in order for every row."""
    taken, picks = [0] * len(steps), cheapest.copy()
    for _, row, index in sorted((step[0], row, i) for row, own in enumerate(steps) for i, step in enumerate(own)):
        _, more, _, choice = steps[row][index]
        if taken[row] == index and cost + more <= budget:
            taken[row], picks[row], cost = index + 1, choice, cost + more
    return picks


class _Relaxed:
    """The least sum of values of some rows by budget, if rows may mix two choices: never above the real one."""

    def __init__(self, steps: Steps, cost: np.ndarray, value: np.ndarray) -> None:
        ordered = sorted(step for own in steps for step in own)
        self.cost = int(cost.sum()) + np.cumsum([0, *(step[1] for step in ordered)])
        self.value = float(value.sum()) + np.cumsum([0.0, *(step[2] for step in ordered)])

    def __call__(self, budget: np.ndarray) -> np.ndarray:
        """Infinite where the budget does not hold the rows."""
        return np.where(budget >= self.cost[0], np.interp(budget, self.cost, self.value), np.inf)


def _undominated(cost: np.ndarray, value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Indices of the states that no other beats in both, in the order of their costs."""
    index = np.flatnonzero(allowed)
    index = index[np.lexsort((value[index], cost[index]))]
    before = np.concatenate([[np.inf], np.minimum.accumulate(value[index])[:-1]])
    return index[value[index] < before]
