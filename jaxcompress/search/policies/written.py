"""Costs whose bytes are those of a file that is written: streams that leaves share are not the sum of their parts."""

from __future__ import annotations

import numpy as np

from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.search.policies.sizes import file_bytes
from jaxcompress.search.policies.table import VariantTable


class WrittenCosts:
    """The costs of policies; their bytes are those of a file of the variants, where no channels go.

    Leaves of several widths in one file take a few percent more than each of them alone. A file is written once.

    Args:
        table: the variants.
        costs: of the parts: all that is not counted in files.
        files: False: files are not of interest, bytes are those of the parts.

    Example:
        >>> from jaxcompress.search.policies import Setting, variant_table
        >>> params = {"a": jax.random.normal(jax.random.key(0), (8, 16))}
        >>> table = variant_table(lambda p, x: x @ p["a"], params, {"**": [Setting(bits=4), Setting(bits=8)]})
        >>> rows = np.array([[1]])
        >>> int(WrittenCosts(table, table.costs).of(rows)["bytes"][0]) - int(table.costs.of(rows)["bytes"][0])
        0
    """

    def __init__(self, table: VariantTable, costs: Costs, *, files: bool = True):
        self.table, self.costs, self.files = table, costs, files
        self._known: dict[bytes, int] = {}

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The costs of policies ``[n, decisions]``, ``[n]`` by name."""
        rows = np.asarray(rows, np.int32)
        found = dict(self.costs.of(rows))
        if not self.files:
            return found
        found["bytes"] = np.array(
            [self._bytes(row, float(predicted)) for row, predicted in zip(rows, found["bytes"], strict=True)]
        )
        return found

    def around(self, base: np.ndarray, moves: np.ndarray) -> Costs:
        """Costs that add, exact for policies that differ in one decision: bytes are what each move changes of the file.

        Args:
            base: a policy.
            moves: policies that differ from it in one decision, of which the costs are right.
        """
        if self.table.units or not self.files:
            return self.costs
        own = self.of(base[None])["bytes"][0]
        tables = {item.columns[0]: dict(item.tables) for item in self.costs.items}
        for column, known in tables.items():
            known["bytes"] = np.asarray(known["bytes"], np.float64) - known["bytes"][base[column]]
        for row, spent in zip(moves, self.of(moves)["bytes"], strict=True):
            column = int(np.flatnonzero(row != base)[0])
            tables[column]["bytes"][row[column]] = spent - own
        items = tuple(CostItem(item.path, item.columns, tables[item.columns[0]]) for item in self.costs.items)
        return Costs(items, {**self.costs.fixed, "bytes": float(own)})

    def _bytes(self, row: np.ndarray, predicted: float) -> float:
        if self.table.kept_units(row):
            return predicted
        key = row.tobytes()
        if key not in self._known:
            self._known[key] = file_bytes(self.table.tree(row), self.table.coder)
        return self._known[key]
