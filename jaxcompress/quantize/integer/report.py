"""What an integer function is made of: its grids, its tail, its size."""

from __future__ import annotations

import dataclasses

from jaxcompress.core.table import html_table, text_table
from jaxcompress.quantize.integer.grids import Grid
from jaxcompress.quantize.integer.plan import Site


@dataclasses.dataclass(frozen=True)
class IntegerReport:
    """A table of the sites of an integer function, for the terminal and for notebooks.

    Attributes:
        sites: where values are rounded to a grid, in order.
        grids: their grids, by name.
        tail: ``"primitive at line"`` from which on results are computed in floats; None: nothing is.
        integer_bytes: of the arrays that the function holds.
        float_bytes: of the float parameters that it was made of.
    """

    sites: tuple[Site, ...]
    grids: dict[str, Grid]
    tail: str | None
    integer_bytes: int
    float_bytes: int

    @property
    def _columns(self) -> list[str]:
        return ["site", "primitive", "parameters", "from", "to", "scale", "zero point", "source"]

    @property
    def _rows(self) -> list[list[str]]:
        rows = []
        for site in self.sites:
            grid = self.grids[site.name]
            low, high = (f"{end:.4g}" for end in grid.range)
            numbers = [low, high, f"{grid.scale:.4g}", str(grid.zero_point)]
            rows.append([site.name, site.primitive, ", ".join(site.parameters), *numbers, site.source])
        return rows

    @property
    def _notes(self) -> list[str]:
        tail = (
            f"in floats from {self.tail} on" if self.tail else "no float arithmetic between the first and the last grid"
        )
        ratio = self.float_bytes / max(1, self.integer_bytes)
        return [tail, f"{self.integer_bytes:,} bytes in integers, {self.float_bytes:,} in floats ({ratio:.2f}x)"]

    def __str__(self) -> str:
        """The table."""
        return text_table(self._columns, self._rows, self._notes)

    def _repr_html_(self) -> str:
        return html_table(self._columns, self._rows, self._notes)
