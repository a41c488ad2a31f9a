"""Calls and control flow: bodies are walked with the labels of what enters them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, agreed
from jaxcompress.core.groups.walk import Walk
from jaxcompress.core.jaxprs import CALLS, called, closed


def call(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Walks the body in place."""
    return walk.run(*called(eqn), values)


def scan(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Carries are tied to themselves; the axis that is scanned stays."""
    params = eqn.params
    n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry, xs = values[:n_consts], list(values[n_consts : n_consts + n_carry]), values[n_consts + n_carry :]
    for x in xs:
        walk.graph.pin(x.labels[0], "a scan runs along it")
    slices = [Labelled(x.labels[1:], x.masked[1:], x.const, x.weight) for x in xs]
    inner, inner_consts = closed(params["jaxpr"])
    outer_trips, walk.trips = walk.trips, walk.trips * length
    left, outs = _fixpoint(walk, carry, lambda state: walk.run(inner, inner_consts, [*consts, *state, *slices]))
    walk.trips = outer_trips
    stacked = []
    for out in outs[n_carry:]:
        steps = walk.whole((length,), "a scan runs along it")
        stacked.append(Labelled((*steps.labels, *out.labels), (*steps.masked, *out.masked), None, out.weight))
    return [*left, *stacked]


def while_(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """As a scan without slices; the condition is walked too, its work is counted once."""
    params = eqn.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts, carry = values[:n_test], values[n_test : n_test + n_body], list(values[n_test + n_body :])
    test, test_inner = closed(params["cond_jaxpr"])
    body, body_inner = closed(params["body_jaxpr"])

    def step(state: Sequence[Labelled]) -> list[Labelled]:
        walk.run(test, test_inner, [*test_consts, *state])
        return walk.run(body, body_inner, [*body_consts, *state])

    return _fixpoint(walk, carry, step)[0]


def cond(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Results of the branches are tied; the branch with the most work is counted."""
    operands, products = values[1:], walk.graph.products
    results, work, start = [], [], len(products)
    for branch in eqn.params["branches"]:
        inner, consts = closed(branch)
        results.append(walk.run(inner, consts, operands))
        work.append(products[start:])
        del products[start:]
    products += max(work, key=_macs)
    return [_joined(walk, outs) for outs in zip(*results, strict=True)]


def _fixpoint(walk: Walk, carry: Sequence[Labelled], step: Any) -> tuple[list[Labelled], list[Labelled]]:
    """Runs a loop body until what it assumes of its carry holds of what it returns; ``(carry, results)``."""
    state = [Labelled(c.labels, c.masked, None, c.weight) for c in carry]
    while True:
        mark = walk.graph.mark()
        outs = step(state)
        after = [
            Labelled(c.labels, tuple(map(agreed, c.masked, out.masked)), None, c.weight or out.weight)
            for c, out in zip(state, outs, strict=False)
        ]
        if all(map(_same, state, after)):
            for c, out in zip(state, outs, strict=False):
                for a, b in zip(c.labels, out.labels, strict=True):
                    walk.graph.tie(a, b)
            return state, outs
        walk.graph.rollback(mark)
        state = after


def _same(a: Labelled, b: Labelled) -> bool:
    return a.weight == b.weight and all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(a.masked, b.masked, strict=True)
    )


def _joined(walk: Walk, outs: Sequence[Labelled]) -> Labelled:
    first = outs[0]
    masked = list(first.masked)
    for other in outs[1:]:
        for axis, labels in enumerate(first.labels):
            walk.graph.tie(labels, other.labels[axis])
            masked[axis] = agreed(masked[axis], other.masked[axis])
    return Labelled(first.labels, tuple(masked), None, any(out.weight for out in outs))


def _macs(products: Sequence[Any]) -> int:
    return sum(p.trips * p.sizes * int(np.prod([len(axis) for axis in p.axes], dtype=object)) for p in products)


RULES: dict[str, Any] = {
    **dict.fromkeys(CALLS, call),
    "scan": scan,
    "while": while_,
    "cond": cond,
}
