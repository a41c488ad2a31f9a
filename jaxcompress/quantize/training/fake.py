"""Weights in training that are floats and act as if they were quantized already.

A `FakeQuantized` leaf holds the float weights that the optimizer moves; `materialize` gives their values on the grid,
with the derivative of its method, and `coded` the integer leaf whose values are the same bit for bit: both compute them
by the same expressions. All fields are float, so that optimizers, averages and checkpoints see arrays as ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, dense, leaf_kind
from jaxcompress.quantize.formats import Format, Scaling, format_of
from jaxcompress.quantize.ranges.find import find_scaling
from jaxcompress.quantize.training.dorefa import dorefa_levels, dorefa_weights
from jaxcompress.quantize.training.few_levels import WIDTHS, few_codes, few_levels
from jaxcompress.quantize.training.learned_step import StepGrid, learned_step, lsq_gradient_scale, step_codes
from jaxcompress.quantize.training.straight_through import straight_through, widened


class FakeQuantized(CompressedArray):
    """The base of the kinds. Each has `values`, and knows what they become.

    Attributes:
        values: the float weights that train; an array (or a leaf, if a later method changed it).
        dtype: of the dense array.
    """

    sealed = "a weight in training, prepared already: convert it first (jc.quantize.convert), or leave it out of where="

    values: ArrayOrLeaf
    dtype: np.dtype

    def coded(self) -> CompressedArray:
        """The integer leaf of the same dense values."""
        raise NotImplementedError(f"{type(self).__name__} must define coded()")

    def astype(self, dtype: Any) -> Self:
        """The same values on the same grid, as a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))


