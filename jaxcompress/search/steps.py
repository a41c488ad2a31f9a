"""The three steps of a strategy as compiled functions: one program each, for all generations."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.search.genes import Genes
from jaxcompress.search.problem import Judged, Problem
from jaxcompress.search.strategy import Candidates, Strategy


@partial(jax.jit, static_argnames=("strategy", "problem"))
def begin(key: jax.Array, seeds: Genes | None, *, strategy: Strategy, problem: Problem) -> Any:
    """The state before the first question."""
    return settled(strategy.init(problem.space, key, objectives=len(problem.objectives), seeds=seeds))


@partial(jax.jit, static_argnames=("strategy", "problem"))
def ask(state: Any, *, strategy: Strategy, problem: Problem) -> tuple[Candidates, Any]:
    """The next candidates, canonical."""
    candidates, state = strategy.ask(problem.space, state)
    return settled((Candidates(problem.space.canonical(candidates.genes), candidates.fidelity), state))


@partial(jax.jit, static_argnames=("strategy", "problem"))
def tell(state: Any, candidates: Candidates, judged: Judged, *, strategy: Strategy, problem: Problem) -> Any:
    """The state that knows what became of them."""
    return settled(strategy.tell(problem.space, state, candidates, problem.fitness(judged)))


def settled(tree: Any) -> Any:
    """The same arrays, none of a weak type: a state that began weak and came back strong would be compiled twice."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.astype(x.dtype), tree)


def keys_of(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key of the strategy and that of the evaluations."""
    of_strategy, of_evaluations = jax.random.split(key)
    return of_strategy, of_evaluations
