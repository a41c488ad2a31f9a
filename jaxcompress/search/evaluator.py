"""Evaluates one generation after another: what is known is looked up, the rest goes to a compiled program."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from jaxcompress.search.archive import Archive, Rows
from jaxcompress.search.executors.executor import Executor, describe
from jaxcompress.search.executors.measured import ExecutorChoice, choose, executor_named
from jaxcompress.search.executors.population import Program, executor_of
from jaxcompress.search.genes import Genes
from jaxcompress.search.problem import Item, Judged, Problem, Shared
from jaxcompress.search.python_evaluation import PythonEvaluation, PythonProgram
from jaxcompress.search.strategy import Candidates


class Evaluator:
    """The evaluation of a search.

    Args:
        problem: what is searched for.
        shared: key and data.
        executor: ``"auto"``, a name or an object.
        cache: whether equal candidates (at the same fidelity) are evaluated once.
        remembered: the executor that the search took before it was interrupted, if it was.

    Attributes:
        choice: the executor and why it was taken; None before the first generation.
    """

    def __init__(
        self, problem: Problem, shared: Shared, executor: str | Executor, *, cache: bool, remembered: str | None
    ) -> None:
        self._problem, self._shared, self._cache = problem, shared, cache
        self._known: dict[bytes, int] = {}
        self._program: Program | PythonProgram | None = None
        self._executor: Executor | None = None
        self.choice: ExecutorChoice | None = None
        if isinstance(problem.evaluate, PythonEvaluation):
            if executor not in ("auto", "loop"):
                raise ValueError(
                    f"executor={executor!r}: a function marked as Python is called in a loop; leave it out"
                )
            self._program = PythonProgram(problem, shared)
            self.choice = ExecutorChoice("python", "evaluate= is marked as a Python function")
        elif executor == "auto":
            self._executor = None if remembered is None else executor_named(remembered)
            if self._executor is not None:
                self.choice = ExecutorChoice(describe(self._executor), "as before the interruption")
        else:
            self._executor = executor_of(executor)
            self.choice = ExecutorChoice(describe(self._executor), "as asked for")

    def remember(self, archive: Archive) -> None:
        """Learns what a restored archive knows."""
        for number, name in enumerate(_names(Item(archive.columns.genes, archive.columns.fidelity, np.array(0)))):
            self._known.setdefault(name, number)

    def __call__(self, candidates: Candidates, archive: Archive | None, *, left: Callable[[float], float]) -> Rows:
        """Evaluates a generation.

        Args:
            candidates: canonical.
            archive: all generations before; None for the first one.
            left: from the seconds of a generation to those that the search will still take.
        """
        first = 0 if archive is None else len(archive)
        n = len(candidates.fidelity)
        asked = jax.tree.map(np.asarray, candidates)
        items = Item(asked.genes, asked.fidelity, first + np.arange(n, dtype=np.int32))
        source = first + np.arange(n)
        if self._cache:
            source = np.array([self._known.setdefault(name, first + i) for i, name in enumerate(_names(items))])
        new = np.flatnonzero(source == first + np.arange(n))
        place = np.zeros(n, np.int64)  # of each candidate its row in what is evaluated
        place[new] = np.arange(len(new))
        own = source >= first
        place[own] = place[source[own] - first]
        found = self._evaluated(items, new, left)
        if found is None:
            assert archive is not None
            rows = jax.tree.map(lambda x: x[source], archive.columns)
        else:
            rows = jax.tree.map(lambda x: np.asarray(x)[place], found)
            if archive is not None and not own.all():
                earlier = jax.tree.map(lambda x: x[np.where(own, 0, source)], archive.columns)
                earlier = Judged(earlier.metrics, earlier.violation)
                rows = jax.tree.map(lambda a, b: np.where(own, a, b).astype(a.dtype), rows, earlier)
        return Rows(Genes(*items.genes), items.fidelity, dict(rows.metrics), rows.violation, source)

    def _evaluated(self, items: Item, new: np.ndarray, left: Callable[[float], float]) -> Judged | None:
        """Results of the candidates ``new``, in front; None if there are none."""
        if not len(new):
            return None
        order = np.concatenate([new, np.full(len(items.number) - len(new), new[-1])])
        ordered = jax.tree.map(lambda x: x[order], items)
        if self._program is None:
            if self._executor is None:
                given = (self._problem.one, ordered, len(new), self._shared)
                self._program, results, self.choice = choose(*given, left=left)
                return results
            self._program = Program(self._problem.one, self._executor, ordered, self._shared)
        return self._program(ordered, len(new))


def _names(items: Item) -> list[bytes]:
    """Candidates as bytes: equal where genes and fidelity are."""
    codes, values = (np.asarray(row) for row in items.genes)
    fidelity = np.asarray(items.fidelity, np.float32)
    return [c.tobytes() + (v + 0.0).tobytes() + f.tobytes() for c, v, f in zip(codes, values, fidelity, strict=True)]
