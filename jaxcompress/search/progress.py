"""What a search tells while it goes on: to a bar, or to a function."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcompress.search.archive import Archive
from jaxcompress.search.budget import Budget


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Attributes:
        generation: how many are done.
        evaluations: candidates that were asked for, those answered from the cache among them.
        cached: of these, answered from the cache.
        failed: of these, gave NaN or infinity.
        seconds: since the search began, interruptions not counted.
        budget: that it has.
        best: the least of each objective among the candidates that keep constraints and limits; empty if none does.
        resumed: whether it went on from a checkpoint.
    """

    generation: int
    evaluations: int
    cached: int
    failed: int
    seconds: float
    budget: Budget
    best: dict[str, float]
    resumed: bool

    @property
    def fraction(self) -> float:
        """How much of the budget is spent, in ``[0, 1]``."""
        spent = [self.evaluations / self.budget.evaluations] if self.budget.evaluations else []
        spent += [self.seconds / self.budget.seconds] if self.budget.seconds else []
        return min(1.0, max(spent))

    def __str__(self) -> str:
        best = ", ".join(f"least {name} {value:.4g}" for name, value in self.best.items())
        told = [f"{self.evaluations:,} done", best or "none feasible"]
        return ", ".join(told + ([f"{self.failed:,} failed"] if self.failed else []))


Tell = Callable[[Progress], None]


def progress_of(archive: Archive, seconds: float, budget: Budget, *, resumed: bool) -> Progress:
    """Where an archive stands."""
    good = archive.eligible
    names = archive.problem.objectives
    best = {name: float(archive.values(name)[good].min()) for name in names} if good.any() else {}
    n = len(archive)
    cached, failed = (int(np.count_nonzero(flags)) for flags in (archive.cached, archive.failed))
    return Progress(n // archive.batch, n, cached, failed, seconds, budget, best, resumed)


@contextlib.contextmanager
def telling(progress: bool | Tell) -> Iterator[Tell]:
    """What to call after each generation: a bar of `rich`, the function given, or nothing.

    With several processes only the first one tells.

    Raises:
        ImportError: if the bar is wanted and `rich` is missing; names the extra.
        TypeError: if ``progress`` is neither a bool nor a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress= must be True, False or a function of a Progress, got {progress!r}")
    if progress is False or jax.process_index() > 0:
        yield lambda _: None
    elif progress is True:
        with _bar() as tell:
            yield tell
    else:
        yield progress


@contextlib.contextmanager
def _bar(console: Any = None) -> Iterator[Tell]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError as error:
        raise ImportError(
            "the progress bar needs rich: pip install 'jaxcompress[search]', or search with progress=False"
        ) from error
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (BarColumn(20), TaskProgressColumn(), *times, TextColumn("{task.description}"))
    with Bar(*columns, console=console or Console(file=sys.stderr)) as bar:
        task = bar.add_task("compiling", total=1.0)
        yield lambda moment: bar.update(task, completed=moment.fraction, description=str(moment))
