"""The rows of a report: one for each file that was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured file.

    Attributes:
        name: of the stage that led to it, for people.
        bytes: of the file, as it lies on disk.
        error: fraction of the held-out examples that are classified wrongly.
        latency_ms: median milliseconds of a call, by batch size.
        load_ms: median milliseconds from the file to parameters.
        seconds: the stage took.
    """

    name: str
    bytes: int
    error: float
    latency_ms: Mapping[int, float]
    load_ms: float
    seconds: float


def rows_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells for `jaxcompress.core.table`. The first row is what the ratios refer to.

    Example:
        >>> rows = [Row("float32", 4000, 0.02, {1: 0.5}, 1.0, 9.0), Row("pruned", 400, 0.021, {1: 0.5}, 1.5, 3.0)]
        >>> rows_table(rows)[1][1]
        ['pruned', '400', '10.0x', '2.10 %', '0.500', '1.5', '3.0']
    """
    batches = list(rows[0].latency_ms)
    columns = ["stage", "bytes", "ratio", "test error", *(f"batch {b}, ms" for b in batches), "load, ms", "seconds"]
    cells = [
        [
            row.name,
            f"{row.bytes:,}",
            f"{rows[0].bytes / row.bytes:.1f}x",
            f"{100 * row.error:.2f} %",
            *(f"{row.latency_ms[b]:.3f}" for b in batches),
            f"{row.load_ms:.1f}",
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    return columns, cells
