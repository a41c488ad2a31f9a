"""Evolution on the true metric, begun with uniform policies and exact allocations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.genes import Genes
from jaxcompress.search.policies.allocation import allocations, least_costs
from jaxcompress.search.policies.costs import Costs
from jaxcompress.search.policies.evaluation import Evaluation
from jaxcompress.search.policies.goal import Goal
from jaxcompress.search.policies.iterate import elite
from jaxcompress.search.policies.sensitivity import PolicyScores
from jaxcompress.search.policies.table import VariantTable
from jaxcompress.search.policies.written import WrittenCosts
from jaxcompress.search.space import Choice, Space
from jaxcompress.search.strategy import Candidates, Fitness, Strategy

_LEVELS = 12  # budgets that exact allocations are made for
_ELITE = 16  # of the best known policies that evolution begins with
_NEAR = 1.1  # times the cost of the best known policy: what evolution heeds
_STALE = 3  # generations in a row without a new policy, after which the space counts as known


def policy_space(table: VariantTable) -> Space:
    """The space of policies: a choice for every decision that has more than one variant.

    Raises:
        ValueError: if nothing is left to decide.
    """
    open_columns = [column for column, allowed in enumerate(table.allowed) if len(allowed) > 1]
    if not open_columns:
        raise ValueError("policy: every decision has one setting only: there is nothing to search")
    return Space({_name(c): Choice(tuple(f"variant {v}" for v in table.allowed[c])) for c in open_columns})


def rows_of_codes(table: VariantTable, codes: np.ndarray) -> np.ndarray:
    """Policies of genes: ``[n, open decisions]`` to ``[n, decisions]``."""
    rows = np.tile(np.array([allowed[0] for allowed in table.allowed], np.int32), (len(codes), 1))
    for place, column in enumerate(_open(table)):
        rows[:, column] = np.asarray(table.allowed[column])[codes[:, place]]
    return rows


def codes_of_rows(table: VariantTable, rows: np.ndarray) -> np.ndarray:
    """The inverse of `rows_of_codes`."""
    places = [[table.allowed[column].index(int(v)) for v in rows[:, column]] for column in _open(table)]
    return np.array(places, np.int32).T.reshape(len(rows), -1)


def seed_rows(table: VariantTable, scores: PolicyScores, goal: Goal, costs: Costs) -> np.ndarray:
    """Policies to begin with: uniform ones, and exact allocations under budgets from the least possible upwards."""
    uniform = table.uniform_rows()
    usual = float(costs.of(uniform)[goal.cost].max())
    top = float(min(goal.costs.get(goal.cost, np.inf), usual))
    low = least_costs(scores, [goal.cost], costs=costs)[goal.cost]
    ladder = np.geomspace(max(low, 1e-9), max(top, low), _LEVELS)
    found = allocations(scores, [{**goal.costs, goal.cost: float(level)} for level in ladder[::-1]], costs=costs)
    rows = np.concatenate([np.stack([one.row for one in found]), uniform]) if found else uniform
    return np.array(list(dict.fromkeys(map(tuple, rows.tolist()))), np.int32)


def refine(
    evaluation: Evaluation,
    goal: Goal,
    costs: WrittenCosts,
    *,
    seeds: np.ndarray,
    strategy: Strategy,
    evaluations: int,
    key: jax.Array,
) -> int:
    """Lets a strategy ask for policies until so many were evaluated; they stay in the evaluation (`Evaluation.known`).

    Args:
        evaluation: of the true metric.
        goal: what is minimised: the first objective; a strategy for several gets the other one too. Where a cost is
            minimised, what costs over a tenth more than the best policy so far counts as beyond a bound: of the front
            only that end is of use.
        costs: of policies.
        seeds: policies to begin with, besides the best that are known.
        strategy: not one of several fidelities.
        evaluations: of policies that were not known before, at most one generation more.
        key: consumed.

    Returns:
        The number of generations.

    Raises:
        ValueError: if the strategy is one of several fidelities.
    """
    if strategy.multi_fidelity:
        raise ValueError(
            f"policy: strategy={strategy!r} asks for fidelities, but a policy is evaluated once and in full"
        )
    table, space = evaluation.table, policy_space(evaluation.table)
    start, stale, generations = evaluation.evaluations, 0, 0
    if evaluation.evaluations:
        known = elite(evaluation, goal, costs, _ELITE)
        goal = _focused(goal, evaluation, costs, known[0])
        seeds = np.array(list(dict.fromkeys(map(tuple, np.concatenate([known, seeds]).tolist()))), np.int32)
    state = _begin(key, _genes(codes_of_rows(table, seeds)), strategy=strategy, space=space)
    while evaluation.evaluations - start < evaluations and stale < _STALE:
        candidates, state = _ask(state, strategy=strategy, space=space)
        rows, before = rows_of_codes(table, np.asarray(candidates.genes.codes)), evaluation.evaluations
        objectives, violation = goal.judged(evaluation(rows), costs.of(rows))
        fitness = Fitness(jnp.asarray(objectives, jnp.float32), jnp.asarray(violation, jnp.float32))
        state = _tell(state, candidates, fitness, strategy=strategy, space=space)
        stale = 0 if evaluation.evaluations > before else stale + 1
        generations += 1
    return generations


def _focused(goal: Goal, evaluation: Evaluation, costs: WrittenCosts, best: np.ndarray) -> Goal:
    """A goal that also bounds the cost by the best policy's and a little more, if that one keeps the bounds."""
    spent = costs.of(best[None])
    if goal.minimize != goal.cost or goal.judged(evaluation(best[None]), spent)[1][0] > 0:
        return goal
    limit = min(goal.costs.get(goal.cost, np.inf), _NEAR * float(spent[goal.cost][0]))
    return dataclasses.replace(goal, costs={**goal.costs, goal.cost: limit})


def _open(table: VariantTable) -> Sequence[int]:
    return [column for column, allowed in enumerate(table.allowed) if len(allowed) > 1]


def _name(column: int) -> str:
    return f"decision_{column}"


def _genes(codes: np.ndarray) -> Genes:
    return Genes(jnp.asarray(codes, jnp.int32), jnp.zeros((len(codes), 0), jnp.float32))


@functools.partial(jax.jit, static_argnames=("strategy", "space"))
def _begin(key: jax.Array, seeds: Genes, *, strategy: Strategy, space: Space) -> Any:
    return jax.tree.map(_strong, strategy.init(space, key, objectives=2, seeds=seeds))


def _strong(x: jax.Array) -> jax.Array:
    """Of its dtype for good: a weakly typed state would be another one after the first answer, and compile anew."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else lax.convert_element_type(x, x.dtype)


@functools.partial(jax.jit, static_argnames=("strategy", "space"))
def _ask(state: Any, *, strategy: Strategy, space: Space) -> tuple[Candidates, Any]:
    return strategy.ask(space, state)


@functools.partial(jax.jit, static_argnames=("strategy", "space"))
def _tell(state: Any, candidates: Candidates, fitness: Fitness, *, strategy: Strategy, space: Space) -> Any:
    return strategy.tell(space, state, candidates, fitness)
