"""What a run tells while it goes on, and what it leaves."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from jaxcompress.core.table import html_table, text_table
from jaxcompress.pipeline.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One measured stage.

    Attributes:
        name: of the stage, ``room.Class``; ``original`` for the parameters that came in.
        file: of the artifact, in the ``state_dir``.
        bytes: of that file.
        metrics: what ``evaluate`` returned.
        seconds: the stage took, interruptions not counted.
        sparsity: fraction of exact zeros in each weight, by path.
        curve: of a training stage, ``(step, mean loss, metrics)`` for each chunk.
    """

    name: str
    file: str
    bytes: int
    metrics: dict[str, float]
    seconds: float
    sparsity: dict[str, float]
    curve: tuple[tuple[int, float, dict[str, float]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        curve = tuple((step, loss, metrics) for step, loss, metrics in fields["curve"])
        return cls(**{**fields, "curve": curve})


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: position of the stage, from 0.
        stages: how many there are.
        name: of the stage.
        step: training steps taken.
        steps: training steps in all; 0 for a stage that does not train.
        loss: mean over the last chunk.
        metrics: of the last chunk, if they are evaluated.
        resumed: the stage goes on from a checkpoint.
        done: the record, once the stage is done.
    """

    stage: int
    stages: int
    name: str
    step: int
    steps: int
    loss: float | None
    metrics: dict[str, float]
    resumed: bool
    done: StageRecord | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What `jaxcompress.compress` returns; `jaxcompress.save` takes it as it is.

    Attributes:
        params: the compressed tree.
        recipe: what was done.
        original: record of the parameters that came in; its file is an uncompressed npz of the dense arrays.
        records: one for each stage.
    """

    params: Any
    recipe: Recipe
    original: StageRecord
    records: tuple[StageRecord, ...]

    @property
    def compression_ratio(self) -> float:
        """Bytes of the original file over bytes of the last artifact."""
        return self.original.bytes / self.records[-1].bytes

    def __str__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = list(self.original.metrics)
        rows = []
        for record in (self.original, *self.records):
            numbers = [f"{record.metrics[name]:.4g}" for name in names]
            ratio = f"{self.original.bytes / record.bytes:.1f}x"
            rows.append([record.name, f"{record.bytes:,}", ratio, *numbers, f"{record.seconds:.1f}"])
        return ["stage", "bytes", "ratio", *names, "seconds"], rows
