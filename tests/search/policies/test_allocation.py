"""The integer program: held against every policy there is, and against the exact knapsack of `quantize`."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxcompress.search.policies import PolicyScores, allocate
from jaxcompress.search.policies.allocation import allocations, least_costs
from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.solvers.choices import best_choices


@dataclasses.dataclass(frozen=True)
class Decision:
    name: str
    allowed: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """What an allocation reads of a variant table."""

    decisions: tuple[Decision, ...]
    costs: Costs


def problem(seed, first=0):
    """Five decisions; costs of one, two and three of them together."""
    rng = np.random.default_rng(seed)
    counts = (4, 5, 3, 3, 2)
    decisions = tuple(Decision(str(i), tuple(range(first, n))) for i, n in enumerate(counts))

    def tables(*shape):
        return {name: rng.integers(1, 1000, shape) for name in ("bytes", "flops")}

    items = (
        CostItem("a", (0, 3), tables(4, 3)),
        CostItem("b", (1, 3, 4), tables(5, 3, 2)),
        CostItem("c", (2,), tables(3)),
    )
    table = Table(decisions, Costs(items, {"bytes": 10, "flops": 3}))
    return PolicyScores(table, tuple(rng.normal(size=n) for n in counts), "drawn")


def every(scores):
    return np.array(list(itertools.product(*(decision.allowed for decision in scores.table.decisions))))


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_of_all_policies_within_two_budgets(seed):
    scores = problem(seed, first=seed % 2)
    rows = every(scores)
    costs = scores.table.costs.of(rows)
    budget = {"bytes": int(np.quantile(costs["bytes"], 0.35)), "flops": int(np.quantile(costs["flops"], 0.35))}
    fits = (costs["bytes"] <= budget["bytes"]) & (costs["flops"] <= budget["flops"])
    found = allocate(scores, budget)
    assert found.exact
    assert found.score == pytest.approx(scores.of(rows[fits]).min(), abs=1e-12)
    assert found.bound <= found.score + 1e-9
    assert all(found.costs[name] <= limit for name, limit in budget.items())
    assert {name: float(value[0]) for name, value in scores.table.costs.of(found.row[None]).items()} == found.costs


def test_it_agrees_with_the_exact_knapsack():
    rng = np.random.default_rng(3)
    cost, value = np.sort(rng.integers(1, 10**9, (30, 6)), axis=1), -np.sort(-rng.random((30, 6)), axis=1)
    items = tuple(CostItem(str(i), (i,), {"bytes": row}) for i, row in enumerate(cost))
    decisions = tuple(Decision(str(i), tuple(range(6))) for i in range(30))
    scores = PolicyScores(Table(decisions, Costs(items, {"bytes": 0})), tuple(value), "drawn")
    budget = int(cost.sum(axis=0)[2])
    picks, bound, exact = best_choices(cost, value, budget)
    found = allocate(scores, {"bytes": budget})
    assert exact
    assert found.exact
    assert found.score == pytest.approx(value[np.arange(30), picks].sum(), rel=1e-6)
    assert found.costs["bytes"] <= budget
    assert bound == pytest.approx(found.bound, rel=1e-6)


def test_a_budget_below_the_least_is_refused_with_the_least():
    scores = problem(0)
    least = int(scores.table.costs.of(every(scores))["bytes"].min())
    assert least_costs(scores, ["bytes"]) == {"bytes": pytest.approx(least)}
    with pytest.raises(ValueError, match=f"bytes={least - 1} cannot be met: the least possible is bytes {least}"):
        allocate(scores, {"bytes": least - 1})
    assert allocate(scores, {"bytes": least}).costs["bytes"] == least


def test_budgets_that_exclude_each_other_say_what_is_possible():
    scores = problem(0)
    costs = scores.table.costs.of(every(scores))
    least = {name: int(values.min()) for name, values in costs.items()}
    assert not ((costs["bytes"] == least["bytes"]) & (costs["flops"] == least["flops"])).any()
    beside = int(costs["bytes"][costs["flops"] <= least["flops"]].min())
    with pytest.raises(ValueError, match=f"cannot be met together.*bytes {beside:,} beside the others"):
        allocate(scores, least)
    assert allocations(scores, [least], costs=scores.table.costs) == []


def test_variants_that_fail_alone_are_not_chosen():
    scores = problem(1)
    values = list(scores.values)
    values[1] = np.where(np.arange(5) == 2, values[1], np.inf)
    broken = dataclasses.replace(scores, values=tuple(values))
    assert allocate(broken, {"bytes": 10**6}).row[1] == 2
    values[1] = np.full(5, np.inf)
    with pytest.raises(ValueError, match="every setting of '1' fails by itself"):
        allocate(dataclasses.replace(scores, values=tuple(values)), {"bytes": 10**6})


def test_budgets_must_name_costs():
    with pytest.raises(ValueError, match=r"must name costs of the table: \['bytes', 'flops'\]"):
        allocate(problem(0), {"byte": 10})
    with pytest.raises(ValueError, match="must name costs"):
        allocate(problem(0), {})
