"""Iterated allocation: the scores are taken anew around the best policy so far, and the integer program solved anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxcompress.search.policies.allocation import allocations
from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.search.policies.evaluation import Evaluation
from jaxcompress.search.policies.goal import Goal
from jaxcompress.search.policies.sensitivity import PolicyScores
from jaxcompress.search.policies.table import VariantTable
from jaxcompress.search.policies.written import WrittenCosts

REACH = 2  # variants that are tried of each decision, next cheaper and next dearer ones
_STEPS = (0.0, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1)  # parts of the cost that a proposal is to save
_CHANGES = (1, 2, 4, 8, 16)  # most decisions that a proposal changes, besides any number
_EXCHANGES = 48  # pairs of moves that are tried, the best predicted ones
_WRITTEN = 64  # of the best by predicted bytes, that are ordered by the bytes of files
_CHANGED = "changed decisions"  # the trust region, as one more cost


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """What `iterate` did.

    Attributes:
        row: the best policy, int32 ``[decisions]``.
        rounds: sweeps that were made.
    """

    row: np.ndarray
    rounds: int


def iterate(
    evaluation: Evaluation,
    goal: Goal,
    costs: WrittenCosts,
    scores: PolicyScores,
    *,
    evaluations: int,
    reach: int = REACH,
) -> Iterated:
    """Improves the best policy that is known until no proposal is better, or so many were evaluated.

    Scores of single variants around the dense network do not add where the network is far from dense. So, in rounds:

    1. Of every decision the next variants, cheaper and dearer ones, are evaluated with all others as the best policy
       has them: one population call. What each changes are the scores of this round.
    2. The integer program is solved with them for costs from the present one downwards, in trust regions of at most 1,
       2, 4, ... changed decisions; the best predicted pairs of moves, one up and one down, come besides.
    3. These proposals are evaluated, and the best of all is where the next round begins.

    A sequential linear program on the true metric, with the trust region counted in decisions. Deterministic.

    Args:
        evaluation: of the true metric; the best of what it knows is where it begins, and it keeps what is found.
        goal: what is minimised.
        costs: of policies.
        scores: around the dense network: a variant that another one of its decision beats in these and in all costs is
            not tried.
        evaluations: of policies that were not known before; a round is not begun that would exceed them.
        reach: how many variants of each decision are tried on either side.

    Returns:
        The best policy and the number of rounds.

    Raises:
        ValueError: if no policy of allowed variants was evaluated before.

    Example:
        >>> from jaxcompress.search.policies import Setting, sweep, variant_table
        >>> x = jax.random.normal(jax.random.key(0), (64, 8))
        >>> params = {"a": jnp.eye(8) + 0.01 * x[:8], "b": 9 * x[8:16]}
        >>> fn = lambda p, x: x @ p["a"] + x @ p["b"]
        >>> table = variant_table(fn, params, {"**": [Setting(bits=2), Setting(bits=8)]}, inputs=(x,))
        >>> evaluation = Evaluation(table, jc.factorize.output_error(fn, params, [x]))
        >>> scores, start = sweep(evaluation), evaluation(table.uniform_rows())
        >>> goal = Goal("error", "stored_bits", "error", "stored_bits", {"stored_bits": 1200}, {})
        >>> iterate(evaluation, goal, WrittenCosts(table, table.costs), scores, evaluations=20).row.tolist()
        [1, 2]

    References:
        The scores are those of Dong et al., 2020 (HAWQ-V2, https://arxiv.org/abs/1911.03852) taken by the metric and
        around another point; solving the linearised program again around its solution is sequential linear programming
        (Griffith and Stewart, 1961, https://doi.org/10.1287/mnsc.7.4.379), in integers: that combination is ours.
    """
    table, began, rounds = evaluation.table, evaluation.evaluations, 0
    useful = _useful(table, goal, costs.costs, scores)
    best = elite(evaluation, goal, costs, 1)[0]
    while True:
        moves = _moves(best, useful, costs.costs, goal.cost, reach)
        if not len(moves) or evaluation.evaluations - began + len(moves) > evaluations:
            return Iterated(best, rounds)
        local, base = _local_scores(table, best, moves, evaluation, goal)
        rows = _proposals(local, base, best, moves, goal, costs.around(best, moves))
        room = evaluations - (evaluation.evaluations - began)
        evaluation(rows[:room])
        before, best, rounds = best, elite(evaluation, goal, costs, 1)[0], rounds + 1
        if np.array_equal(before, best):
            return Iterated(best, rounds)


def elite(evaluation: Evaluation, goal: Goal, costs: WrittenCosts, count: int) -> np.ndarray:
    """The best policies of allowed variants that were evaluated, at most ``count``, the best first.

    Raises:
        ValueError: if there is none.
    """
    rows, metrics = evaluation.known
    fits = np.all([np.isin(rows[:, c], own) for c, own in enumerate(evaluation.table.allowed)], axis=0)
    if not fits.any():
        raise ValueError("policy: no policy of allowed variants was evaluated: evaluate table.uniform_rows() first")
    rows, metrics = rows[fits], {name: values[fits] for name, values in metrics.items()}
    first = goal.order(metrics, costs.costs.of(rows))[: max(_WRITTEN, count)]
    order = goal.order({name: values[first] for name, values in metrics.items()}, costs.of(rows[first]))
    return rows[first[order[:count]]]


def _useful(table: VariantTable, goal: Goal, costs: Costs, scores: PolicyScores) -> list[list[int]]:
    """Of every decision the variants that no other one of it equals or beats in score and costs."""
    names = list(dict.fromkeys((goal.cost, *goal.costs)))
    found = []
    for column, allowed in enumerate(table.allowed):
        rows = np.tile(np.array([own[0] for own in table.allowed], np.int32), (len(allowed), 1))
        rows[:, column] = allowed
        spent = costs.of(rows)
        numbers = np.stack([scores.values[column][list(allowed)], *(spent[name] for name in names)], axis=1)
        worse = np.all(numbers[:, None] >= numbers[None], axis=-1) & np.any(numbers[:, None] > numbers[None], axis=-1)
        found.append([v for v, gone in zip(allowed, np.any(worse, axis=1).tolist(), strict=True) if not gone])
    return found


def _moves(best: np.ndarray, useful: list[list[int]], costs: Costs, cost: str, reach: int) -> np.ndarray:
    """Policies that differ in one decision, by the next variants in the order of the cost."""
    found = []
    for column, own in enumerate(useful):
        others = [v for v in own if v != best[column]]
        rows = np.tile(best, (len(others) + 1, 1))
        rows[1:, column] = others
        spent = np.asarray(costs.of(rows)[cost], np.float64)
        order = np.argsort(spent[1:], kind="stable")
        dearer = [i for i in order if spent[1 + i] >= spent[0]][:reach]
        cheaper = [i for i in order if spent[1 + i] < spent[0]][-reach:]
        found += [rows[1 + i] for i in (*cheaper, *dearer)]
    return np.array(found, np.int32).reshape(-1, len(best))


def _local_scores(
    table: VariantTable, best: np.ndarray, moves: np.ndarray, evaluation: Evaluation, goal: Goal
) -> tuple[PolicyScores, float]:
    """What each move changes of the metric, infinite for variants that are not tried; and the metric without a move."""
    found = evaluation(np.concatenate([best[None], moves]))[goal.metric]
    values = tuple(np.full(count, np.inf) for count in table.cardinalities)
    for column, own in enumerate(values):
        own[best[column]] = 0.0
    for row, value in zip(moves, found[1:] - found[0], strict=True):
        column = int(np.flatnonzero(row != best)[0])
        values[column][row[column]] = value if np.isfinite(value) else np.inf
    return PolicyScores(table, values, f"change of {goal.metric} around the best policy"), float(found[0])


def _proposals(
    local: PolicyScores, base: float, best: np.ndarray, moves: np.ndarray, goal: Goal, costs: Costs
) -> np.ndarray:
    """Solutions of the integer program in trust regions, and pairs of moves."""
    counted = _with_changes(costs, best, local.table.cardinalities)
    spent = float(costs.of(best[None])[goal.cost][0])
    usual = float(costs.of(local.table.uniform_rows())[goal.cost].max())
    limit = goal.costs.get(goal.cost, max(spent, usual))
    levels = [spent * (1 - step) for step in _STEPS] if goal.minimize == goal.cost else [limit, spent]
    budgets = [
        {**goal.costs, goal.cost: min(level, limit), **({_CHANGED: changes} if changes else {})}
        for changes in (*_CHANGES, None)
        for level in levels
    ]
    free = [one for one in budgets if _CHANGED not in one]
    bound = [one for one in budgets if _CHANGED in one]
    found = [*allocations(local, bound, costs=counted), *allocations(local, free, costs=counted)]
    rows = [one.row for one in found] + list(_exchanges(local, base, best, moves, goal, costs))
    return np.array(list(dict.fromkeys(tuple(map(int, row)) for row in rows)), np.int32).reshape(-1, len(best))


def _exchanges(
    local: PolicyScores, base: float, best: np.ndarray, moves: np.ndarray, goal: Goal, costs: Costs
) -> np.ndarray:
    """The pairs of moves of different decisions that are predicted to be best."""
    a, b = np.triu_indices(len(moves), 1)
    changed = np.argmax(moves != best[None], axis=1)
    apart = changed[a] != changed[b]
    rows = moves[a[apart]].copy()
    rows[np.arange(len(rows)), changed[b[apart]]] = moves[b[apart], changed[b[apart]]]
    spent = costs.of(rows)
    predicted = {**dict.fromkeys(goal.bounds, np.zeros(len(rows))), goal.metric: base + local.of(rows)}
    return rows[goal.order(predicted, spent)[:_EXCHANGES]]


def _with_changes(costs: Costs, best: np.ndarray, cardinalities: Sequence[int]) -> Costs:
    """The costs, and the number of decisions that differ from a policy as one more."""
    items = [
        dataclasses.replace(item, tables={**item.tables, _CHANGED: np.zeros_like(next(iter(item.tables.values())))})
        for item in costs.items
    ]
    for column, (chosen, count) in enumerate(zip(best.tolist(), cardinalities, strict=True)):
        changed = (np.arange(count) != chosen).astype(np.int64)
        items.append(
            CostItem("", (column,), {**dict.fromkeys(costs.names, np.zeros(count, np.int64)), _CHANGED: changed})
        )
    return Costs(tuple(items), {**costs.fixed, _CHANGED: 0})
