"""`policy`: the whole search, from choices to a compressed network and a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.search.executors.executor import Executor
from jaxcompress.search.policies.allocation import allocate
from jaxcompress.search.policies.costs import Costs
from jaxcompress.search.policies.decisions import Choices
from jaxcompress.search.policies.evaluation import Evaluate, Evaluation, scalars
from jaxcompress.search.policies.goal import Goal, goal_of
from jaxcompress.search.policies.iterate import elite, iterate
from jaxcompress.search.policies.latency import with_latency
from jaxcompress.search.policies.realized import Calibration, Finetune, Realized, real_costs, realize
from jaxcompress.search.policies.refine import refine, seed_rows
from jaxcompress.search.policies.result import Judgement, PolicyResult
from jaxcompress.search.policies.sensitivity import PolicyScores, second_order, sweep
from jaxcompress.search.policies.sizes import Coder
from jaxcompress.search.policies.table import Storage, VariantTable, variant_table
from jaxcompress.search.policies.written import WrittenCosts
from jaxcompress.search.strategies import NSGA2
from jaxcompress.search.strategy import Strategy


def policy(
    fn: Callable[..., Any],
    params: Any,
    evaluate: Evaluate,
    *,
    choices: Choices | VariantTable,
    budget: Mapping[str, float],
    key: jax.Array,
    data: Any = None,
    report_data: Any = None,
    inputs: Sequence[Any] | None = None,
    metric: str | None = None,
    minimize: str | None = None,
    scores: Any = None,
    evaluations: int = 2000,
    strategy: Strategy | None = None,
    executor: str | Executor = "auto",
    calibration: Iterable[Any] | None = None,
    calibration_inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    fitted_variants: bool = False,
    finetune: Finetune | None = None,
    finalists: int = 3,
    coder: Coder = "zstd",
    storage: Storage = "auto",
    unit_scores: Any = "l2",
) -> PolicyResult:
    """Finds what should become of every weight: bits, sparsity, rank, codebook, and of every group how many channels.

    1. Every variant of every leaf is made once, by the real methods, and its size counted (`variant_table`).
    2. One compiled program evaluates any policy, a row of integers (`Evaluation`); each variant alone gives the scores.
    3. The exact policies of least summed scores, under budgets from the smallest possible on, and all uniform policies
       are the beginning (`allocate`).
    4. Scores are taken again around the best policy so far and allocated again, until that gains nothing (`iterate`);
       evolution on the true metric has what is left of the evaluations (`refine`). From here on bytes are those of
       written files; where the network has more than 16 MiB, only for the 64 best, in the next step.
    5. The best are made real (`realize`), measured again, and the best of them that really keeps the bounds is chosen.
       It, and the best uniform policy, are judged on ``report_data``.

    Metrics are made small: return errors and losses.

    Args:
        fn: the model, ``fn(params, *inputs)``, any function that ``jit`` accepts.
        params: tree of float arrays. Not changed.
        evaluate: ``evaluate(apply, params) -> scalar`` (called ``error``) or a mapping of named scalars, traced; with
            ``data`` it is ``evaluate(apply, params, data)``.
        choices: from globs over paths to lists of `Setting` (weights) or of `Channels` (groups with a fitting member),
            or dicts of their fields; `settings` makes combinations. The first glob that fits counts. Or the table that
            another search of this network made (``found.table``), which is then not made again.
        budget: the most that costs and metrics may be: ``bytes`` (of the file), ``stored_bits``, ``flops``,
            ``latency_ms`` and the names that ``evaluate`` returns. Of a cost a float up to 1 is the part of what the
            network as it is takes: ``{"bytes": 0.1}``; ``{"error": 0.02}`` asks for the smallest file at that error.
        key: of the evolution, consumed.
        data: a pytree of arrays that ``evaluate`` gets: the search split.
        report_data: the same of the reporting split, which nothing sees before the end.
        inputs: example arguments after the parameters: needed for channels, FLOPs, latency, and for kernels of other
            than two axes.
        metric: the metric that is traded against the cost; by default the bounded one, the only one, or ``error``.
        minimize: a metric or a cost; by default the metric, or where it is bounded the first cost (``bytes``).
        scores: what allocations add up: a name of a metric (by default the metric itself), an ``evaluate(apply,
            params)`` such as `kl` or `jaxcompress.factorize.output_error`, or a curvature such as
            `jaxcompress.quantize.fisher`.
        evaluations: of iterated allocations and evolution together, besides sweep and seeds; 0: the exact allocations
            and uniform policies alone.
        strategy: by default `jaxcompress.search.strategies.NSGA2` with 64 policies.
        executor: how policies are evaluated; ``"auto"`` measures.
        calibration: batches that the real methods fit to (`gptq`, `sparsegpt`, `whitened_svd`).
        calibration_inputs: turns a batch into the arguments after the parameters.
        fitted_variants: True makes the variants by those methods too: slower, and predictions are closer.
        finetune: ``finetune(fn, params) -> params`` trains each finalist, see `realize`.
        finalists: how many of the best are made real.
        coder: of the file, as in `jaxcompress.save`.
        storage: of the variants, see `variant_table`.
        unit_scores: which units of a group go first.

    Returns:
        The result, which prints as a table of settings and one of numbers predicted against real.

    Raises:
        ValueError: if a budget cannot be met (says the least that is possible), no policy keeps the bounds (says the
            best found), a name is unknown, or data hold NaN; names it.
        TypeError: if ``evaluate`` cannot be traced or takes other arguments, or ``key`` is no typed key.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (64, 8))
        >>> params = {"a": jnp.eye(8) + 0.01 * x[:8], "b": 9 * x[8:16]}
        >>> fn = lambda p, x: x @ p["a"] + x @ p["b"]
        >>> found = policy(
        ...     fn, params, jc.factorize.output_error(fn, params, [x]), choices={"**": [{"bits": 2}, {"bits": 8}]},
        ...     budget={"stored_bits": 1200}, key=jax.random.key(1), evaluations=0, executor="map",
        ... )
        >>> {path: str(one) for path, one in found.settings.items()}
        {'a': '2 bits', 'b': '8 bits'}

    References:
        Wang et al., 2019 (HAQ). https://arxiv.org/abs/1811.08886; He et al., 2018 (AMC).
        https://arxiv.org/abs/1802.03494; Dong et al., 2020 (HAWQ-V2). https://arxiv.org/abs/1911.03852; Deb et al.,
        2002 (NSGA-II). https://doi.org/10.1109/4235.996017
    """
    for name, count, least in (("evaluations", evaluations, 0), ("finalists", finalists, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"policy: {name} must be an integer of at least {least}, got {count!r}")
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape):
        raise TypeError(f"policy: key= must be one typed key, jax.random.key(seed), got {key!r}")
    if not isinstance(budget, Mapping):
        raise TypeError(f"policy: budget= is a mapping from names to numbers, {{'bytes': 20_000}}, got {budget!r}")
    if report_data is not None and data is None:
        raise ValueError("policy: report_data= needs data=, the search split: evaluate= gets the one or the other")
    for name, given in (("data", data), ("report_data", report_data)):
        _require_finite(name, given)
    fit = None if calibration is None else Calibration(list(calibration), calibration_inputs)
    if fitted_variants and fit is None:
        raise ValueError("policy: fitted_variants=True needs calibration= (batches to fit to)")
    stats = observe(fn, params, fit.batches, inputs=fit.inputs) if fit is not None and fitted_variants else None
    if isinstance(choices, VariantTable):
        table = _of_this_network(choices, fn, params)
    else:
        table = variant_table(
            fn, params, choices, inputs=inputs, stats=stats, coder=coder, storage=storage, unit_scores=unit_scores
        )
    costs = table.costs
    if "latency_ms" in budget:
        costs = with_latency(table, inputs)
    evaluation = Evaluation(table, evaluate, data=data, executor=executor)
    work = _Work(table, costs, evaluation, inputs, fit, finetune, evaluate, data, report_data)
    dense = work.dense()
    metrics = evaluation(table.dense_row[None])
    goal = goal_of(budget, costs=costs, dense=dense.predicted, metrics=metrics, metric=metric, minimize=minimize)
    written = WrittenCosts(table, costs, files="bytes" in (goal.cost, *goal.costs))
    searched = written if dense.predicted["bytes"] <= _SMALL else WrittenCosts(table, costs, files=False)
    found = _scores(scores, evaluation, goal)
    if goal.costs:
        allocate(found, goal.costs, costs=costs)  # refuses what cannot be met, before anything is searched
    seeds = seed_rows(table, found, goal, costs)
    evaluation(seeds)
    rounds = generations = 0
    if evaluations and any(len(allowed) > 1 for allowed in table.allowed):
        before = evaluation.evaluations
        rounds = iterate(evaluation, goal, searched, found, evaluations=evaluations).rounds
        left = evaluations - (evaluation.evaluations - before)
        chosen = NSGA2(population=64) if strategy is None else strategy
        generations = refine(evaluation, goal, searched, seeds=seeds, strategy=chosen, evaluations=left, key=key)
    best, realized = work.best(goal, written, finalists)
    uniform = work.best_uniform(goal)
    rows, metrics = evaluation.known
    small = realized.small
    return PolicyResult(
        fn=realized.fn,
        params=realized.params,
        settings=table.settings(best.row),
        units={index: len(units) for index, units in table.kept_units(best.row).items()},
        chosen=best,
        uniform=uniform,
        dense=dense,
        goal=goal,
        table=table,
        scores=found,
        costs=costs,
        rows=rows,
        metrics=metrics,
        small=small,
        rounds=rounds,
        generations=generations,
        notes=realized.notes,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """What making policies real and judging them takes."""

    table: VariantTable
    costs: Costs
    evaluation: Evaluation
    inputs: Sequence[Any] | None
    calibration: Calibration | None
    finetune: Finetune | None
    evaluate: Evaluate
    data: Any
    report_data: Any

    def dense(self) -> Judgement:
        """The network as it is."""
        row = self.table.dense_row
        realized = Realized(self.table.fn, self.table.params, None)
        return Judgement(row, self.predicted(row), self.real(realized), self.report(realized))

    def predicted(self, row: np.ndarray) -> dict[str, float]:
        """Metrics and costs by the table."""
        metrics, costs = self.evaluation(row[None]), self.costs.of(row[None])
        return {name: _plain(values[0]) for name, values in {**metrics, **costs}.items()}

    def real(self, realized: Realized) -> dict[str, float]:
        """Metrics on the search data and costs of a network."""
        spent = real_costs(realized, self.table, inputs=self.inputs, latency="latency_ms" in self.costs.names)
        return {**self.measured(realized, self.data), **{name: _plain(value) for name, value in spent.items()}}

    def report(self, realized: Realized) -> dict[str, float] | None:
        """Metrics on data that the search never saw."""
        return None if self.report_data is None else self.measured(realized, self.report_data)

    def measured(self, realized: Realized, data: Any) -> dict[str, float]:
        """Metrics of a network."""
        given = () if data is None else (data,)
        run = jax.jit(lambda params, given: scalars(self.evaluate(lift(realized.fn), params, *given)))
        return {name: float(value) for name, value in run(realized.params, given).items()}

    def realized(self, row: np.ndarray) -> Realized:
        return realize(self.table, row, inputs=self.inputs, calibration=self.calibration, finetune=self.finetune)

    def best(self, goal: Goal, written: WrittenCosts, finalists: int) -> tuple[Judgement, Realized]:
        """The best policy, as it really is, among the ``finalists`` that were predicted to be.

        Raises:
            ValueError: if none of them keeps the bounds.
        """
        tried: list[tuple[Judgement, Realized]] = []
        for row in elite(self.evaluation, goal, written, finalists + _MORE):
            realized = self.realized(row)
            tried.append((Judgement(row, self.predicted(row), self.real(realized)), realized))
            if len(tried) >= finalists and any(_keeps(goal, one) for one, _ in tried):
                break
        kept = [pair for pair in tried if _keeps(goal, pair[0])]
        if not kept:
            raise ValueError(_broken(goal, [one for one, _ in tried]))
        places = _real_order(goal, [one for one, _ in kept])
        judgement, realized = kept[int(places[0])]
        return dataclasses.replace(judgement, report=self.report(realized)), realized

    def best_uniform(self, goal: Goal) -> Judgement | None:
        """The best uniform policy that is predicted to keep the bounds, made and judged as the chosen one is."""
        rows = self.table.uniform_rows()
        metrics, costs = self.evaluation(rows), self.costs.of(rows)
        first = int(goal.order(metrics, costs)[0])
        if goal.judged(metrics, costs)[1][first] > 0:
            return None
        realized = self.realized(rows[first])
        return Judgement(rows[first], self.predicted(rows[first]), self.real(realized), self.report(realized))


_SMALL = 1 << 24  # bytes of a network up to which a file is written for every policy: half a second each
_MORE = 5  # further candidates that are made real while none keeps the bounds


def _of_this_network(table: VariantTable, fn: Any, params: Any) -> VariantTable:
    if table.fn != fn or table.params is not params:
        raise ValueError("policy: choices= is a table of another network: it must be made of this fn and these params")
    return table


def _scores(given: Any, evaluation: Evaluation, goal: Goal) -> PolicyScores:
    if given is None or isinstance(given, str):
        return sweep(evaluation, goal.metric if given is None else given)
    if hasattr(given, "score"):
        return second_order(evaluation.table, given)
    other = Evaluation(evaluation.table, given, executor="map")
    names = list(other(evaluation.table.dense_row[None]))
    return dataclasses.replace(sweep(other, names[0]), name=f"rise of {getattr(given, '__qualname__', 'scores')}")


def _keeps(goal: Goal, one: Judgement) -> bool:
    assert one.real is not None
    objectives = (one.real[goal.minimize], one.real[goal.beside])
    return all(map(math.isfinite, objectives)) and all(
        one.real[name] <= limit for name, limit in {**goal.costs, **goal.bounds}.items()
    )


def _real_order(goal: Goal, judged: Sequence[Judgement]) -> np.ndarray:
    known = {name: np.array([one.real[name] for one in judged if one.real]) for name in judged[0].predicted}
    return goal.order(known, {})


def _broken(goal: Goal, tried: Sequence[Judgement]) -> str:
    limits = dict.fromkeys((*goal.costs, *goal.bounds, goal.metric))
    told = [
        ", ".join(f"{name} {one.real[name]:,.6g} (predicted {one.predicted[name]:,.6g})" for name in limits)
        for one in tried
        if one.real is not None
    ]
    return (
        f"policy: none of the best {len(tried)} policies really keeps the bounds ({goal}); they have: "
        f"{'; '.join(told)}. Raise a bound, search longer, or offer other settings"
    )


def _require_finite(name: str, tree: Any) -> None:
    for path, leaf in zip(*flatten_with_paths(tree)[:2], strict=True):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"policy: {name}= holds NaN or infinity{f' at {path!r}' if path else ''}")


def _plain(value: Any) -> float:
    return value.item() if isinstance(value, np.generic) else value
