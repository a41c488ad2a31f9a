"""What a policy search is after: one number to make small, and what the others may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np

from jaxcompress.search.policies.costs import Costs


@dataclasses.dataclass(frozen=True, eq=False)
class Goal:
    """What is minimised, and under which bounds.

    Attributes:
        minimize: name of a metric or of a cost.
        beside: the other one of the two objectives: a cost beside a metric, a metric beside a cost.
        metric: the metric of the two.
        cost: the cost of the two.
        costs: the most that costs may be, by name.
        bounds: the most that metrics may be, by name.
    """

    minimize: str
    beside: str
    metric: str
    cost: str
    costs: Mapping[str, float]
    bounds: Mapping[str, float]

    def judged(
        self, metrics: Mapping[str, np.ndarray], costs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Objectives ``[n, 2]`` and violation ``[n]``: infinite where an evaluation failed.

        Example:
            >>> goal = Goal("error", "bytes", "error", "bytes", {"bytes": 10}, {})
            >>> metrics, costs = {"error": np.array([0.1, np.nan, 0.2])}, {"bytes": np.array([15, 9, 9])}
            >>> [part.tolist() for part in goal.judged(metrics, costs)]
            [[[0.1, 15.0], [inf, inf], [0.2, 9.0]], [0.5, inf, 0.0]]
        """
        known = {**metrics, **costs}
        objectives = np.stack([np.asarray(known[name], np.float64) for name in (self.minimize, self.beside)], axis=1)
        limits = {**self.costs, **self.bounds}
        over = [
            np.maximum(np.asarray(known[name], np.float64) - at, 0) / (abs(at) or 1.0) for name, at in limits.items()
        ]
        violation = np.sum(over, axis=0) if over else np.zeros(len(objectives))
        failed = ~np.isfinite(objectives).all(axis=1) | ~np.isfinite(violation)
        return np.where(failed[:, None], np.inf, objectives), np.where(failed, np.inf, violation)

    def order(self, metrics: Mapping[str, np.ndarray], costs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Places of the policies, the best first: what keeps the bounds, then the objective, then the other one."""
        objectives, violation = self.judged(metrics, costs)
        return np.lexsort((objectives[:, 1], objectives[:, 0], violation))

    def __str__(self) -> str:
        told = [f"{name} <= {limit:,.6g}" for name, limit in {**self.costs, **self.bounds}.items()]
        return f"least {self.minimize}" + (f" with {', '.join(told)}" if told else "")


def goal_of(
    budget: Mapping[str, Any],
    *,
    costs: Costs,
    dense: Mapping[str, float],
    metrics: Mapping[str, Any],
    metric: str | None,
    minimize: str | None,
) -> Goal:
    """Reads ``budget=`` and what is to be minimised.

    Raises:
        ValueError: if a name is neither a cost nor a metric, or both, a limit is no number or negative, or nothing is
            bounded.
    """
    if not budget:
        raise ValueError("policy: budget= is empty: bound a cost (bytes=20_000) or a metric (error=0.02)")
    if both := sorted({*costs.names} & {*metrics}):
        raise ValueError(f"policy: evaluate= returns {both}, which the search counts itself: leave them out, or rename")
    names, there = {*costs.names, *metrics}, f"no cost ({list(costs.names)}) and no metric ({sorted(metrics)})"
    for name, limit in budget.items():
        if name not in names:
            raise ValueError(f"policy: budget={name!r} is {there}")
        if isinstance(limit, bool) or not isinstance(limit, Real) or not math.isfinite(limit) or limit < 0:
            raise ValueError(f"policy: budget[{name!r}] must be a number that is not negative, got {limit!r}")
    limits = {name: _absolute(limit, dense[name]) for name, limit in budget.items() if name in costs.names}
    bounds = {name: float(limit) for name, limit in budget.items() if name not in costs.names}
    chosen = _metric(metrics, metric, bounds)
    cost = minimize if minimize in costs.names else next(iter(limits), "bytes")
    wanted = minimize or (cost if chosen in bounds else chosen)
    if wanted not in names:
        raise ValueError(f"policy: minimize={minimize!r} is {there}")
    chosen = wanted if wanted in metrics else chosen
    return Goal(wanted, cost if wanted == chosen else chosen, chosen, cost, limits, bounds)


def _absolute(limit: Any, dense: float) -> float:
    """A float up to 1 is a part of what the network as it is takes."""
    if not isinstance(limit, Integral) and limit <= 1:
        exact = Fraction(str(limit)) * Fraction(dense)  # of 0.1 as it is written, whatever float it is
        return math.floor(exact) if float(dense).is_integer() else float(exact)
    return int(limit) if isinstance(limit, Integral) else float(limit)


def _metric(metrics: Mapping[str, Any], metric: str | None, bounds: Mapping[str, float]) -> str:
    if metric is None:
        metric = next(iter(bounds), None) or (next(iter(metrics)) if len(metrics) == 1 else "error")
    if metric not in metrics:
        raise ValueError(f"policy: metric={metric!r} is none of what evaluate= returns: {sorted(metrics)}")
    return metric
