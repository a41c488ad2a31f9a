"""Extremes: codes are in the order of what they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from jaxcompress.quantize.integer.flat import Step
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.values import Value


def of_codes(plan: Plan, step: Step, values: Sequence[Value]) -> list[Value]:
    """Max pooling, the largest entry, and where it is."""
    (data,) = values
    codes = plan.settled(data)
    return plan.moved(step, [codes], codes.grid)


RULES = dict.fromkeys(
    ("reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "argmax", "argmin", "cummax", "cummin"),
    of_codes,
)
