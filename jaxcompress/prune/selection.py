"""What structured selection returns: the kept indices, and a report of every group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxcompress.core.table import html_table, text_table

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups


class Selection(dict[tuple[str, int], np.ndarray]):
    """Kept indices by ``(path, axis)``, a dict as `jaxcompress.shrink` takes it; prints as a report of every group.

    Attributes:
        units: the units that stay, by index of the group; groups not named stay whole.
        costs: ``(before, after)`` of ``"flops"`` (one call at the analysed inputs), ``"params"``, ``"bytes"`` (dense),
            and of ``"latency_ms"`` where it was measured.
        measured: the milliseconds of every candidate that was timed, as (FLOPs, milliseconds), in their order.
    """

    def __init__(
        self,
        groups: Groups,
        units: Mapping[int, np.ndarray],
        *,
        latency_ms: tuple[float, float] | None = None,
        measured: tuple[tuple[int, float], ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """Translates units into indices."""
        super().__init__(groups.keep(units))
        counts = {index: len(kept) for index, kept in units.items()}
        self.units = dict(units)
        self.costs: dict[str, tuple[float, float]] = {
            "flops": (groups.flops(), groups.flops(counts)),
            "params": (groups.parameters(), groups.parameters(counts)),
            "bytes": (groups.bytes(), groups.bytes(counts)),
        }
        if latency_ms is not None:
            self.costs["latency_ms"] = latency_ms
        self.measured = measured
        self._rows = [
            (
                str(group.index),
                str(group.size),
                str(counts.get(group.index, group.size)),
                _label(groups, group),
            )
            for group in groups
        ]
        self._notes = [*map(_cost_line, self.costs.items()), *notes]

    def __repr__(self) -> str:
        """The report as text."""
        return text_table(_COLUMNS, self._rows, self._notes)

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows, self._notes)


_COLUMNS = ("group", "units", "kept", "members")


def _label(groups: Groups, group: Group) -> str:
    """The largest leaf of a group, and how many others there are."""
    paths = dict.fromkeys(member.path for member in group.members)
    largest = max(paths, key=lambda path: math.prod(groups.shapes[path]))
    return largest if len(paths) == 1 else f"{largest} and {len(paths) - 1} more"


def _cost_line(item: tuple[str, tuple[float, float]]) -> str:
    name, (before, after) = item
    shown = [f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for value in (before, after)]
    return f"{name}: {shown[0]} -> {shown[1]} ({after / before if before else 1:.1%})"
