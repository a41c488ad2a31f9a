"""What of a model is quantized, leaf by leaf, and what is not and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import CompressedArray, is_compressed, kind_name
from jaxcompress.core.paths import flatten_with_paths, is_weight
from jaxcompress.core.table import html_table, text_table
from jaxcompress.quantize.description import Description, describe

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True)
class Covered:
    """One leaf.

    Attributes:
        path: its path.
        shape: its dense shape.
        kind: its kind, nested kinds in brackets; ``dense`` for a plain array.
        state: ``"quantized"``; ``"in training"``: fake-quantized, floats until `jaxcompress.quantize.convert`;
            ``"partly"``: compressed, some of its numbers codes and some floats; ``"compressed"``: another kind, all
            floats; ``"skipped"``: a plain array.
        format: number format, ``-`` without one; several, joined by ``+``, where the leaf has several arrays (factors).
        bits: width of a code; 0 without codes, the largest of several.
        granularity: how far a scale reaches: ``"tensor"``, ``"channel"``, ``"group of 32"``; ``-`` without scales.
        activations: ``"float"``, ``"dynamic int8"``, ``"static int8"``, with ``"in training"`` behind it where it is.
        notes: what else the leaf is (masked, rescaled, low rank).
        stored_bits: bits that it holds.
        is_weight: True if it is a contraction weight or embedding, by the sites or without them by its axes.
        why: why it is skipped, or not quantized in full; empty for a quantized leaf.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    state: str
    format: str
    bits: int
    granularity: str
    activations: str
    notes: tuple[str, ...]
    stored_bits: int
    is_weight: bool
    why: str

    @property
    def size(self) -> int:
        """Number of dense elements."""
        return math.prod(self.shape)


class Coverage(Sequence[Covered]):
    """Every float leaf of a tree, in its order; prints as a table with a summary."""

    def __init__(self, leaves: Sequence[Covered], dense_bytes: int, stored_bytes: int) -> None:
        """Holds the leaves, and the bytes of the tree before and now."""
        self._leaves = tuple(leaves)
        self.dense_bytes, self.stored_bytes = dense_bytes, stored_bytes

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self._leaves)

    def __getitem__(self, index: Any) -> Any:
        """A leaf, or a tuple of them for a slice."""
        return self._leaves[index]

    def __iter__(self) -> Iterator[Covered]:
        """Iterates over the leaves."""
        return iter(self._leaves)

    def at(self, path: str) -> Covered:
        """One leaf.

        Raises:
            KeyError: if there is no float leaf of that path.
        """
        for leaf in self:
            if leaf.path == path:
                return leaf
        raise KeyError(f"no float leaf at {path!r}; there are {[leaf.path for leaf in self]}")

    @property
    def uncovered(self) -> tuple[Covered, ...]:
        """The weights that are not quantized in full."""
        return tuple(leaf for leaf in self if leaf.is_weight and leaf.state != "quantized")

    @property
    def fraction(self) -> float:
        """Entries of quantized weights by entries of all weights; 1 if there are none."""
        weights = [leaf for leaf in self if leaf.is_weight]
        quantized = sum(leaf.size for leaf in weights if leaf.state == "quantized")
        return quantized / max(1, sum(leaf.size for leaf in weights)) if weights else 1.0

    @property
    def average_bits(self) -> float:
        """Stored bits by weight over all weights, quantized or not, scales and all."""
        weights = [leaf for leaf in self if leaf.is_weight]
        return sum(leaf.stored_bits for leaf in weights) / max(1, sum(leaf.size for leaf in weights))

    def require(self) -> None:
        """Checks that every weight is quantized.

        Raises:
            ValueError: names those that are not, and why.
        """
        if self.uncovered:
            lines = "\n  ".join(f"{leaf.path}: {leaf.why}" for leaf in self.uncovered)
            raise ValueError(f"coverage: {len(self.uncovered)} weights are not quantized:\n  {lines}")

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, [_row(leaf) for leaf in self], self._summary())

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, [_row(leaf) for leaf in self], self._summary())

    def _summary(self) -> list[str]:
        weights = [leaf for leaf in self if leaf.is_weight]
        count = sum(leaf.state == "quantized" for leaf in weights)
        return [
            f"{count} of {len(weights)} weights quantized ({self.fraction:.1%} of their entries), "
            f"{self.average_bits:.2f} bits per weight; {self.dense_bytes:,} -> {self.stored_bytes:,} bytes in all"
        ]


