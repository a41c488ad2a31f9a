"""What a policy costs: sums of entries of tables, each indexed by one decision or by a few of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class CostItem:
    """The costs of one leaf.

    Attributes:
        path: of the leaf.
        columns: the decisions that it depends on, as columns of a policy.
        tables: by name of the cost, int64 (float64 for milliseconds), an axis for each of the columns.
    """

    path: str
    columns: tuple[int, ...]
    tables: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """All costs of policies.

    Attributes:
        items: leaves that depend on a decision.
        fixed: by name, what is there whatever is decided.
    """

    items: tuple[CostItem, ...]
    fixed: Mapping[str, int | float]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the costs."""
        return tuple(self.fixed)

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The costs of policies ``[n, decisions]``, exact, ``[n]`` by name.

        Example:
            >>> costs = Costs((CostItem("w", (0,), {"bytes": np.array([40, 10])}),), {"bytes": 7})
            >>> costs.of(np.array([[0], [1]]))["bytes"].tolist()
            [47, 17]
        """
        rows = np.asarray(rows)
        found = {}
        for name in self.names:
            total = np.full(len(rows), self.fixed[name])
            for item in self.items:
                total = total + item.tables[name][tuple(rows[:, column] for column in item.columns)]
            found[name] = total
        return found

    def arrays(self) -> dict[str, Any]:
        """The tables as float32 arrays, for `of_traced`."""
        return {
            name: (
                np.float32(self.fixed[name]),
                [jnp.asarray(item.tables[name], jnp.float32) for item in self.items],
            )
            for name in self.names
        }

    def of_traced(self, row: jax.Array, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The costs of one policy inside of a program, to the rounding of float32."""
        found = {}
        for name, (fixed, tables) in arrays.items():
            total = jnp.asarray(fixed)
            for item, table in zip(self.items, tables, strict=True):
                total = total + table[tuple(row[column] for column in item.columns)]
            found[name] = total
        return found

    def with_table(self, name: str, tables: Mapping[str, np.ndarray], fixed: float = 0.0) -> Costs:
        """These costs and one more; leaves without a table have none of it.

        Args:
            name: of the cost.
            tables: by path, of the shapes of the leaves' other tables.
            fixed: what is there whatever is decided.
        """
        items = [
            dataclasses.replace(
                item,
                tables={**item.tables, name: tables.get(item.path, np.zeros_like(next(iter(item.tables.values()))))},
            )
            for item in self.items
        ]
        return Costs(tuple(items), {**self.fixed, name: fixed})

    def with_fixed(self, name: str, fixed: float) -> Costs:
        """These costs with another part that does not depend on decisions."""
        return Costs(self.items, {**self.fixed, name: fixed})
