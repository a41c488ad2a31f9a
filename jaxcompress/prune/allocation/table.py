"""What an allocation is: a dict from paths to sparsities that prints as a table of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.table import html_table, text_table
from jaxcompress.prune.allocation.layers import Layer


class Allocation(dict[str, Any]):
    """Sparsity by path, as ``sparsity=`` of every pruning method takes it; prints as a table.

    Attributes:
        rule: what chose it, for people.
        layers: what it is about; protected leaves are among them and not in the dict.
        kept: entries that stay, by path, the protected ones too; traced where the dict is.
    """

    def __init__(
        self,
        sparsities: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        rule: str = "",
        layers: Sequence[Layer] = (),
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        """Holds sparsities, and what the table shows besides."""
        super().__init__(sparsities)
        self.rule, self.layers, self.kept = rule, tuple(layers), dict(kept or {})

    @property
    def size(self) -> int:
        """Entries of all leaves that take part."""
        return sum(layer.size for layer in self.layers)

    @property
    def sparsity(self) -> Any:
        """The fraction of them that goes."""
        return 1 - sum(self.kept.values()) / max(1, self.size)

    def __repr__(self) -> str:
        """The table as text; the plain dict where it is about no layers, or traced."""
        if not self.layers or any(isinstance(count, Tracer) for count in self.kept.values()):
            return super().__repr__()
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        counted = all(layer.macs is not None for layer in self.layers)
        rows = [self._row(layer, counted) for layer in self.layers]
        kept = int(sum(self.kept.values()))
        macs = [layer.macs or 0 for layer in self.layers]
        left = sum(n * int(self.kept[layer.path]) // layer.size for n, layer in zip(macs, self.layers, strict=True))
        total = ["all", "", f"{self.size:,}", f"{kept:,}", f"{1 - kept / self.size:.2%}"]
        rows.append([*total, *([f"{sum(macs):,}", f"{left:,}"] if counted else [])])
        columns = ["path", "shape", "entries", "kept", "sparsity", *(["MACs", "MACs kept"] if counted else [])]
        protected = ", ".join(layer.path for layer in self.layers if layer.protected)
        return columns, rows, [f"rule: {self.rule}", *([f"protected: {protected}"] if protected else [])]

    def _row(self, layer: Layer, counted: bool) -> list[str]:
        kept = int(self.kept[layer.path])
        row = [layer.path, "x".join(map(str, layer.shape)), f"{layer.size:,}", f"{kept:,}"]
        row.append(f"{1 - kept / max(1, layer.size):.2%}")
        macs = layer.macs or 0
        return [*row, *([f"{macs:,}", f"{macs * kept // max(1, layer.size):,}"] if counted else [])]


def allocation(layers: Sequence[Layer], counts: Sequence[Any], rule: str) -> Allocation:
    """The allocation that keeps ``counts`` entries of each layer.

    Sparsities are floats of which ``round(sparsity * size)`` is the count dropped, to the last entry; traced counts
    become float32, which says so up to 2^23 entries of a layer.
    """
    sparsities, kept = {}, {}
    for layer, count in zip(layers, counts, strict=True):
        kept[layer.path] = count
        if layer.protected:
            continue
        if isinstance(count, Tracer):
            dropped = jnp.asarray(layer.size - count, jnp.float32)
            sparsities[layer.path] = dropped / jnp.float32(layer.size)
        else:
            sparsities[layer.path] = (layer.size - int(count)) / max(1, layer.size)
    return Allocation(sparsities, rule=rule, layers=layers, kept=kept)
