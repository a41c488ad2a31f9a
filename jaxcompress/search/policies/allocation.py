"""The exact choice on additive scores: an integer program under any number of budgets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.search.policies.sensitivity import PolicyScores

_TRIES = 6  # solutions that break a budget by the solver's rounding, each solved again below it


@dataclasses.dataclass(frozen=True, eq=False)
class Allocation:
    """What `allocate` chose.

    Attributes:
        row: the policy, int32 ``[decisions]``.
        score: the sum of its scores.
        bound: no policy within the budgets has a lower sum than this.
        costs: of the policy, by name.
        exact: True if ``score`` is the least there is, to the solver's tolerance.
    """

    row: np.ndarray
    score: float
    bound: float
    costs: Mapping[str, float]
    exact: bool


def allocate(
    scores: PolicyScores,
    budget: Mapping[str, float],
    *,
    costs: Costs | None = None,
    seconds: float = 60.0,
) -> Allocation:
    """The policy of the least sum of scores within all budgets.

    Every decision is a choice of one variant, every budget a linear constraint; a leaf whose cost depends on several
    decisions together (its bits, and the channels at both of its sides) has a variable for each combination that agrees
    with them. Solved by branch and cut (HiGHS).

    Args:
        scores: of `sweep` or `second_order`.
        budget: by name of a cost the most it may be: ``{"bytes": 20_000, "flops": 1e6}``.
        costs: by default those of the table.
        seconds: after which the best solution so far is taken, and ``exact`` is False.

    Raises:
        ValueError: if a budget is no cost of the table, or cannot be met (says the least that is possible).

    Example:
        >>> from jaxcompress.search.policies import Evaluation, Setting, sweep, variant_table
        >>> x = jax.random.normal(jax.random.key(0), (64, 8))
        >>> params = {"a": jnp.eye(8) + 0.01 * x[:8], "b": 9 * x[8:16]}
        >>> fn = lambda p, x: x @ p["a"] + x @ p["b"]
        >>> table = variant_table(fn, params, {"**": [Setting(bits=2), Setting(bits=8)]}, inputs=(x,))
        >>> error = jc.factorize.output_error(fn, params, [x])
        >>> allocate(sweep(Evaluation(table, error)), {"stored_bits": 1200}).row.tolist()
        [1, 2]
    """
    costs = scores.table.costs if costs is None else costs
    unknown = sorted(set(budget) - set(costs.names))
    if unknown or not budget:
        raise ValueError(f"allocate: budget={dict(budget)} must name costs of the table: {list(costs.names)}")
    program = _Program.build(scores, costs, budget)
    found = _within(program, scores, costs, budget, seconds)
    if found is None:
        raise ValueError(_cannot(program, costs, budget, seconds))
    return found


def allocations(
    scores: PolicyScores, budgets: Sequence[Mapping[str, float]], *, costs: Costs, seconds: float = 10.0
) -> list[Allocation]:
    """The allocations of several budgets of the same names; those that cannot be met are left out."""
    if not budgets:
        return []
    program = _Program.build(scores, costs, budgets[0])
    found = [_within(program, scores, costs, budget, seconds) for budget in budgets]
    return [one for one in found if one is not None]


def least_costs(scores: PolicyScores, names: Sequence[str], *, costs: Costs | None = None) -> dict[str, float]:
    """The least that each cost can be by itself."""
    costs = scores.table.costs if costs is None else costs
    program = _Program.build(scores, costs, dict.fromkeys(names, 1.0))
    return {name: program.least(name) for name in names}


def _within(
    program: _Program, scores: PolicyScores, costs: Costs, budget: Mapping[str, float], seconds: float
) -> Allocation | None:
    """The best policy whose exact costs are within the budget; where the solver's rounding slips, less is asked."""
    limits = {name: float(limit) for name, limit in budget.items()}
    for _ in range(_TRIES):
        solution = program.solve(limits, seconds)
        if solution is None:
            return None
        row, bound, exact = solution
        spent = {name: float(value[0]) for name, value in costs.of(row[None]).items()}
        over = {name: spent[name] - budget[name] for name in budget if spent[name] > budget[name]}
        if not over:
            score = float(scores.of(row[None])[0])
            return Allocation(row, score, min(bound, score), spent, exact)
        limits = {name: limits[name] - 2 * over.get(name, 0.0) for name in limits}
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """Columns of an integer program: a 0/1 variable per allowed variant, one per combination of joint items."""

    choices: tuple[tuple[int, int], ...]  # (decision, variant)
    scores: np.ndarray  # of every variable
    integral: np.ndarray
    spent: Mapping[str, np.ndarray]  # of every variable
    fixed: Mapping[str, float]
    equal: tuple[Any, np.ndarray]  # sparse matrix and right-hand side
    decisions: int

    @classmethod
    def build(cls, scores: PolicyScores, costs: Costs, budget: Mapping[str, float]) -> _Program:
        allowed = [
            [variant for variant in decision.allowed if np.isfinite(own[variant])]
            for decision, own in zip(scores.table.decisions, scores.values, strict=True)
        ]
        for decision, own in zip(scores.table.decisions, allowed, strict=True):
            if not own:
                raise ValueError(
                    f"allocate: every setting of {decision.name!r} fails by itself (not finite): offer others"
                )
        choices = [(column, variant) for column, own in enumerate(allowed) for variant in own]
        place = {choice: i for i, choice in enumerate(choices)}
        joint = [item for item in costs.items if len(item.columns) > 1]
        combinations = [list(itertools.product(*(allowed[column] for column in item.columns))) for item in joint]
        count = len(choices) + sum(map(len, combinations))
        spent = {name: np.zeros(count) for name in budget}
        for item in costs.items:
            if len(item.columns) == 1:
                for variant in allowed[item.columns[0]]:
                    for name in budget:
                        spent[name][place[item.columns[0], variant]] += float(item.tables[name][variant])
        rows = [[(place[column, variant], 1.0) for variant in own] for column, own in enumerate(allowed)]
        sides = [1.0] * len(rows)
        start = len(choices)
        for item, own in zip(joint, combinations, strict=True):
            for i, combination in enumerate(own):
                for name in budget:
                    spent[name][start + i] = float(item.tables[name][combination])
            rows += _agreement(item, own, start, allowed, place)
            sides += [0.0] * (len(rows) - len(sides))
            start += len(own)
        value = np.array(
            [scores.values[column][variant] for column, variant in choices] + [0.0] * (count - len(choices))
        )
        integral = np.array([1] * len(choices) + [0] * (count - len(choices)))
        fixed = {name: float(costs.fixed[name]) for name in budget}
        matrix = _sparse(rows, count)
        return cls(tuple(choices), value, integral, spent, fixed, (matrix, np.array(sides)), len(allowed))

    def solve(self, limits: Mapping[str, float], seconds: float) -> tuple[np.ndarray, float, bool] | None:
        """The best row, a bound and whether it is exact; None if nothing fits."""
        return self._milp(self.scores, limits, seconds)

    def least(self, name: str) -> float:
        """The least that one cost can be."""
        found = self._milp(self.spent[name] / max(1.0, self.spent[name].max()), {}, 60.0)
        assert found is not None
        return self.fixed[name] + found[1] * max(1.0, self.spent[name].max())

    def _milp(self, value: np.ndarray, limits: Mapping[str, float], seconds: float) -> Any:
        from scipy.optimize import Bounds, LinearConstraint, milp

        matrix, sides = self.equal
        constraints = [LinearConstraint(matrix, sides, sides)]  # pyright: ignore[reportArgumentType]  # sparse
        for name, limit in limits.items():
            room = limit - self.fixed[name]
            if room < 0:
                return None
            unit = max(1.0, abs(room))
            constraints.append(LinearConstraint(self.spent[name][None] / unit, -np.inf, room / unit))
        largest = max(1e-30, float(np.abs(value).max()))
        found = milp(
            value / largest,
            integrality=self.integral,
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )
        if found.x is None:
            if found.status == 1:
                raise ValueError(f"allocate: no solution was found in {seconds:g} seconds: raise seconds=")
            return None
        row = np.zeros(self.decisions, np.int32)
        best = np.full(self.decisions, -1.0)
        for (column, variant), chosen in zip(self.choices, found.x[: len(self.choices)], strict=True):
            if chosen > best[column]:
                row[column], best[column] = variant, chosen
        bound = found.mip_dual_bound if found.mip_dual_bound is not None else found.fun
        return row, float(bound) * largest, found.status == 0


