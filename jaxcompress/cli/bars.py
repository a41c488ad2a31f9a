"""Progress bars of the demo: one for each stage, with loss and error."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jaxcompress.pipeline import Progress as Event


class Bars:
    """Shows the events of `jaxcompress.compress`; a context manager.

    Args:
        names: of the stages, for people.
        console: where to draw.
    """

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._names = names
        self._tasks: dict[int, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]} {task.fields[error]}"),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Draws one event."""
        total = event.steps or 1
        if event.stage not in self._tasks:
            name = f"{event.stage + 1}/{event.stages} {self._names[event.stage]}".ljust(24)
            self._tasks[event.stage] = self._progress.add_task(name, total=total, loss="", error="")
        error = event.done.metrics if event.done else event.metrics
        changes: dict[str, Any] = {"completed": total if event.done else event.step}
        if event.loss is not None:
            changes["loss"] = f"loss {event.loss:.4f}"
        if "error" in error:
            changes["error"] = f"error {error['error']:.2%}"
        self._progress.update(self._tasks[event.stage], **changes)
        if event.resumed:
            self._progress.console.print(
                f"Going on with {self._names[event.stage]!r} after step {event.step} of {total}."
            )
