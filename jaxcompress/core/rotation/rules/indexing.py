"""Lookups and updates by index: axes taken whole pass, what is indexed is fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rotation.rules.structural import cut
from jaxcompress.core.rotation.values import Axis, Value
from jaxcompress.core.rotation.walk import Walk


def dynamic_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Axes taken whole pass."""
    value, leaf = values[0], values[0].leaf
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    for index in values[1:]:
        walk.fix(index.axes, "an index")
    axes = []
    for axis, old, new, index in zip(value.axes, before, after, values[1:], strict=True):
        if old == new:
            axes.append(axis)
            continue
        if leaf is not None and axis.of is not None:
            known = new == 1 and index.const is not None
            leaf = leaf.pick(axis.of, min(max(int(index.const or 0), 0), old - 1)) if known else None
        kept = cut(walk, axis, "a slice of it")
        axes.append(Axis() if new == 1 else kept)
    return [Value(tuple(axes), value.const, value.data, leaf)]


def dynamic_update_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """What is written is turned like what is there, along axes that are written whole."""
    array, update, *starts = values
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])
    for index in starts:
        walk.fix(index.axes, "an index")
    axes = []
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            axes.append(walk.alike([array, update], axis, "written by index"))
        else:
            walk.fix((array.axes[axis], update.axes[axis]), "written in part")
            axes.append(walk.still("written in part"))
    return [Value(tuple(axes))]


def gather(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Axes that every index takes whole pass; those of the indices are fixed."""
    operand, indices = values
    walk.fix(indices.axes, "an index")
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, out = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(sizes)) if axis not in gone]
    axes = [Axis() if size == 1 else walk.still("an axis of indices") for size in out]
    for axis, to in zip(kept, numbers.offset_dims, strict=True):
        whole = sizes[axis] == shape[axis]
        axes[to] = _passed(operand.axes[axis]) if whole else cut(walk, operand.axes[axis], "looked up in part")
    for axis in gone:
        cut(walk, operand.axes[axis], "looked up along it")
    return [Value(tuple(axes))]


def _passed(axis: Axis) -> Axis:
    return dataclasses.replace(axis, of=None)


RULES: dict[str, Any] = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
