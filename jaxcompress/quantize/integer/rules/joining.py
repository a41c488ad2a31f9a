"""Values that become parts of one: they are brought to one grid."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.values import Codes, Known, Value


def on_one_grid(plan: Plan, step: Step, values: Sequence[Value]) -> tuple[list[Codes], str]:
    """The codes of several values on one grid: theirs, if it is one, else that of the result."""
    grids = {value.grid if isinstance(value, Codes) else None for value in values}
    (grid,) = grids if len(grids) == 1 else {None}
    grid = grid or plan.site(step.eqn.primitive.name, step.outputs[0])
    return [plan.settled(value, grid) for value in values], grid


def join(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """Concatenation and stacking: the grid is that of the result, as in LiteRT."""
    if any(isinstance(value, Known) for value in values):
        plan.fail(step, "it joins data with parameters")
    codes, grid = on_one_grid(plan, step, values)
    return plan.moved(step, codes, grid)


RULES = {"concatenate": join, "stack": join}
