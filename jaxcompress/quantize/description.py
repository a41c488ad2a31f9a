"""How a leaf holds its numbers, in words: its own kind and what is nested in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.quantize.affine import AffineQuantized, Quantized
from jaxcompress.quantize.in_form import InForm
from jaxcompress.quantize.packed import PackedInts
from jaxcompress.quantize.products import Scaled
from jaxcompress.quantize.quantized_input import QuantizedInput, StaticActivations
from jaxcompress.quantize.rescaled import Rescaled
from jaxcompress.quantize.tabled import FixedTable
from jaxcompress.quantize.training.fake import FakeQuantized
from jaxcompress.quantize.training.fake_input import FakeInput


class Description(NamedTuple):
    """What `coverage` says of a leaf; see `jaxcompress.quantize.coverage.Covered`."""

    state: str
    format: str
    bits: int
    granularity: str
    activations: str
    notes: tuple[str, ...]


class _Numbers(NamedTuple):
    """One array of numbers inside a leaf."""

    state: str  # "quantized", "in training", "float"
    format: str = "-"
    bits: int = 0
    granularity: str = "-"


def describe(leaf: CompressedArray, stack: Sequence[int] = ()) -> Description:
    """Says of a leaf of any kind how its numbers are held.

    Args:
        leaf: with concrete fields.
        stack: axes that hold separate layers.
    """
    numbers, inputs, notes = _walk(leaf, tuple(stack))
    states = {found.state for found in numbers}
    mixed = "float" in states and len(states) > 1
    state = "partly" if mixed else "compressed" if states == {"float"} or not states else sorted(states)[0]
    coded = [found for found in numbers if found.state != "float"]

    def joined(values: list[str]) -> str:
        return " + ".join(dict.fromkeys(values)) or "-"

    return Description(
        state,
        joined([found.format for found in coded]),
        max((found.bits for found in coded), default=0),
        joined([found.granularity for found in coded]),
        joined(inputs) if inputs else "float",
        tuple(dict.fromkeys(notes)),
    )


def _walk(leaf: Any, stack: tuple[int, ...]) -> tuple[list[_Numbers], list[str], list[str]]:
    """What is in a leaf: its arrays of numbers, how its data are rounded, and what else it is."""
    if not isinstance(leaf, CompressedArray):
        return ([_Numbers("float")] if jnp.issubdtype(leaf.dtype, jnp.inexact) else []), [], []
    if isinstance(leaf, Scaled):
        return [_coded(leaf, "quantized", stack)], [], []
    if isinstance(leaf, FakeQuantized):
        return [_fake(leaf, stack)], [], []
    if leaf.kind == "codebook":  # of the sibling room: a table of floats, and codes into it
        return [_codebook(leaf)], [], []
    if isinstance(leaf, QuantizedInput | FakeInput | InForm):
        numbers, inputs, notes = _walk(leaf.weight, stack)
        return numbers, [*inputs, *_inputs(leaf)], notes
    if isinstance(leaf, Rescaled):
        numbers, inputs, notes = _walk(leaf.values, stack)
        return numbers, inputs, ["rescaled", *notes]
    if leaf.kind == "lora":  # likewise: the delta trains in floats and belongs to no format
        numbers, inputs, notes = _walk(leaf.components()["base"], stack)
        return numbers, inputs, ["a low-rank delta in floats on top", *notes]
    return _inside(leaf, stack)


def _inside(leaf: CompressedArray, stack: tuple[int, ...]) -> tuple[list[_Numbers], list[str], list[str]]:
    """Of a kind of another room: what its fields hold that may train, or if none may, all of them."""
    names = leaf.trainable or tuple(leaf.components())
    found = [_walk(leaf.components()[name], stack) for name in names]
    support = leaf.support()
    note = leaf.kind if support is None else f"{leaf.kind}, {float(jnp.mean(support.astype(jnp.float32))):.0%} kept"
    numbers = [item for part in found for item in part[0]]
    inputs = [item for part in found for item in part[1]]
    return numbers, inputs, [note, *(item for part in found for item in part[2])]


def _format(leaf: Scaled) -> str:
    """The name of a number format."""
    if isinstance(leaf, FixedTable):
        return "nf4" if len(leaf.levels) == 16 else f"table of {len(leaf.levels)}"
    if not isinstance(leaf, Quantized):
        return "levels"
    if isinstance(leaf.qvalue, PackedInts) or jnp.issubdtype(leaf.qvalue.dtype, jnp.integer):
        return "int, zero points" if isinstance(leaf, AffineQuantized) else "int"
    name = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "float4_e2m1fn": "fp4"}[leaf.qvalue.dtype.name]
    return name.replace("fp", "mxfp") if leaf.scale.dtype.itemsize == 1 else name


def _coded(leaf: Scaled, state: str, stack: tuple[int, ...]) -> _Numbers:
    bits: Any = getattr(leaf, "bits")  # noqa: B009  # every kind of them has it, the base does not
    return _Numbers(state, _format(leaf), int(bits), _granularity(leaf.shape, leaf.scale.shape, stack))


def _granularity(shape: Sequence[int], scale: Sequence[int], stack: tuple[int, ...]) -> str:
    """How far one scale reaches; a group where it holds an axis in coarser steps."""
    own = [(n, s) for axis, (n, s) in enumerate(zip(shape, scale, strict=True)) if axis not in stack]
    if any(1 < s < n for n, s in own):
        return f"group of {math.prod(n // s for n, s in own)}"
    return "tensor" if all(s == 1 for _, s in own) and own else "channel"


def _fake(leaf: FakeQuantized, stack: tuple[int, ...]) -> _Numbers:
    """A leaf in training: what it will be coded as."""
    bits = getattr(leaf, "bits", None)
    if bits is None or hasattr(bits, "shape"):  # two or three levels, or widths that anneal
        coded = leaf.coded()
        assert isinstance(coded, Scaled), "convert makes leaves with scales"
        return _coded(coded, "in training", stack)
    scale = getattr(leaf, "scale_shape", None) or getattr(getattr(leaf, "scale", None), "shape", None)
    name = getattr(leaf, "format", "int")
    return _Numbers("in training", name, int(bits), "-" if scale is None else _granularity(leaf.shape, scale, stack))


def _codebook(leaf: CompressedArray) -> _Numbers:
    table = leaf.components()["codebook"]
    reach = "tensor" if len(table.shape) == 1 else "layer"
    return _Numbers("quantized", "codebook", leaf.field_bits("codes"), reach)


def _inputs(leaf: Any) -> list[str]:
    """How the data that meet a weight are rounded."""
    if isinstance(leaf, InForm):
        return []
    if isinstance(leaf, FakeInput):
        return [f"static int{leaf.bits}, in training"]
    return [f"{'static' if isinstance(leaf, StaticActivations) else 'dynamic'} int{leaf.bits}"]
