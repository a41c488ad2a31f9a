"""Products: over what is summed both operands are turned alike, free axes pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rotation.rules.reduction import summed
from jaxcompress.core.rotation.values import Axis, Value, slice_of
from jaxcompress.core.rotation.walk import Walk


def dot_general(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Axes of the result: batch, free ones of the first, free ones of the second."""
    contract, batch = eqn.params["dimension_numbers"]
    for pair in zip(*contract, strict=True):
        _contracted(walk, values, pair)
    axes = [_together(walk, [value.axes[axis] for value, axis in zip(values, pair, strict=True)])
            for pair in zip(*batch, strict=True)]  # fmt: skip
    for side, value in enumerate(values):
        axes += [Axis(a.node, a.square) for i, a in enumerate(value.axes) if i not in (*contract[side], *batch[side])]
    return [Value(tuple(axes), 0.0 if 0 in (values[0].const, values[1].const) else None)]


def _contracted(walk: Walk, values: Sequence[Value], pair: tuple[int, int]) -> None:
    """Sums over an axis of the one and an axis of the other."""
    a, b = (walk.plain(value.axes[axis]) for value, axis in zip(values, pair, strict=True))
    if a.node is None or b.node is None:
        summed(walk, b if a.node is None else a, "a sum over it")
    elif a.square or b.square:
        walk.fix((a, b), "a contraction of what is a product of two")
    else:
        slices = slice_of(values[0], pair[0]), slice_of(values[1], pair[1])
        walk.classes.join(a.node, b.node, "contraction", slices)


def _together(walk: Walk, axes: Sequence[Axis]) -> Axis:
    """Axes that go in step."""
    a, b = map(walk.plain, axes)
    if a.node is None or b.node is None:
        one = a if b.node is None else b
        return Axis(one.node, one.square)
    walk.fix((a, b), "a batch axis of a product")
    return Axis(a.node)


def convolution(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Channels as in a product, positions are fixed."""
    if eqn.params["batch_group_count"] != 1 or eqn.params["feature_group_count"] != 1:
        return walk.unknown(eqn, values, "a grouped convolution")
    numbers = eqn.params["dimension_numbers"]
    (batch, channels, *positions), (outputs, inputs, *taps) = numbers.lhs_spec, numbers.rhs_spec
    walk.fix([values[0].axes[i] for i in positions] + [values[1].axes[i] for i in taps], "a convolution over it")
    _contracted(walk, values, (channels, inputs))
    out, features, *places = numbers.out_spec
    axes = [Axis()] * len(shape_of(eqn.outvars[0]))
    axes[out], axes[features] = (Axis(a.node, a.square) for a in (values[0].axes[batch], values[1].axes[outputs]))
    for place in places:
        axes[place] = walk.still("a convolution over it")
    return [Value(tuple(axes))]


RULES: dict[str, Any] = {"dot_general": dot_general, "conv_general_dilated": convolution}