def _agreement(
    item: CostItem, combinations: Sequence[tuple[int, ...]], start: int, allowed: Sequence[Sequence[int]], place: Any
) -> list[list[tuple[int, float]]]:
    """The combinations in which a decision has a variant add up to the variable of that variant."""
    rows = []
    for axis, column in enumerate(item.columns):
        for variant in allowed[column]:
            row = [(start + i, 1.0) for i, combination in enumerate(combinations) if combination[axis] == variant]
            rows.append([*row, (place[column, variant], -1.0)])
    return rows


def _sparse(rows: Sequence[Sequence[tuple[int, float]]], count: int) -> Any:
    from scipy.sparse import csr_array

    data = [value for row in rows for _, value in row]
    columns = [column for row in rows for column, _ in row]
    ends = np.cumsum([0, *map(len, rows)])
    return csr_array((data, columns, ends), shape=(len(rows), count))


def _cannot(program: _Program, costs: Costs, budget: Mapping[str, float], seconds: float) -> str:
    """Why no policy fits: the least of each cost; where each alone can be met, the least of one beside the others."""
    least = {name: program.least(name) for name in budget}
    asked = ", ".join(f"{name}={limit:,.6g}" for name, limit in budget.items())
    if any(least[name] > limit for name, limit in budget.items()):
        told = ", ".join(f"{name} {value:,.6g}" for name, value in least.items())
        return f"allocate: the budget {asked} cannot be met: the least possible is {told}. Offer smaller settings"
    told = []
    for name in budget:
        others = {other: limit for other, limit in budget.items() if other != name}
        found = program._milp(program.spent[name], others, seconds)
        if found is not None:
            told.append(f"{name} {costs.of(found[0][None])[name][0]:,.6g} beside the others")
    return (
        f"allocate: the budget {asked} cannot be met together, though each can be alone: the least possible is "
        f"{', '.join(told)}. Raise one of them, or offer smaller settings"
    )
