"""A whole search as one pure function: a `lax.scan` over generations, for `jit` and `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.executors.executor import Executor, Population
from jaxcompress.search.executors.population import executor_of, traced_once
from jaxcompress.search.genes import Genes
from jaxcompress.search.problem import Item, Judged, Shared, check_strategy, problem_of, seeds_of
from jaxcompress.search.python_evaluation import PythonEvaluation
from jaxcompress.search.steps import keys_of
from jaxcompress.search.strategy import Candidates, Strategy

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class History(NamedTuple):
    """What was asked and answered, ``[generations, batch]``.

    Attributes:
        genes: the candidates.
        fidelity: that they were evaluated at.
        metrics: what ``evaluate`` returned, by name.
        objectives: float32 ``[generations, batch, objectives]``; infinite where the evaluation failed.
        violation: float32; 0 where constraints and limits hold, infinite where the evaluation failed.
    """

    genes: Genes
    fidelity: jax.Array
    metrics: dict[str, jax.Array]
    objectives: jax.Array
    violation: jax.Array


class _Known(NamedTuple):
    """The archive of a scan: rows of fixed number, of which the first ``filled`` are there."""

    items: Item
    judged: Judged
    filled: jax.Array


def scan(
    space: Space,
    evaluate: Callable[..., Any],
    strategy: Strategy,
    key: jax.Array,
    *,
    generations: int,
    objectives: str | Sequence[str] = ("error",),
    limits: Mapping[str, float] | None = None,
    data: Any = None,
    seeds: Any = None,
    executor: str | Executor = "map",
    cache: bool = False,
) -> tuple[Any, History]:
    """The search of `jaxcompress.search.run` as a pure function: no disk, no clock, nothing printed.

    For the same key, executor and ``cache`` it goes through the same candidates as `run`, bit for bit. Whole searches
    can be mapped, ``jax.vmap(lambda key: scan(..., key, ...))(keys)``.

    Args:
        space: as in `run`, static.
        evaluate: as in `run`; traceable.
        strategy: static.
        key: typed; may be traced.
        generations: how many questions of ``strategy.batch`` candidates; static.
        objectives: as in `run`.
        limits: as in `run`.
        data: as in `run`; may be traced.
        seeds: as in `run`.
        executor: ``"map"``, ``"vmap"``, ``"chunked"``, ``"sharded"`` or an `Executor` that can be traced.
        cache: candidates that were evaluated before are not evaluated again but looked up among all before them,
            which costs ``generations * batch`` comparisons each. Pays where an evaluation is dear, under `jit`; under
            `vmap` the searches wait for the one that evaluates most.

    Returns:
        The last state of the strategy, and the `History`.

    Raises:
        TypeError: if ``evaluate`` or the executor cannot be traced.
        ValueError: as `run`, on metrics that are missing or no scalars; without generations.

    Example:
        >>> from jaxcompress.search import IntRange, Space
        >>> from jaxcompress.search.strategies import RandomSearch
        >>> space = Space({"width": IntRange(1, 64)})
        >>> evaluate = lambda genome, key: {"error": jnp.abs(genome["width"] - 40) * 0.1}
        >>> search = jax.jit(lambda key: scan(space, evaluate, RandomSearch(batch=8), key, generations=6)[1])
        >>> bool(search(jax.random.key(0)).objectives.min() < 0.5)
        True
    """
    if isinstance(evaluate, PythonEvaluation):
        raise TypeError("scan: evaluate= is marked as Python, which no program can hold; use jaxcompress.search.run")
    if not isinstance(generations, int | np.integer) or generations < 1:
        raise ValueError(f"scan(generations={generations!r}) must be a whole number of at least 1")
    check_strategy(strategy)
    chosen = executor_of(executor)
    if not chosen.traced:
        raise TypeError(f"scan: executor={executor!r} is a loop in Python; use 'map', or jaxcompress.search.run")
    options = {"objectives": objectives, "limits": limits, "data": data, "multi_fidelity": strategy.multi_fidelity}
    problem = problem_of(space, evaluate, key=key, **options)
    of_strategy, of_evaluations = keys_of(key)
    shared = Shared(jax.random.key_data(of_evaluations), data)
    state = strategy.init(space, of_strategy, objectives=len(problem.objectives), seeds=seeds_of(space, seeds))
    asked, _ = jax.eval_shape(lambda state: strategy.ask(space, state), state)
    items = Item(asked.genes, asked.fidelity, jax.ShapeDtypeStruct((strategy.batch,), jnp.int32))
    _, answer = traced_once(problem.one, items, shared)
    population = chosen.population(problem.one)
    known = _nothing_known(items, answer, generations) if cache else None

    def generation(carry: tuple[Any, _Known | None], first: jax.Array) -> tuple[tuple[Any, _Known | None], History]:
        state, known = carry
        candidates, state = strategy.ask(space, state)
        candidates = Candidates(space.canonical(candidates.genes), candidates.fidelity)
        items = Item(*candidates, first + jnp.arange(strategy.batch, dtype=jnp.int32))
        # Evaluations are compiled on their own, as `run` compiles them, not fused with what the strategy does.
        items, state = lax.optimization_barrier((items, state))
        if known is None:
            judged = population(items, jnp.int32(strategy.batch), shared)
        else:
            judged, known = _looked_up(items, known, population, shared)
        judged = lax.optimization_barrier(judged)
        fitness = problem.fitness(judged)
        state = strategy.tell(space, state, candidates, fitness)
        return (state, known), History(*candidates, judged.metrics, *fitness)

    firsts = jnp.arange(generations, dtype=jnp.int32) * strategy.batch
    (state, _), history = lax.scan(generation, (state, known), firsts)
    return state, history


def _nothing_known(items: Item, answer: Any, generations: int) -> _Known:
    rows = generations * items.number.shape[0]
    asked = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), items)
    answered = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), answer)
    return _Known(asked, answered, jnp.int32(0))


def _looked_up(items: Item, known: _Known, population: Population, shared: Shared) -> tuple[Judged, _Known]:
    """Answers from the archive, or from the first of equal candidates; evaluates the others, in their order."""
    n = items.number.shape[0]
    written = partial(jax.tree.map, lambda rows, new: lax.dynamic_update_slice_in_dim(rows, new, known.filled, 0))
    asked = written(known.items, items)
    source = jnp.argmax(_same(items, asked), axis=1)  # the first row that is equal, at the latest the candidate's own
    new = source == known.filled + jnp.arange(n)
    order = jnp.argsort(~new, stable=True)
    found = population(jax.tree.map(lambda x: x[order], items), jnp.sum(new, dtype=jnp.int32), shared)
    back = jnp.zeros(n, order.dtype).at[order].set(jnp.arange(n, dtype=order.dtype))
    found = written(known.judged, jax.tree.map(lambda x: x[back], found))
    judged = jax.tree.map(lambda x: x[source], found)
    return judged, _Known(asked, written(found, judged), known.filled + n)


def _same(items: Item, others: Item) -> jax.Array:
    """Which candidates ``[n, rows]`` are equal in genes and fidelity."""
    pairs = [(items.genes.codes, others.genes.codes), (items.genes.values, others.genes.values)]
    pairs.append((items.fidelity[:, None], others.fidelity[:, None]))
    same = [jnp.all(a[:, None, :] == b[None, :, :], axis=-1) for a, b in pairs]
    return same[0] & same[1] & same[2]
