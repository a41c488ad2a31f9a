"""The candidates between which only a preference decides: a table and a plot."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxcompress.core.drawing import BLUE, GREY, INK, ORANGE, PALE, STYLE
from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.archive import Archive, Candidate, candidate_row
from jaxcompress.search.selection import eligible, front

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Pareto:
    """The Pareto front of an archive: eligible candidates that no other one equals or beats in every metric.

    ``len(pareto)``, ``pareto[i]`` and iteration speak of `Candidate`s, ordered by the first metric.

    Attributes:
        archive: of which it is the front.
        metrics: that are traded against each other, all minimised.
        numbers: of the candidates on the front.
    """

    archive: Archive
    metrics: tuple[str, ...]
    numbers: np.ndarray

    def over(self, *metrics: str) -> Pareto:
        """The front over other metrics.

        Raises:
            ValueError: if one is unknown (lists them), or none is given.
        """
        return pareto_of(self.archive, metrics)

    def values(self) -> np.ndarray:
        """The metrics of the front, float64 ``[front, metrics]``."""
        return np.stack([self.archive.values(name)[self.numbers] for name in self.metrics], axis=1)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        log: tuple[str, ...] = (),
        title: str = "",
        marked: Mapping[str, Candidate] | None = None,
    ) -> Figure:
        """Draws the first two metrics of all eligible candidates and of the front; a third one is the colour.

        Args:
            path: of a file to write, whose ending says in which form; None for none.
            log: metrics with a logarithmic axis.
            title: above the plot.
            marked: candidates to point out, by what the legend calls them: a network made by hand, say.

        Returns:
            A figure of matplotlib.

        Raises:
            ImportError: without matplotlib; names the extra.
            ValueError: on a front over one metric; on unknown names in ``log``.
        """
        if len(self.metrics) < 2:
            raise ValueError(f"plot: a front over {list(self.metrics)} is a point; take .over(two, metrics)")
        if unknown := sorted(set(log) - set(self.metrics)):
            raise ValueError(f"plot: log={unknown[0]!r} is none of the metrics {list(self.metrics)}")
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots need matplotlib: pip install 'jaxcompress[search]'") from error
        with rc_context(STYLE):
            figure = Figure(figsize=(7.2, 4.4), layout="constrained")
            self._draw(figure, log, title, marked or {})
            if path is not None:
                figure.savefig(path, dpi=160)
        return figure

    def _draw(self, figure: Figure, log: tuple[str, ...], title: str, marked: Mapping[str, Candidate]) -> None:
        axes = figure.subplots()
        across, up = self.metrics[1], self.metrics[0]  # what is bought upwards, what it costs to the right
        all_of_them = [self.archive.values(name)[self.archive.eligible] for name in (across, up)]
        values = self.values()
        axes.grid(color=PALE, linewidth=0.8)
        axes.scatter(*all_of_them, s=14, color=GREY, alpha=0.45, linewidths=0, label="evaluated")
        if len(self.metrics) == 2:
            order = np.argsort(values[:, 1], kind="stable")
            x, y = values[order, 1], values[order, 0]
            axes.step(x, y, where="post", color=BLUE, linewidth=1.3, zorder=3)
            axes.plot(x, y, "o", color=BLUE, markersize=5, zorder=4, label=f"front: {len(self)} candidates")
        else:
            dots = axes.scatter(
                values[:, 1], values[:, 0], c=values[:, 2], s=34, zorder=4, edgecolors=INK, linewidths=0.5
            )
            figure.colorbar(dots, ax=axes, label=self.metrics[2])
        for name, candidate in marked.items():
            axes.plot(candidate.metrics[across], candidate.metrics[up], "s", color=ORANGE, zorder=5, label=name)
        axes.set(xlabel=across, ylabel=up, title=title)
        axes.set_xscale("log" if across in log else "linear")
        axes.set_yscale("log" if up in log else "linear")
        _focus(axes, values[:, 0], up in log)
        axes.legend(loc="upper right")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Candidate:
        return self.archive[int(self.numbers[i])]

    def __iter__(self) -> Iterator[Candidate]:
        return (self[i] for i in range(len(self)))

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = (*self.metrics, *(name for name in self.archive.metrics if name not in self.metrics))
        return ["number", *names, "config"], [candidate_row(candidate, names) for candidate in self]


def pareto_of(archive: Archive, metrics: tuple[str, ...]) -> Pareto:
    """The front of an archive over some metrics; candidates whose metrics are not finite are left out.

    Raises:
        ValueError: on unknown metrics (lists them), if none is given, or if no candidate is eligible.
    """
    if not metrics:
        raise ValueError(f"a front needs metrics: some of {list(archive.metrics)}")
    values = np.stack([archive.values(name) for name in metrics], axis=1)
    rows = np.flatnonzero(eligible(archive) & np.isfinite(values).all(axis=1))
    return Pareto(archive, tuple(metrics), rows[front(values[rows])])


def _focus(axes, values: np.ndarray, log: bool) -> None:
    """Does not let a few hopeless candidates flatten the front."""
    low, high = axes.get_ylim()
    reach = values.max() - values.min()
    if not log and reach > 0 and high > values.max() + 2 * reach:
        axes.set_ylim(low, values.max() + 2 * reach)
