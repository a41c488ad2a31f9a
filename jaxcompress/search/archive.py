"""All that a search has evaluated, as a table: genomes and metrics, a row for each candidate that was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.genes import Genes
from jaxcompress.search.problem import Problem

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One row of an `Archive`.

    Attributes:
        number: its running number in the search, from 0.
        config: plain values, as the space gives them.
        metrics: what ``evaluate`` returned.
        fidelity: the part of the full effort that it was given.
        violation: by how much constraints and limits are broken in all.
        failed: the evaluation gave NaN or infinity.
        genes: its row of codes and of values, as NumPy arrays.
        space: that it is of.
    """

    number: int
    config: Any
    metrics: dict[str, float]
    fidelity: float
    violation: float
    failed: bool
    genes: Genes
    space: Space = dataclasses.field(repr=False)

    @property
    def genome(self) -> Any:
        """The arrays that ``evaluate`` reads."""
        return self.space.decode(self.genes)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"candidate {self.number}: {told}\n{self.config}"


class Rows(NamedTuple):
    """The columns of an archive, as NumPy arrays ``[rows]``.

    Attributes:
        genes: canonical.
        fidelity: float32.
        metrics: by name.
        violation: float32.
        source: int64, the number of the candidate that was evaluated: another one's where this one equals it.
    """

    genes: Genes
    fidelity: Any
    metrics: dict[str, Any]
    violation: Any
    source: Any


@dataclasses.dataclass(frozen=True)
class Archive:
    """A table of candidates in the order in which they were asked for.

    ``len(archive)``, ``archive[number]`` and iteration speak of `Candidate`s; `to_numpy` gives columns, `rows` a list
    of dicts.

    Attributes:
        problem: what was searched for.
        batch: candidates of a generation.
        columns: of the table.
    """

    problem: Problem
    batch: int
    columns: Rows

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: the objectives, then the others."""
        objectives = self.problem.objectives
        return (*objectives, *(name for name in sorted(self.columns.metrics) if name not in objectives))

    @property
    def failed(self) -> np.ndarray:
        """Bool ``[rows]``: an objective or a limited metric is NaN or infinite."""
        return failed(self.problem, self.columns.metrics)

    @property
    def cached(self) -> np.ndarray:
        """Bool ``[rows]``: equal to an earlier candidate, whose metrics it was given."""
        return self.columns.source != np.arange(len(self))

    def known_since(self) -> int:
        """How many of the last rows were answered from the cache, without a new candidate among them."""
        return len(self) - 1 - int(self.columns.source.max(initial=-1))

    @property
    def eligible(self) -> np.ndarray:
        """Bool ``[rows]``: neither failed nor breaking a constraint or limit, and given the full effort.

        Where no candidate was given the full effort, those that were given most of it.
        """
        good = ~self.failed & (self.columns.violation <= 0)
        return good & (self.columns.fidelity == self.columns.fidelity[good].max(initial=0.0))

    def values(self, name: str) -> np.ndarray:
        """A metric as float64 ``[rows]``.

        Raises:
            ValueError: if there is none of that name; lists them.
        """
        if name not in self.columns.metrics:
            raise ValueError(f"there is no metric {name!r}; evaluate= returns {list(self.metrics)}")
        return self.columns.metrics[name].astype(np.float64)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """All columns by name: each gene by its path (codes and values in ``[0, 1]``), then what is known of it.

        A gene of the name of a metric, or of anything else there is, is called ``"gene NAME"``.
        """
        codes, values = self.columns.genes
        genes = dict(zip(self.problem.space.names, [*codes.T, *values.T], strict=True))
        known = {
            "number": np.arange(len(self)),
            "generation": np.arange(len(self)) // self.batch,
            "fidelity": self.columns.fidelity,
            "violation": self.columns.violation,
            "failed": self.failed,
            "cached": self.cached,
        }
        known |= self.columns.metrics
        return {**{f"gene {name}" if name in known else name: row for name, row in genes.items()}, **known}

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each candidate: its config, its metrics, and what is known of it."""
        cached, found = self.cached, []
        for candidate in self:
            known = {name: getattr(candidate, name) for name in ("number", "fidelity", "violation", "failed")}
            known |= {"generation": candidate.number // self.batch, "cached": bool(cached[candidate.number])}
            found.append({**known, "config": candidate.config, "metrics": candidate.metrics})
        return found

    def extended(self, rows: Rows) -> Archive:
        """The archive with a generation more."""
        joined = jax.tree.map(lambda old, new: np.concatenate([old, new]), self.columns, rows)
        return dataclasses.replace(self, columns=joined)

    def __len__(self) -> int:
        return len(self.columns.fidelity)

    def __getitem__(self, number: int) -> Candidate:
        if not -len(self) <= number < len(self):
            raise IndexError(f"the archive has {len(self)} candidates, there is no {number}")
        number = int(number) % len(self)
        row = jax.tree.map(lambda x: x[number], self.columns)
        metrics = {name: row.metrics[name].item() for name in self.metrics}
        genes, config = Genes(*row.genes), self.problem.space.config(row.genes)
        known = (float(row.fidelity), float(row.violation), bool(self.failed[number]))
        return Candidate(number, config, metrics, *known, genes, self.problem.space)

    def __iter__(self) -> Iterator[Candidate]:
        return (self[number] for number in range(len(self)))

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """The best by the first objective."""
        first = np.where(self.eligible, self.values(self.problem.objectives[0]), np.inf)
        best = np.argsort(first, kind="stable")[: min(SHOWN, int(np.isfinite(first).sum()))]
        rows = [candidate_row(self[number], self.metrics) for number in best]
        told = f"{len(self):,} candidates, {int(self.failed.sum()):,} failed, {int(self.cached.sum()):,} from the cache"
        return ["number", *self.metrics, "config"], rows, [told]


def candidate_row(candidate: Candidate, metrics: tuple[str, ...]) -> list[str]:
    """A candidate as a row of a table."""
    numbers = [f"{candidate.metrics[name]:.4g}" for name in metrics]
    return [str(candidate.number), *numbers, told_config(candidate.config)]


def told_config(config: Any) -> str:
    """A config on one line.

    Example:
        >>> told_config({"rate": 0.012345, "cell": {"op": "conv", "widths": [8, 16]}})
        'rate=0.01235 cell/op=conv cell/widths=[8, 16]'
    """
    parts: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}" if path else name)
        else:
            parts.append(f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}")

    walk(config, "")
    return " ".join(parts)


def failed(problem: Problem, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which rows of metrics are of evaluations that failed; NumPy, as `Problem.failed` inside of programs."""
    watched = [*problem.objectives, *(name for name, _ in problem.limits)]
    return ~np.all([np.isfinite(metrics[name].astype(np.float32)) for name in watched], axis=0)
