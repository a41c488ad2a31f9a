"""The chosen candidates on data that the search has never seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.archive import Archive, Candidate, told_config
from jaxcompress.search.executors.local import Loop
from jaxcompress.search.executors.population import Program
from jaxcompress.search.genes import Genes
from jaxcompress.search.problem import Item, Problem, Shared, seeds_of
from jaxcompress.search.python_evaluation import PythonEvaluation, PythonProgram


@dataclasses.dataclass(frozen=True)
class Reported:
    """A candidate, and its metrics on the reporting split.

    Attributes:
        candidate: with the metrics that the search saw; None if the search never evaluated it.
        config: plain values.
        metrics: on the reporting split.
    """

    candidate: Candidate | None
    config: Any
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `Run.report` returns: a row for each candidate, the search's figure beside the reporting one.

    Attributes:
        rows: in the order asked for.
    """

    rows: tuple[Reported, ...]

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = list(self.rows[0].metrics)
        table = []
        for row in self.rows:
            seen = row.candidate.metrics if row.candidate else {}
            pairs = [
                f"{row.metrics[name]:.4g} ({seen[name]:.4g})" if seen else f"{row.metrics[name]:.4g}" for name in names
            ]
            table.append([str(row.candidate.number) if row.candidate else "-", *pairs, told_config(row.config)])
        return ["number", *(f"{name} (in the search)" for name in names), "config"], table


class Reporter:
    """Evaluates candidates on the reporting split, at full effort, each with the key that the search gave it.

    So nothing but the data differs: a network that is trained in ``evaluate`` is the very network that was found.

    Args:
        problem: what was searched for.
        shared: the evaluation key and the reporting data.
    """

    def __init__(self, problem: Problem, shared: Shared) -> None:
        self._problem, self._shared = problem, shared
        self._program: Program | PythonProgram | None = None

    def __call__(self, archive: Archive, chosen: Sequence[Candidate]) -> Report:
        """The report on candidates of the archive; one that was answered from the cache has the key of its twin."""
        sources = archive.columns.source
        return Report(tuple(Reported(one, one.config, self._metrics(one.genes, sources[one.number])) for one in chosen))

    def others(self, archive: Archive, given: Any) -> Report:
        """The report on configs or genes; those in the archive are recognised."""
        genes = jax.tree.map(np.asarray, seeds_of(self._problem.space, given))
        rows = []
        for i in range(len(genes.codes)):
            one = Genes(genes.codes[i], genes.values[i])
            candidate = _find(archive, one)
            number = len(archive) + i if candidate is None else candidate.number
            rows.append(Reported(candidate, self._problem.space.config(one), self._metrics(one, number)))
        return Report(tuple(rows))

    def _metrics(self, genes: Genes, number: int) -> dict[str, float]:
        items = jax.tree.map(lambda x: np.asarray(x)[None], Item(genes, np.float32(1.0), np.int32(number)))
        if self._program is None:
            is_python = isinstance(self._problem.evaluate, PythonEvaluation)
            self._program = (
                PythonProgram(self._problem, self._shared)
                if is_python
                else Program(self._problem.one, Loop(), items, self._shared)
            )
        return {name: value[0].item() for name, value in self._program(items, 1).metrics.items()}


def _find(archive: Archive, genes: Genes) -> Candidate | None:
    codes, values = archive.columns.genes
    same = np.all(codes == genes.codes, axis=1) & np.all(values == genes.values, axis=1)
    full = np.flatnonzero(same & (archive.columns.fidelity == 1.0))
    return archive[int(archive.columns.source[full[0]])] if len(full) else None
