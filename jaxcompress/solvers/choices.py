"""One choice for each of many, so that the sum of losses is least within a budget: the multiple-choice knapsack."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Steps = Sequence[Sequence[tuple[float, int, float, int]]]

MOST_STATES = 1 << 20


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

    References:
        Nemhauser and Ullmann, 1969 (the algorithm). https://doi.org/10.1287/mnsc.15.9.494
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
