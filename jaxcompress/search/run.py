"""`jaxcompress.search.run`: the call that searches."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.paths import path_string
from jaxcompress.search import strategies
from jaxcompress.search.archive import Archive
from jaxcompress.search.budget import Budget, budget_of
from jaxcompress.search.checkpoint import Checkpoints
from jaxcompress.search.evaluator import Evaluator
from jaxcompress.search.executors.executor import Executor
from jaxcompress.search.executors.measured import ExecutorChoice
from jaxcompress.search.executors.population import traced_once
from jaxcompress.search.identity import identity
from jaxcompress.search.loop import Loop
from jaxcompress.search.problem import Item, Problem, Shared, check_strategy, problem_of, seeds_of
from jaxcompress.search.progress import Tell, telling
from jaxcompress.search.python_evaluation import PythonEvaluation
from jaxcompress.search.reporting import Reporter
from jaxcompress.search.result import Run
from jaxcompress.search.steps import ask, begin, keys_of
from jaxcompress.search.strategy import Strategy

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def run(
    space: Space,
    evaluate: Callable[..., Any],
    strategy: Strategy | None = None,
    *,
    key: jax.Array,
    budget: int | str | Budget,
    objectives: str | Sequence[str] = ("error",),
    limits: Mapping[str, float] | None = None,
    data: Any = None,
    report_data: Any = None,
    seeds: Any = None,
    executor: str | Executor = "auto",
    cache: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    progress: bool | Tell = True,
) -> Run:
    """Searches a space for candidates that minimise what ``evaluate`` says of them.

    ``evaluate(genome, key)`` is a JAX function of runtime arrays, the decoded genome, and of a key; it returns scalars
    by name. It is compiled once for all candidates of all generations. With ``data=`` it is ``evaluate(genome, key,
    data)``; a strategy of several fidelities passes the keyword ``fidelity`` beside, a float32 in ``(0, 1]``. A
    function that cannot be traced is marked: ``jaxcompress.search.python(evaluate)``.

    The key of a candidate is folded from its running number, so its fitness does not depend on who evaluates it or
    when: ``"loop"``, ``"map"`` and ``"sharded"`` agree in every bit, on any number of devices and processes. With
    ``"auto"`` what is measured decides, and ``"vmap"`` and ``"chunked"`` round differently: name an executor for a
    search that has to come out the same on another machine.

    A candidate of which an objective or a limited metric is NaN or infinite has *failed*: the strategy is told so, it
    is counted, and it never wins.

    With several processes (``jax.distributed``) each calls this with the same arguments; the strategy runs in all of
    them alike.

    Args:
        space: what may vary, a `Space`.
        evaluate: what a candidate is worth, smaller is better.
        strategy: how to search; by default `default_strategy` for these objectives.
        key: typed; all randomness comes from it.
        budget: evaluations (an int), a time (``"10min"``, ``"30s"``) or a `Budget` of both. Whole generations are done:
            no more evaluations than told, and no generation is begun after the time. A search ends before its budget
            when at least 1,000 candidates in a row, and 10 generations, came from the cache: nothing new is in reach.
        objectives: names of the metrics to minimise.
        limits: the most that other metrics may be. They are compared after the evaluation; a candidate that breaks one
            loses against every one that breaks none, and among those that do the smaller excess wins. Constraints of
            the space count the same.
        data: a tree of arrays, an argument of the compiled program. What the search decides on.
        report_data: a tree of the same structure, of rows that are not in ``data``; only `Run.report` reads it. See
            `split`.
        seeds: configs (or `Genes`) to ask for first.
        executor: ``"auto"`` measures on the first generation; ``"loop"``, ``"map"``, ``"chunked"``, ``"vmap"``,
            ``"sharded"`` or an `Executor` are taken as they are.
        cache: a candidate that equals an earlier one is given its metrics and is not evaluated again. Without, it is
            evaluated with a key of its own.
        checkpoint: a folder. The search is written there after each generation, by Orbax, and goes on from there, bit
            for bit, when it is called again, after whatever ended it. The budget may then be another one.
        checkpoint_every: generations between two writings, which take some 70 ms each.
        progress: a bar of `rich`, nothing, or a function of a `Progress` called after each generation.

    Returns:
        A `Run`. A keyboard interrupt ends the search after the last whole generation and returns what is done (where
        none is, it is raised).

    Raises:
        TypeError: if ``evaluate`` cannot be traced, or arguments are of the wrong kind.
        ValueError: if an objective is missing in what ``evaluate`` returns, all of the first candidates (8 or a whole
            generation) failed, the folder holds another search (says what differs), or data holds NaN or infinity
            (names the path).
        ImportError: without what the bar (rich) or the checkpoints (Orbax) need; names the extra.

    Example:
        >>> from jaxcompress.search import IntRange, LogFloat, Space, run
        >>> space = Space({"width": IntRange(1, 64), "rate": LogFloat(1e-4, 1.0)})
        >>> def evaluate(genome, key):
        ...     return {"error": 1 / genome["width"] + jnp.log10(genome["rate"] / 0.01) ** 2, "width": genome["width"]}
        >>> found = run(space, evaluate, key=jax.random.key(0), budget=400, executor="map", progress=False)
        >>> 0.005 < found.best(width=32).config["rate"] < 0.02
        True
    """
    limit = budget_of(budget)
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint= must be the path of a folder, got {checkpoint!r}")
    if not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be an integer of at least 1, got {checkpoint_every!r}")
    if strategy is None:
        several = isinstance(objectives, tuple | list) and len(objectives) > 1
        strategy = strategies.default_strategy(len(objectives) if several else 1)
    check_strategy(strategy)
    options = {"objectives": objectives, "limits": limits, "data": data, "multi_fidelity": strategy.multi_fidelity}
    limit.generations(strategy.batch)
    problem = problem_of(space, evaluate, key=key, **options)
    check_data(data, report_data)
    of_strategy, of_evaluations = keys_of(key)
    shared = Shared(jax.random.key_data(of_evaluations), data)
    first = seeds_of(space, seeds)
    static = {"strategy": strategy, "problem": problem}
    like = jax.eval_shape(lambda key: begin(key, first, **static), of_strategy)
    jaxpr = None if isinstance(evaluate, PythonEvaluation) else _traced(problem, strategy, like, shared)
    checkpoints, moment = None, None
    if checkpoint is not None:
        parts = identity(problem, strategy, key, data, first, cache, jaxpr)
        checkpoints = Checkpoints(Path(checkpoint), parts)
        moment = checkpoints.latest(like, strategy.batch)
    remembered = None if moment is None else checkpoints and checkpoints.about.get("executor")
    evaluator = Evaluator(problem, shared, executor, cache=cache, remembered=remembered)
    archive, state, seconds = None, None, 0.0
    if moment is None:
        state = begin(of_strategy, first, **static)
    else:
        archive, state, seconds = Archive(problem, strategy.batch, moment.rows), moment.state, moment.seconds
        evaluator.remember(archive)
    held = (state, archive, seconds, checkpoints, checkpoint_every, archive is not None)
    loop = Loop(problem, strategy, limit, evaluator, *held)
    try:
        with telling(progress) as show:
            stopped = loop.go(show)
    finally:
        if checkpoints is not None:
            checkpoints.close()
    assert loop.archive is not None
    choice = evaluator.choice or ExecutorChoice(str(remembered), "as before; nothing was evaluated since")
    reporter = None if report_data is None else Reporter(problem, Shared(shared.key_data, report_data))
    return Run(loop.archive, strategy, loop.state, choice, loop.seconds, stopped, reporter)


def check_data(data: Any, report_data: Any) -> None:
    """The two splits have one structure, different contents, and no NaN.

    Raises:
        TypeError: if something in them is no array of numbers.
        ValueError: otherwise.
    """
    for argument, tree in (("data", data), ("report_data", report_data)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            dtype = getattr(leaf, "dtype", None)
            if not isinstance(leaf, jax.Array | bool | int | float) and (dtype is None or dtype.kind in "OSU"):
                place = path_string(path) or "its only leaf"
                raise TypeError(f"{argument} must be a tree of arrays of numbers, got {leaf!r} at {place!r}")
            is_float = isinstance(leaf, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.inexact))
            if is_float and not np.isfinite(leaf).all():
                raise ValueError(f"{argument} holds NaN or infinity at {path_string(path) or 'its only array'!r}")
    if report_data is None:
        return
    if jax.tree.structure(data) != jax.tree.structure(report_data):
        raise ValueError("report_data must have the structure of data: the same evaluate= reads it")
    pairs = zip(jax.tree.leaves(data), jax.tree.leaves(report_data), strict=True)
    if all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs):
        raise ValueError("report_data is data: what was searched on cannot be reported on; see search.split")


def _traced(problem: Problem, strategy: Strategy, state: Any, shared: Shared) -> Any:
    """The jaxpr of one evaluation, which is checked on the way."""
    asked, _ = jax.eval_shape(lambda state: ask(state, strategy=strategy, problem=problem), state)
    numbers = jax.ShapeDtypeStruct((strategy.batch,), jnp.int32)
    jaxpr, _ = traced_once(problem.one, Item(asked.genes, asked.fidelity, numbers), shared)
    return jaxpr
