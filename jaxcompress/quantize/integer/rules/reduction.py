"""Sums over axes and windows: exact in 32 bits; what they are divided by becomes the multiplier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.products import LONGEST_SUM
from jaxcompress.quantize.integer.values import Operand, Summed, Value


def over_axes(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A sum over axes, the first half of a mean."""
    shape = plan.shape_of(values[0])
    return _summed(plan, step, values, math.prod(shape[axis] for axis in step.eqn.params["axes"]))


def over_windows(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A sum over windows, the first half of average pooling; padding adds nothing."""
    return _summed(plan, step, values, math.prod(step.eqn.params["window_dimensions"]))


def _summed(plan: Plan, step: Step, values: Sequence[Value], count: int) -> list[Value]:
    if not isinstance(count, int) or count > LONGEST_SUM:
        plan.fail(step, f"it sums {count} entries, {LONGEST_SUM} surely fit into 32 bits")
    codes = plan.settled(values[0])
    return [Summed(plan.flat.shape(step.outputs[0]), operands=(Operand(codes, step.eqn, count),))]


RULES = {"reduce_sum": over_axes, "reduce_window_sum": over_windows}
