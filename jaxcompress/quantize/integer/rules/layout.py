"""Primitives that move entries without looking at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.nodes import Pad
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.values import Contracted, Known, Summed, Value


def move(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """Sums that wait for their bias are moved as they are; everything else as codes."""
    data, *others = values
    if isinstance(data, Known) or not all(isinstance(other, Known) for other in others):
        plan.fail(step, "it is told by data where entries go")
    before, after = plan.shape_of(data), plan.flat.shape(step.outputs[0])
    if isinstance(data, Contracted) and not data.bounds and not others:
        channels = data.channels.through(step.eqn, before, after)
        if channels is not None:
            products = tuple(dataclasses.replace(p, layout=(*p.layout, step.eqn)) for p in data.products)
            return [dataclasses.replace(data, shape=after, channels=channels, products=products)]
    if isinstance(data, Summed) and _plain(data) and not others and len(step.outputs) == 1:
        (operand,) = data.operands
        operand = dataclasses.replace(operand, layout=(*operand.layout, step.eqn))
        return [dataclasses.replace(data, shape=after, operands=(operand,))]
    if any(plan.flat.paths[other.value] for other in others if isinstance(other, Known)):
        plan.fail(step, "it is told by parameters where entries go")
    codes = plan.settled(data)
    return plan.moved(step, [codes, *others], codes.grid)


def _plain(data: Summed) -> bool:
    """A sum over axes or windows that nothing was done to yet."""
    return not data.bounds and not data.addends and len(data.operands) == 1 and not data.operands[0].factors


def pad(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """Pads with the code of the filler, the zero point for zero."""
    data, filler = values
    if isinstance(data, Known) or not isinstance(filler, Known):
        plan.fail(step, "it pads with data, or parameters")
    codes = plan.settled(data)
    node = Pad(plan.name("pad"), (codes.slot,), (plan.slot(),), codes.grid, step.eqn, filler.value)
    return [plan.coded(plan.emit(node), codes.grid, plan.flat.shape(step.outputs[0]))]


RULES = {
    **dict.fromkeys(
        (
            "transpose",
            "squeeze",
            "expand_dims",
            "broadcast_in_dim",
            "rev",
            "slice",
            "reshape",
            "split",
            "unstack",
            "tile",
        ),
        move,
    ),
    "dynamic_slice": move,
    "pad": pad,
}
