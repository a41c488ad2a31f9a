"""Evaluations that are no JAX functions: anything that Python can measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxcompress.search.problem import Item, Judged, Problem, Shared


@dataclasses.dataclass(frozen=True)
class PythonEvaluation:
    """A Python function as an evaluation; what `python` returns."""

    evaluate: Callable[..., Any]
    workers: int = 1

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the function."""
        return self.evaluate(*arguments, **options)


def python(evaluate: Callable[..., Any], *, workers: int = 1) -> PythonEvaluation:
    """Marks an evaluation as a Python function: it is called, not traced.

    It is handed ``space.config(genes)``, plain Python values, instead of arrays, and may do what it likes with them:
    build and compile a network of its own shapes, measure a time, call a service. It is called for one candidate after
    the other, or for some of one question at a time, in threads: small networks leave cores idle, compilation too.

    Args:
        evaluate: ``evaluate(config, key)``, ``evaluate(config, key, data)`` where the search has data, with the keyword
            ``fidelity`` where its strategy asks for less than the full effort. Returns numbers by name. It may return
            NaN for a candidate that fails; an exception ends the search.
        workers: threads, as many candidates at a time. More than one asks for a function that threads may call, and for
            one that does not measure times; a strategy asks for ``strategy.batch`` candidates at once.

    Example:
        >>> jc.search.python(lambda config, key: {"error": 1 / config["width"]})({"width": 4}, None)
        {'error': 0.25}
    """
    if not callable(evaluate):
        raise TypeError(f"python: evaluate must be a function, got {evaluate!r}")
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"python: workers must be an integer of at least 1, got {workers!r}")
    return PythonEvaluation(evaluate, workers)


class PythonProgram:
    """Evaluates populations by calling a Python function; stands where a compiled `Program` does.

    Args:
        problem: whose ``evaluate`` is a `PythonEvaluation`.
        shared: the key and the data.
    """

    name = "python"

    def __init__(self, problem: Problem, shared: Shared) -> None:
        if jax.process_count() > 1:
            raise ValueError(
                "search.python with several processes: each would measure numbers of its own, and their searches would "
                "part; search in one process, or with a traceable evaluate="
            )
        self._problem, self._shared = problem, shared
        self._limited = jax.jit(lambda genes: problem.space.violation(problem.space.decode(genes)))
        self._names: list[str] | None = None

    def __call__(self, items: Item, count: int) -> Judged:
        """Metrics of the first ``count`` items; zeros for the rest."""
        rows = self._rows([jax.tree.map(lambda x, at=i: x[at], items) for i in range(count)])
        n = len(items.number)
        metrics = {name: np.zeros(n, np.float64) for name in rows[0][0]}
        violation = np.zeros(n, np.float32)
        for i, (found, beyond) in enumerate(rows):
            violation[i] = beyond
            for name, value in found.items():
                metrics[name][i] = value
        return Judged(metrics, violation)

    def _rows(self, items: list[Item]) -> list[tuple[dict[str, float], float]]:
        """One after the other, or some at a time in threads."""
        workers = min(self._problem.evaluate.workers, len(items))
        if workers < 2:
            return [self._one(item) for item in items]
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(self._one, items))

    def _one(self, item: Item) -> tuple[dict[str, float], float]:
        problem = self._problem
        key = jax.random.wrap_key_data(self._shared.key_data, impl=problem.key_impl)
        config = problem.space.config(item.genes)
        fidelity = float(item.fidelity)
        returned = problem.called(config, jax.random.fold_in(key, item.number), self._shared.data, fidelity)
        named = problem.named(returned)
        checked = problem.metrics({name: np.asarray(value, np.float64) for name, value in named.items()})
        if self._names is not None and list(checked) != self._names:
            raise ValueError(f"evaluate= returned {list(checked)} where it returned {self._names} before")
        self._names = list(checked)
        beyond = float(self._limited(item.genes)) + float(problem.beyond_limits(checked))
        return {name: float(named[name]) for name in checked}, beyond
