"""Reductions: the sum of a square is as it was, the sum of a turned value only if the vector of ones is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.rotation.values import Axis, Value
from jaxcompress.core.rotation.walk import Walk


def total(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A sum over axes."""
    value, gone = values[0], eqn.params["axes"]
    for axis in gone:
        summed(walk, value.axes[axis], "a sum over it")
    const = 0.0 if value.const == 0 else None
    return [Value(tuple(axis for i, axis in enumerate(value.axes) if i not in gone), const)]


def summed(walk: Walk, axis: Axis, reason: str) -> None:
    """Says that the entries along an axis are added up."""
    if axis.node is not None and not axis.square:
        walk.classes.keep_ones(axis.node, reason)
        walk.classes.spoil(axis.node, reason)


def extremum(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """An extremum, or its place: no matrix passes, along any axis."""
    gone = eqn.params["axes"]
    walk.fix(values[0].axes, eqn.primitive.name)
    return [Value(tuple(Axis(axis.node) for i, axis in enumerate(values[0].axes) if i not in gone))]


def running(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A running sum: along its axis nothing is turned, other axes pass."""
    value, along = values[0], eqn.params["axis"]
    walk.fix((value.axes[along],), eqn.primitive.name)
    return [Value(tuple(walk.still("a running sum") if i == along else axis for i, axis in enumerate(value.axes)))]


RULES: dict[str, Any] = {
    "reduce_sum": total,
    **dict.fromkeys(("reduce_max", "reduce_min", "argmax", "argmin"), extremum),
    "cumsum": running,
}
