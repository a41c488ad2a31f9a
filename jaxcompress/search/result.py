"""What a search leaves: the best, the front, all of it, and the way to report on unseen data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.archive import Archive, Candidate, candidate_row
from jaxcompress.search.executors.measured import ExecutorChoice
from jaxcompress.search.genes import Genes
from jaxcompress.search.pareto import Pareto, pareto_of
from jaxcompress.search.reporting import Report, Reporter
from jaxcompress.search.selection import best
from jaxcompress.search.strategy import Strategy


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or interrupted search; what `jaxcompress.search.run` returns.

    Attributes:
        archive: every candidate that was asked for, with its metrics.
        strategy: that asked.
        state: its last state.
        executor: which one was taken, and why.
        seconds: that it took, interruptions not counted.
        stopped: ``"budget"``, ``"interrupted"``, or ``"exhausted"`` where the strategy had long asked for nothing new.
    """

    archive: Archive
    strategy: Strategy
    state: Any
    executor: ExecutorChoice
    seconds: float
    stopped: str
    _reporter: Reporter | None = dataclasses.field(repr=False)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What was minimised."""
        return self.archive.problem.objectives

    def best(self, metric: str | None = None, /, **bounds: float) -> Candidate:
        """The candidate with the least of one metric among those within the bounds.

        Only candidates count that did not fail, keep the constraints of the space and ``limits=``, and were given the
        full effort. Without ``metric`` it is the first objective that no bound is named for (all have one: the first).
        So ``best()`` of a search for error and bytes has the lowest error, ``best(error=0.02)`` the fewest bytes at an
        error of at most 0.02. Among equals the other objectives decide in their order, then who was evaluated first.

        Args:
            metric: to be least; any that ``evaluate`` returns.
            **bounds: the most that metrics may be.

        Raises:
            ValueError: on a metric that is unknown (lists them), or if no candidate is within the bounds (says how far
                each of them could be met).
        """
        if metric is not None:
            self.archive.values(metric)
        return best(self.archive, metric, bounds)

    @property
    def pareto(self) -> Pareto:
        """The front over the objectives; ``run.pareto.over("error", "bytes")`` is one over any metrics."""
        return pareto_of(self.archive, self.objectives)

    def report(
        self, candidates: Candidate | Sequence[Candidate] | Genes | Mapping[str, Any] | Sequence[Any] | None = None
    ) -> Report:
        """Evaluates chosen candidates on ``report_data``, which nothing has seen during the search.

        Each is evaluated at full effort and with the key that the search gave it. What is best on the data of the
        search is better there than elsewhere, since it was chosen for it: the figures to publish are these.

        Args:
            candidates: of this run, or configs, or genes. By default the front of several objectives, the best for one.

        Raises:
            ValueError: if the search was given no ``report_data``, or there are no candidates.
        """
        if self._reporter is None:
            raise ValueError(
                "report: the search had no report_data=; give it rows that data= has none of (search.split)"
            )
        if candidates is None:
            candidates = list(self.pareto) if len(self.objectives) > 1 else self.best()
        if isinstance(candidates, Candidate):
            candidates = [candidates]
        if not isinstance(candidates, Genes | Mapping) and not candidates:
            raise ValueError("report: no candidates to report on; leave them out for the best")
        if not isinstance(candidates, Genes | Mapping) and all(isinstance(one, Candidate) for one in candidates):
            return self._reporter(self.archive, list(candidates))
        return self._reporter.others(self.archive, candidates)

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """The best by each objective."""
        archive = self.archive
        rows = []
        if archive.eligible.any():
            rows = [
                [f"least {name}", *candidate_row(best(archive, name, {}), archive.metrics)] for name in self.objectives
            ]
        failed, cached, n = int(archive.failed.sum()), int(archive.cached.sum()), len(archive)
        effort = archive.columns.fidelity
        most = int((effort == effort[archive.eligible].max(initial=0.0)).sum()) or n
        among = f" of the {most:,} with the most effort" if most < n else ""
        notes = [
            f"{n:,} candidates in {n // archive.batch:,} generations, {self.seconds:.1f} s ({self.stopped})",
            f"{cached:,} from the cache, {failed:,} failed, {int(archive.eligible.sum()):,}{among} keep all limits",
            f"evaluated by {self.executor.name}: {self.executor.reason}",
        ]
        if self.stopped == "exhausted":
            known = archive.known_since()
            notes.append(
                f"ended before the budget: the last {known:,} candidates were known, so nothing new is in reach"
            )
        return ["", "number", *archive.metrics, "config"], rows, notes
