"""The nodes that compute: contractions with weights, and sums of codes. Both end on the grid of their result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.interpreter import bind
from jaxcompress.quantize.integer.fixed_point import fixed_point, rescale
from jaxcompress.quantize.integer.nodes import Base, Building, Constants, bound_codes, on_grid
from jaxcompress.quantize.integer.values import Contracted, Operand, Product, Summed, product

LEFT_SHIFT = 20  # bits below a code in sums of codes, as in LiteRT
_ROOM = 28  # bits of a shifted operand
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Contract(Base):
    """``sum over products of (codes - zero) * weight, + bias`` in int32, then multiplied to the grid of the result.

    All products of one result share their scale, channel by channel: what scales a product (a BatchNorm behind it) and
    what its input's grid is are put into the float weight before that is rounded. What the zero points of the inputs
    add is part of the bias.

    References:
        Jacob et al., 2018, sections 2.2 to 2.4 and 3.2. https://arxiv.org/abs/1712.05877
    """

    grid: str
    value: Contracted

    def known(self) -> tuple[int, ...]:
        """Weights, factors, addends and bounds."""
        parts = [*self.value.products, *self.value.addends]
        factors = [factor.known for part in parts for factor in part.factors if factor.known is not None]
        weights = [part.weight for part in self.value.products]
        return (*weights, *factors, *(a.known for a in self.value.addends), *(bound for _, bound in self.value.bounds))

    def constants(self, building: Building) -> Constants:
        """int8 weights, int32 bias, multiplier and shift of every channel, and the grid of the result."""
        value, count = self.value, self.value.channels.count
        grid = building.grids[self.grid]
        rows = [self._rows(part, building) for part in value.products]
        reaches = [np.abs(row).max(1, initial=0.0) for row in rows]
        tops = [2 ** (building.weight_bits[part.weight] - 1) - 1 for part in value.products]
        scale = np.max([reach / top for reach, top in zip(reaches, tops, strict=True)], 0)
        if building.per_tensor:
            scale = np.full(count, scale.max(initial=0.0))
        bias = sum((addend.array(building.arrays) for addend in value.addends), start=np.zeros(count))
        scale = np.maximum(scale, np.abs(bias) * 2.0**-30)  # a channel whose weights are zero keeps its bias
        scale = np.where(scale > _TINY, scale, 1.0)
        total, found = np.round(bias / scale), {}
        for at, (part, row, top) in enumerate(zip(value.products, rows, tops, strict=True)):
            codes = np.clip(np.round(row / scale[:, None]), -top, top)
            zero = building.grids[part.source.grid].zero_point
            total = total - zero * codes.sum(1)
            found[f"weight_{at}"] = self._kernel(part, codes, building).astype(np.int8)
            found[f"zero_{at}"] = np.int8(zero)
        found["bias"] = np.clip(total, -(2**31), 2**31 - 1).astype(np.int32)
        found["multiplier"], found["shift"] = fixed_point(scale / grid.scale)
        found["zero_point"] = np.int8(grid.zero_point)
        return found | bound_codes(value.bounds, building, self.grid)

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The codes of the result."""
        totals = []
        for at, (part, codes) in enumerate(zip(self.value.products, arrays, strict=True)):
            total = part.op.run(codes, constants[f"zero_{at}"], constants[f"weight_{at}"])
            for eqn in part.layout:
                (total,) = bind(eqn, [total])
            totals.append(total)
        total = sum(totals[1:], start=totals[0])
        placed = [self.value.channels.placed(constants[name], total.ndim) for name in ("bias", "multiplier", "shift")]
        return [on_grid(rescale(total + jnp.broadcast_to(placed[0], total.shape), *placed[1:]), constants)]

    def signature(self) -> tuple[Any, ...]:
        """Which codes meet which weights, and how many channels there are."""
        pairs = tuple((part.source.grid, part.weight) for part in self.value.products)
        return ("Contract", self.name, self.grid, pairs, self.value.channels.count, len(self.value.addends))

    def _rows(self, part: Product, building: Building) -> np.ndarray:
        """The weight as [channels, summed], in units of the input's grid and with its factors."""
        weight = np.broadcast_to(building.arrays[part.weight], building.shapes[part.weight])
        rows = np.transpose(weight, self._order(part, weight.ndim)).reshape(self.value.channels.count, -1)
        scale = building.grids[part.source.grid].scale * product(part.factors, building.arrays)
        return rows * np.broadcast_to(scale, rows.shape[:1])[:, None]

    def _kernel(self, part: Product, rows: np.ndarray, building: Building) -> np.ndarray:
        shape = building.shapes[part.weight]
        order = self._order(part, len(shape))
        return np.transpose(rows.reshape([shape[axis] for axis in order]), np.argsort(order))

    def _order(self, part: Product, ndim: int) -> list[int]:
        channels = part.op.channel_axes(ndim)
        return [*channels, *(axis for axis in range(ndim) if axis not in channels)]