def coverage(params: Any, *, sites: Sites | None = None) -> Coverage:
    """Lists every float leaf of a tree: quantized how, or skipped and why.

    Args:
        params: tree of arrays and leaves, from any method.
        sites: what `jaxcompress.sites` found: then a weight is what is contracted or looked up, and what is skipped is
            told apart: never used, or met only by other operations. Without it the float leaves of two axes or more are
            taken for the weights.

    Returns:
        The leaves, readable one by one (`dataclasses.asdict` makes records of them); ``coverage(...).require()`` raises
        where a weight is left out.

    Raises:
        ValueError: if ``sites`` are of another tree.

    Example:
        >>> params = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2)), "bias": jnp.ones(2)}
        >>> found = coverage(jc.quantize.rtn(params, bits=8, where="a"))
        >>> [(leaf.path, leaf.state, leaf.format, leaf.bits) for leaf in found]
        [('a', 'quantized', 'int', 8), ('b', 'skipped', '-', 0), ('bias', 'skipped', '-', 0)]
        >>> found.at("b").why, found.fraction, found.average_bits
        ('a weight that no method chose', 0.5, 24.0)
    """
    paths, leaves, _ = flatten_with_paths(params)
    floats = {p: leaf for p, leaf in zip(paths, leaves, strict=True) if _is_inexact(leaf)}
    if sites is not None:
        strangers = sorted({site.path for site in sites} - set(paths))
        if strangers:
            raise ValueError(f"coverage: sites= are of another tree: there is no {strangers[0]!r} among {paths}")
    found = [_covered(path, leaf, sites) for path, leaf in floats.items()]
    dense = sum(-(-leaf.size * bit_width(leaf.dtype) // 8) for leaf in floats.values())
    return Coverage(found, dense, sum(-(-leaf.stored_bits // 8) for leaf in found))


def _is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _covered(path: str, leaf: Any, sites: Sites | None) -> Covered:
    weight = is_weight(path, leaf) if sites is None else path in sites.weights()
    if not isinstance(leaf, CompressedArray):
        bits = leaf.size * bit_width(leaf.dtype)
        plain = Description("skipped", "-", 0, "-", "float", ())
        return _entry(path, leaf, plain, bits, weight, _why_skipped(path, leaf, sites, weight))
    stack = () if sites is None or not weight else sites.axes(path)[0]
    found = describe(leaf, stack)
    return _entry(path, leaf, found, leaf.stored_bits, weight, _WHY.get(found.state, ""))


def _entry(path: str, leaf: Any, found: Description, bits: int, weight: bool, why: str) -> Covered:
    kind = kind_name(leaf) if is_compressed(leaf) else "dense"
    shape = tuple(leaf.shape)
    return Covered(path, shape, kind, *found, stored_bits=bits, is_weight=weight, why=why)


def _why_skipped(path: str, leaf: Any, sites: Sites | None, weight: bool) -> str:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return f"{leaf.dtype}: no method takes complex numbers"
    if weight:
        return "a weight that no method chose"
    if sites is None:
        return "less than two axes"
    uses = sorted({site.primitive for site in sites if site.path == path})
    if not uses:
        return "never used"
    return f"no contraction weight: met by {', '.join(uses)} alone"


_WHY = {
    "in training": "fake-quantized floats: jc.quantize.convert makes codes of them",
    "partly": "some of its arrays are floats",
    "compressed": "compressed, but all of its numbers are floats",
}
_COLUMNS = (
    "path",
    "shape",
    "kind",
    "state",
    "format",
    "bits",
    "granularity",
    "activations",
    "bits/weight",
    "notes",
)


def _row(leaf: Covered) -> tuple[str, ...]:
    notes = "; ".join([*leaf.notes, *([leaf.why] if leaf.why else [])])
    shape, bits = "x".join(map(str, leaf.shape)), str(leaf.bits or "-")
    each = f"{leaf.stored_bits / max(1, leaf.size):.2f}"
    return (leaf.path, shape, leaf.kind, leaf.state, leaf.format, bits, leaf.granularity, leaf.activations, each, notes)
