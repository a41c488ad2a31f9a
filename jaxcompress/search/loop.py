"""The search as a loop in Python: ask, evaluate, tell, write down, show; until the budget is spent or it is stopped."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.archive import Archive, Rows
from jaxcompress.search.budget import Budget
from jaxcompress.search.checkpoint import Checkpoints, Moment
from jaxcompress.search.evaluator import Evaluator
from jaxcompress.search.problem import Judged, Problem
from jaxcompress.search.progress import Tell, progress_of
from jaxcompress.search.steps import ask, tell
from jaxcompress.search.strategy import Strategy

FIRST = 8  # so many candidates may fail before a search without any other is given up
STALE = 1000  # so many candidates in a row, and 10 generations, may be known before a search counts as exhausted


@dataclasses.dataclass
class Loop:
    """A search between two generations. What it holds changes only when a generation is complete.

    Attributes:
        problem: what is searched for.
        strategy: that asks.
        budget: that ends it.
        evaluator: that answers.
        state: of the strategy.
        archive: of all generations; None before the first.
        seconds: that it took so far.
        checkpoints: where it is written down; None for nowhere.
        every: how many generations between two writings.
        resumed: whether it came from a checkpoint.
    """

    problem: Problem
    strategy: Strategy
    budget: Budget
    evaluator: Evaluator
    state: Any
    archive: Archive | None
    seconds: float
    checkpoints: Checkpoints | None
    every: int
    resumed: bool

    def go(self, show: Tell) -> str:
        """Searches on; returns what ended it: ``"budget"``, ``"exhausted"`` or ``"interrupted"`` (by the keyboard).

        Raises:
            KeyboardInterrupt: if not even one generation is done.
            ValueError: if all of the first candidates fail.
        """
        stopped = "budget"
        if self.archive is not None:
            self._show(show)
        try:
            while not self._spent():
                if self._exhausted():
                    stopped = "exhausted"
                    break
                self._generation()
                if self._generations % self.every == 0:
                    self._write()
                self._show(show)
        except KeyboardInterrupt:
            if self.archive is None:
                raise
            stopped = "interrupted"
        self._write()
        if stopped == "budget" and self.archive is not None and len(self.archive) < FIRST:
            _check_first(self.archive)
        return stopped

    @property
    def _generations(self) -> int:
        return 0 if self.archive is None else len(self.archive) // self.strategy.batch

    def _generation(self) -> None:
        began = time.perf_counter()
        static = {"strategy": self.strategy, "problem": self.problem}
        candidates, state = ask(self.state, **static)
        rows = self.evaluator(candidates, self.archive, left=lambda seconds: self._left(seconds, began))
        judged = jax.tree.map(jnp.asarray, Judged(rows.metrics, rows.violation))
        state = jax.block_until_ready(tell(state, candidates, judged, **static))
        archive = self._extended(rows)
        if len(archive) - self.strategy.batch < FIRST <= len(archive):
            _check_first(archive)
        if self.archive is None:
            self._note(archive)
        # One statement: an interrupt leaves either the generation before or this one.
        self.state, self.archive, self.seconds = state, archive, self.seconds + time.perf_counter() - began

    def _extended(self, rows: Rows) -> Archive:
        if self.archive is None:
            return Archive(self.problem, self.strategy.batch, rows)
        return self.archive.extended(rows)

    def _note(self, archive: Archive) -> None:
        """What a checkpoint needs to know before it can be read."""
        if self.checkpoints is not None:
            columns = archive.columns
            metrics = {name: str(values.dtype) for name, values in columns.metrics.items()}
            genes = [columns.genes.codes.shape[1], columns.genes.values.shape[1]]
            choice = self.evaluator.choice
            self.checkpoints.note(genes=genes, metrics=metrics, executor=None if choice is None else choice.name)

    def _write(self) -> None:
        if self.checkpoints is not None and self.archive is not None:
            self.checkpoints.save(Moment(self._generations, self.state, self.archive.columns, self.seconds))

    def _show(self, show: Tell) -> None:
        assert self.archive is not None
        show(progress_of(self.archive, self.seconds, self.budget, resumed=self.resumed))

    def _exhausted(self) -> bool:
        """True once a strategy has long asked for nothing new; read off the archive, so the same after a checkpoint."""
        return self.archive is not None and self.archive.known_since() >= max(STALE, 10 * self.strategy.batch)

    def _spent(self) -> bool:
        most = self.budget.generations(self.strategy.batch)
        if most is not None and self._generations >= most:
            return True
        return self.budget.seconds is not None and _agreed(self.seconds) >= self.budget.seconds

    def _left(self, seconds: float, began: float) -> float:
        """How long the search will go on if a generation takes so many seconds."""
        bounds = []
        if (most := self.budget.generations(self.strategy.batch)) is not None:
            bounds.append((most - self._generations) * seconds)
        if self.budget.seconds is not None:
            bounds.append(self.budget.seconds - self.seconds - (time.perf_counter() - began))
        return min(bounds)


def _check_first(archive: Archive) -> None:
    if archive.failed.all():
        watched = [*archive.problem.objectives, *(name for name, _ in archive.problem.limits)]
        seen = {name: archive.columns.metrics[name][:3].tolist() for name in watched}
        raise ValueError(
            f"all of the first {len(archive)} candidates failed: an objective or limited metric is NaN or "
            f"infinite (the first three: {seen}). Evaluate one by hand under jax.debug_nans(True): evaluate("
            "space.decode(genes), key); often every learning rate of the space is too high, or the data is not scaled"
        )


def _agreed(seconds: float) -> float:
    """The seconds of the first process: all have to stop at the same generation."""
    if jax.process_count() == 1:
        return seconds
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