@dataclasses.dataclass(frozen=True)
class Sum(Base):
    """A sum of codes, or of sums of codes, times factors: residual additions, averages, changes of the grid.

    Every operand is shifted left and rescaled to a common unit, the bias is added in it, and the total is rescaled to
    the grid of the result. For two operands without factors that is LiteRT's addition, bit for bit. One operand alone
    is rescaled once.
    """

    grid: str
    value: Summed

    def known(self) -> tuple[int, ...]:
        """Factors, addends and bounds."""
        parts = [*self.value.operands, *self.value.addends]
        factors = [factor.known for part in parts for factor in part.factors if factor.known is not None]
        return (*factors, *(a.known for a in self.value.addends), *(bound for _, bound in self.value.bounds))

    def constants(self, building: Building) -> Constants:
        """Multiplier and shift of every operand and of the total, the bias, and the grid of the result."""
        value, grid, found = self.value, building.grids[self.grid], {}
        steps = [self._step(operand, building) for operand in value.operands]
        unit = grid.scale
        if not self._direct:
            terms = [addend.array(building.arrays) for addend in value.addends]
            bias = np.asarray(sum(terms, start=np.array(0.0)))
            unit = len(steps) * np.max(np.broadcast_arrays(*map(np.abs, steps)), 0)
            unit = np.maximum(unit, np.abs(bias) * 2.0**-_ROOM)
            unit = np.where(unit > _TINY, unit, 1.0)
            found["bias"] = np.round(bias / unit).astype(np.int32)
            found["multiplier"], found["shift"] = fixed_point(unit / grid.scale)
        for at, (operand, step) in enumerate(zip(value.operands, steps, strict=True)):
            found[f"multiplier_{at}"], found[f"shift_{at}"] = fixed_point(step / unit)
            found[f"zero_{at}"] = np.int8(building.grids[operand.source.grid].zero_point)
        found["zero_point"] = np.int8(grid.zero_point)
        return found | bound_codes(value.bounds, building, self.grid)

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The codes of the result."""
        terms = []
        for at, (operand, codes) in enumerate(zip(self.value.operands, arrays, strict=True)):
            x = codes.astype(jnp.int32) - constants[f"zero_{at}"].astype(jnp.int32)
            for eqn in (operand.reduce, *operand.layout):
                x = x if eqn is None else bind(eqn, [x])[0]
            x = lax.shift_left(x, jnp.full_like(x, left_shift(operand)))
            x = jnp.broadcast_to(x, self.value.shape)
            terms.append(rescale(x, constants[f"multiplier_{at}"], constants[f"shift_{at}"]))
        total = sum(terms[1:], start=terms[0])
        if not self._direct:
            total = total + jnp.broadcast_to(constants["bias"], total.shape)
            total = rescale(total, constants["multiplier"], constants["shift"])
        return [on_grid(total, constants)]

    def signature(self) -> tuple[Any, ...]:
        """Which codes are summed, how many of each, and what is added."""
        operands = tuple((operand.source.grid, operand.count) for operand in self.value.operands)
        return ("Sum", self.name, self.grid, operands, len(self.value.addends))

    @property
    def _direct(self) -> bool:
        return len(self.value.operands) == 1 and not self.value.addends

    def _step(self, operand: Operand, building: Building) -> np.ndarray:
        """What one unit of a shifted operand stands for."""
        scale = building.grids[operand.source.grid].scale * product(operand.factors, building.arrays)
        return np.asarray(scale / 2.0 ** left_shift(operand))


def left_shift(operand: Operand) -> int:
    """Bits that an operand is shifted by: LiteRT's 20, fewer for sums of many codes."""
    return max(0, min(LEFT_SHIFT, _ROOM - (255 * operand.count).bit_length()))
