"""Sums, scales and bounds: they are gathered, and become weights, biases, multipliers and ends of grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.nodes import Clip
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.rules.joining import on_one_grid
from jaxcompress.quantize.integer.values import Codes, Contracted, Factor, Known, Open, Summed, Value


def add(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A bias, or a residual."""
    return [_sum(plan, step, values[0], values[1])]


def sub(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A sum with the right side negated."""
    left, right = values
    if not isinstance(right, Known):
        return [_sum(plan, step, left, _scaled(plan, right, Factor(None)))]
    # -(-x + known): what is negated is the data, not the known value
    return [_scaled(plan, _sum(plan, step, _scaled(plan, left, Factor(None)), right), Factor(None))]


def mul(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A scale."""
    left, right = values if isinstance(values[1], Known) else values[::-1]
    if not isinstance(right, Known):
        plan.fail(step, "both operands are data; a product has an integer form where one comes from parameters")
    return [_shaped(_scaled(plan, left, Factor(right.value)), plan.flat.shape(step.outputs[0]))]


def div(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A scale; the divisor must be known."""
    left, right = values
    if not isinstance(right, Known):
        plan.fail(step, "the divisor is data")
    return [_shaped(_scaled(plan, left, Factor(right.value, inverse=True)), plan.flat.shape(step.outputs[0]))]


def neg(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """The scale -1."""
    del step
    return [_scaled(plan, values[0], Factor(None))]


def extreme(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """``max`` and ``min``: with a known value a bound, of two values their codes' on one grid."""
    left, right = values if isinstance(values[1], Known) else values[::-1]
    if isinstance(right, Known):
        return [_bounded(plan, step, left, [(step.eqn.primitive.name, right.value)])]
    codes, grid = on_one_grid(plan, step, [left, right])
    return plan.moved(step, codes, grid)


def clamp(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """Two bounds."""
    low, x, high = values
    if not (isinstance(low, Known) and isinstance(high, Known)):
        plan.fail(step, "its bounds are data")
    return [_bounded(plan, step, x, [("max", low.value), ("min", high.value)])]


def same(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """What changes no value: copies, casts between floats, barriers."""
    if any(not jnp.issubdtype(plan.flat.avals[value].dtype, jnp.floating) for value in step.outputs):
        plan.fail(step, "it makes integers of quantized values")
    if any(isinstance(value, Known) for value in values):
        plan.fail(step, "it mixes data with parameters")
    return list(values)


def _sum(plan: Plan, step: Step, left: Value, right: Value) -> Value:
    shape = plan.flat.shape(step.outputs[0])
    if isinstance(left, Known):
        left, right = right, left
    x = plan.opened(left)
    if isinstance(right, Known):
        if not (isinstance(x, Contracted) and _along_channels(plan, x, right.value)):
            x = plan.summed(x)
        return _shaped(x.plus(right.value), shape)
    y = plan.opened(right)
    if isinstance(x, Contracted) and isinstance(y, Contracted) and x.shape == y.shape and x.channels == y.channels:
        return dataclasses.replace(x, products=x.products + y.products, addends=x.addends + y.addends)
    x, y = plan.summed(x), plan.summed(y)
    return Summed(shape, operands=x.operands + y.operands, addends=x.addends + y.addends)


def _scaled(plan: Plan, value: Value, factor: Factor) -> Contracted | Summed:
    x = plan.opened(value)
    if isinstance(x, Contracted) and (factor.known is None or _along_channels(plan, x, factor.known)):
        return x.scaled(factor)
    return plan.summed(x).scaled(factor)


def _along_channels(plan: Plan, x: Contracted, known: int) -> bool:
    """Whether a known value varies along the channels of a contraction alone, and does not widen it."""
    shape = plan.flat.shape(known)
    grows = any(size != own and size != 1 for size, own in zip(shape, x.shape, strict=False)) if shape else False
    return not grows and plan.flat.varies(known) <= set(x.channels.axes)


def _shaped(x: Contracted | Summed, shape: tuple[object, ...]) -> Contracted | Summed:
    return dataclasses.replace(x, shape=shape)


def _bounded(plan: Plan, step: Step, value: Value, bounds: list[tuple[str, int]]) -> Value:
    shape = plan.flat.shape(step.outputs[0])
    if plan.shape_of(value) != shape:
        plan.fail(step, "a bound widens the value")
    if isinstance(value, Open):
        return dataclasses.replace(value, bounds=(*value.bounds, *bounds))
    assert isinstance(value, Codes)
    node = Clip(plan.name("bounds"), (value.slot,), (plan.slot(),), value.grid, tuple(bounds))
    return plan.coded(plan.emit(node), value.grid, shape)


RULES = {
    "add": add,
    "add_any": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "neg": neg,
    "max": extreme,
    "min": extreme,
    "clamp": clamp,
    **dict.fromkeys(
        ("convert_element_type", "copy", "copy_p", "reduce_precision", "name", "optimization_barrier", "stop_gradient"),
        same,
    ),
    "sharding_constraint": same,
}
