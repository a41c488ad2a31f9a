"""How much each width costs each weight: the table that mixed precision is chosen from."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxcompress.core.table import html_table, text_table


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Sensitivity of every leaf at every width; prints as a table.

    Attributes:
        paths: of the leaves.
        sizes: number of weights of each.
        bits: the widths, ascending.
        values: ``[paths, bits]``, what quantizing this leaf alone to this width costs; lower is better, and they add.
        errors: ``[paths, bits]``, the squared length of the difference that quantizing makes.
        stored_bits: ``[paths, bits]``, bits that the quantized leaf holds, scales and all.
        curvature: what the values were weighted by, for people.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    bits: tuple[int, ...]
    values: np.ndarray
    errors: np.ndarray
    stored_bits: np.ndarray
    curvature: str

    def bytes_at(self, bits: int) -> int:
        """Bytes that all of these leaves take at one width: the budget under which a mixture can be compared with it.

        Raises:
            ValueError: if that width was not scored.
        """
        if bits not in self.bits:
            raise ValueError(f"bits={bits} was not scored, only {list(self.bits)}")
        return int(-(-self.stored_bits[:, self.bits.index(bits)].sum() // 8))

    def at(self, path: str) -> dict[int, float]:
        """The scores of one leaf by width.

        Raises:
            KeyError: if the leaf was not scored.
        """
        if path not in self.paths:
            raise KeyError(f"{path!r} was not scored, only {list(self.paths)}")
        return dict(zip(self.bits, self.values[self.paths.index(path)].tolist(), strict=True))

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        columns = ["path", "weights", *(f"{bits} bits" for bits in self.bits)]
        rows = [
            [path, f"{size:,}", *(f"{value:.4g}" for value in values)]
            for path, size, values in zip(self.paths, self.sizes, self.values, strict=True)
        ]
        return columns, rows, [self.curvature]