class Live(FakeQuantized):
    """A kind whose scales follow from the values as they are: entries that share a scale cannot be taken apart.

    Attributes:
        core: shape of the scale along the last axes, those that are no stack axes.
    """

    core: tuple[int, ...]

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Values run along the dense axes, and so does what has their number of axes."""
        axes = tuple(range(len(self.values.shape)))
        return {name: axes for name in self.components()}

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """Of stack axes alone."""
        return super().axis_positions(axis) if axis >= 0 and self.divides(axis) else None

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Along stack axes, where every layer has a scale of its own; None elsewhere."""
        return super().map_axis(axis, fn) if self.divides(axis) else None

    def divides(self, axis: int) -> bool:
        """Along stack axes."""
        return axis < self.ndim - len(self.core)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales."""
        shape = tuple(self.values.shape)
        return (*shape[: len(shape) - len(self.core)], *self.core)


@leaf_kind("fake_straight_through", trainable=("values",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StraightThrough(Live):
    """Any format, its range found anew from the values at every step; see `straight_through`.

    Attributes:
        values: see `FakeQuantized`.
        core: see the base.
        format: name of the number format.
        bits: width of a code.
        symmetric: of ``int``.
        ranges: name of the range (`jaxcompress.quantize.ranges`).
        dtype: of the dense array.
    """

    values: ArrayOrLeaf
    core: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    format: str = dataclasses.field(metadata={"static": True})
    bits: int = dataclasses.field(metadata={"static": True})
    symmetric: bool = dataclasses.field(metadata={"static": True})
    ranges: str = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def materialize(self) -> jax.Array:
        """The nearest values of the format."""
        values = dense(self.values)
        return straight_through(values, self._scaling(values), self._format()).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """The leaf of the format."""
        values, number_format = dense(self.values), self._format()
        scaling = self._scaling(values)
        codes = number_format.encode(values.astype(scaling.scale.dtype), scaling)
        return number_format.leaf(codes, scaling, self.dtype)

    def _format(self) -> Format:
        return format_of(self.format, self.bits, self.symmetric)

    def _scaling(self, values: jax.Array) -> Scaling:
        return find_scaling(lax.stop_gradient(values), self.scale_shape, self._format(), self.ranges)


@leaf_kind("fake_learned_step", trainable=("values", "scale"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearnedStep(FakeQuantized):
    """Integers times a step that trains with the weights (LSQ): see `learned_step`.

    Attributes:
        values: see `FakeQuantized`.
        scale: the steps, with as many axes as the values.
        bits: width of a code; codes are ``-2**(bits-1) .. 2**(bits-1) - 1``.
        sharing: how many weights share a step, on which the size of its gradient depends.
        dtype: of the dense array.
    """

    values: ArrayOrLeaf
    scale: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    sharing: int = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.values.shape)))
        return {"values": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """The nearest points of the grid."""
        return learned_step(dense(self.values), self.scale, None, self._grid()).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """Codes and their scale."""
        codes, scale, _ = step_codes(dense(self.values), self.scale, None, self._grid())
        return format_of("int", self.bits).leaf(codes, Scaling(scale), self.dtype)

    def _grid(self) -> StepGrid:
        return _grid_of(self.bits, self.sharing)


@leaf_kind("fake_learned_offset", trainable=("values", "scale", "offset"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearnedOffset(FakeQuantized):
    """`LearnedStep` with an offset that trains too (the asymmetric form of LSQ+).

    Attributes:
        values: see `FakeQuantized`.
        scale: the steps, with as many axes as the values.
        offset: of the scale's shape, in units of the values.
        bits: width of a code.
        sharing: how many weights share a step.
        dtype: of the dense array.
    """

    values: ArrayOrLeaf
    scale: jax.Array
    offset: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    sharing: int = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """All fields run along the dense axes."""
        axes = tuple(range(len(self.values.shape)))
        return {"values": axes, "scale": axes, "offset": axes}

    def materialize(self) -> jax.Array:
        """The nearest points of the grid."""
        return learned_step(dense(self.values), self.scale, self.offset, self._grid()).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """Codes, their scale and their zero point."""
        codes, scale, point = step_codes(dense(self.values), self.scale, self.offset, self._grid())
        return format_of("int", self.bits, symmetric=False).leaf(codes, Scaling(scale, point), self.dtype)

    def _grid(self) -> StepGrid:
        return _grid_of(self.bits, self.sharing)


@leaf_kind("fake_dorefa", trainable=("values",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DoReFa(Live):
    """Even levels over the range of tanh: see `dorefa_weights`.

    Attributes:
        values: see `FakeQuantized`.
        core: ones, as many as a layer has axes.
        bits: width of a code.
        rescaled: see `dorefa_weights`.
        dtype: of the dense array.
    """

    values: ArrayOrLeaf
    core: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    bits: int = dataclasses.field(metadata={"static": True})
    rescaled: bool = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def materialize(self) -> jax.Array:
        """The levels."""
        return dorefa_weights(dense(self.values), **self._options()).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """Indices of a table of the odd integers, times a scale."""
        numerators, scale = dorefa_levels(dense(self.values), **self._options())
        top = 2**self.bits - 1
        codes = (numerators + top).astype(jnp.int32) // 2
        odd = jnp.arange(-top, top + 1, 2, dtype=scale.dtype)
        table = jnp.broadcast_to(odd, (*(1 for _ in scale.shape), odd.size))
        stacks = scale.ndim - len(self.core)
        table = jnp.broadcast_to(table, (*scale.shape[:stacks], *self.core, odd.size))
        return format_of("levels", self.bits).leaf(codes.astype(jnp.uint8), Scaling(scale, None, table), self.dtype)

    def _options(self) -> dict[str, Any]:
        return {"bits": self.bits, "layers": self.scale_shape, "rescaled": self.rescaled}


@leaf_kind("fake_few_levels", trainable=("values",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FewLevels(Live):
    """Binary or ternary weights: see `few_levels`.

    Attributes:
        values: see `FakeQuantized`.
        core: see the base.
        method: ``"binary_connect"``, ``"xnor"``, ``"twn"`` or ``"bitnet"``.
        dtype: of the dense array.
    """

    values: ArrayOrLeaf
    core: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def materialize(self) -> jax.Array:
        """Signs, or signs and zeros, times their scale."""
        return few_levels(dense(self.values), self.method, self.scale_shape).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """One or two bits per weight."""
        values = dense(self.values)
        codes, scale = few_codes(widened(values), self.method, self.scale_shape)
        return format_of("int", WIDTHS[self.method]).leaf(codes.astype(jnp.int8), Scaling(scale), self.dtype)


def _grid_of(bits: int, sharing: int) -> StepGrid:
    """The signed grid, with the gradient scale of LSQ."""
    grid = StepGrid(bits)
    return dataclasses.replace(grid, gradient_scale=lsq_gradient_scale(sharing, grid.last))
