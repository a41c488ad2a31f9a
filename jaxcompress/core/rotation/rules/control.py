"""Calls and control flow: bodies are walked with what enters them; what a loop carries is turned by one matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.jaxprs import CALLS, called, closed
from jaxcompress.core.rotation.values import Axis, Step, Value
from jaxcompress.core.rotation.walk import Walk


def call(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Walks the body in place."""
    return walk.run(*called(eqn), values)


def scan(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """The axis that is scanned is fixed; slices of a parameter remember the step."""
    params = eqn.params
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    inner, consts = closed(params["jaxpr"])
    fixed, start, scanned = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]
    step = Step(walk.scans)
    walk.scans += 1
    shapes = [shape_of(v) for v in eqn.invars[n_consts : n_consts + n_carry]]
    carry = [_carried(walk, value, shape) for value, shape in zip(start, shapes, strict=True)]
    outs = walk.run(inner, consts, [*fixed, *carry, *(_slice(walk, value, step) for value in scanned)])
    _return(walk, carry, outs[:n_carry])
    stacked = [
        Value((walk.still("stacked by a scan"), *map(_anonymous, out.axes)), data=out.data) for out in outs[n_carry:]
    ]
    return [*carry, *stacked]


def _slice(walk: Walk, value: Value, step: Step) -> Value:
    first, *rest = value.axes
    walk.fix((first,), "scanned along it")
    leaf = value.leaf
    if leaf is not None and first.of is not None:
        leaf = leaf.pick(first.of, step)
    return dataclasses.replace(value, axes=tuple(rest), leaf=leaf)


def while_(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """The condition is walked too; what it depends on is fixed there."""
    params = eqn.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts, start = values[:n_test], values[n_test : n_test + n_body], values[n_test + n_body :]
    shapes = [shape_of(v) for v in eqn.invars[n_test + n_body :]]
    carry = [_carried(walk, value, shape) for value, shape in zip(start, shapes, strict=True)]
    test, test_inner = closed(params["cond_jaxpr"])
    walk.run(test, test_inner, [*test_consts, *carry])
    body, body_inner = closed(params["body_jaxpr"])
    _return(walk, carry, walk.run(body, body_inner, [*body_consts, *carry]))
    return carry


def _carried(walk: Walk, start: Value, shape: Sequence[int]) -> Value:
    """What a loop carries, turned as where it starts."""
    axes = tuple(Axis() if size == 1 else Axis(walk.classes.fresh()) for size in shape)
    carried = Value(axes, data=True)
    for axis in range(len(shape)):
        walk.alike([carried, start], axis, "where a loop starts")
    return carried


def _return(walk: Walk, carry: Sequence[Value], outs: Sequence[Value]) -> None:
    for carried, out in zip(carry, outs, strict=True):
        for axis in range(len(carried.axes)):
            walk.alike([carried, out], axis, "carried by a loop")


def cond(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Results of the branches are turned alike."""
    found = [walk.run(*closed(branch), values[1:]) for branch in eqn.params["branches"]]
    outs = []
    for together in zip(*found, strict=True):
        axes = [walk.alike(together, axis, "results of branches") for axis in range(len(together[0].axes))]
        outs.append(Value(tuple(axes), data=any(value.data for value in (values[0], *together))))
    return outs


def _anonymous(axis: Axis) -> Axis:
    return dataclasses.replace(axis, of=None)


RULES: dict[str, Any] = {
    **dict.fromkeys(CALLS, call),
    "scan": scan,
    "while": while_,
    "cond": cond,
}
