"""Products of data with parameters."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcompress.quantize.integer.channels import Channels
from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.products import LONGEST_SUM, Conv, Dot
from jaxcompress.quantize.integer.values import Contracted, Known, Product, Value


def dot_general(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A dense layer: one of the operands comes from parameters."""
    left, right = values
    if not isinstance(left, Known) and not isinstance(right, Known):
        plan.fail(step, "both operands are data; a product has an integer form where one comes from parameters")
    first = isinstance(left, Known)
    contract, batch = ((tuple(axes[first]), tuple(axes[not first])) for axes in step.eqn.params["dimension_numbers"])
    op = Dot(contract, batch, weight_first=first)
    return [_contracted(plan, step, values[first], values[not first], op)]


def convolution(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """A convolution with a kernel that comes from parameters."""
    data, kernel = values
    params = step.eqn.params
    if isinstance(data, Known) or not isinstance(kernel, Known) or params["batch_group_count"] != 1:
        plan.fail(step, "a convolution has an integer form where its kernel alone comes from parameters")
    numbers = params["dimension_numbers"]
    op = Conv(
        (tuple(numbers.lhs_spec), tuple(numbers.rhs_spec), tuple(numbers.out_spec)),
        tuple(params["window_strides"]),
        tuple((int(low), int(high)) for low, high in params["padding"]),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
    return [_contracted(plan, step, data, kernel, op)]


def _contracted(plan: Plan, step: Step, data: Value, weight: Value, op: Dot | Conv) -> Contracted:
    assert isinstance(weight, Known)
    shape = plan.flat.shape(weight.value)
    if op.length(shape) > LONGEST_SUM:
        plan.fail(step, f"it sums {op.length(shape)} products, {LONGEST_SUM} surely fit into 32 bits")
    codes = plan.settled(data)
    axes = op.channel_axes(len(shape))
    placed = op.placed(len(plan.shape_of(codes)), len(shape))
    channels = Channels.of(placed, tuple(shape[axis] for axis in axes))
    return Contracted(plan.flat.shape(step.outputs[0]), products=(Product(codes, op, weight.value),), channels=channels)


RULES = {"dot_general": dot_general, "conv_general_dilated": convolution}
