"""Primitives that only move entries: axes move along, what cuts or mixes one fixes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.groups.reshapes import factor_axes
from jaxcompress.core.rotation.values import Axis, Value
from jaxcompress.core.rotation.walk import Walk


def moved(value: Value, axes: Iterable[Axis]) -> Value:
    """The value with other axes."""
    return dataclasses.replace(value, axes=tuple(axes))


def cut(walk: Walk, axis: Axis, reason: str) -> Axis:
    """An axis of which a part is taken, or the order changed: even it stays so, else it is fixed."""
    walk.fix((axis,), reason)
    return Axis(axis.node)


def broadcast_in_dim(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """New and grown axes are even."""
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    axes = [Axis()] * len(after)
    for axis, size, to in zip(values[0].axes, before, eqn.params["broadcast_dimensions"], strict=True):
        axes[to] = axis if size == after[to] else Axis()
    return [moved(values[0], axes)]


def transpose(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Permutes."""
    return [moved(values[0], [values[0].axes[axis] for axis in eqn.params["permutation"]])]


def squeeze(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Drops axes of length 1."""
    gone, value = eqn.params["dimensions"], values[0]
    return [moved(value, [axis for i, axis in enumerate(value.axes) if i not in gone])]


def expand_dims(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Adds axes of length 1."""
    axes = iter(values[0].axes)
    added = eqn.params["dimensions"]
    return [moved(values[0], [Axis() if i in added else next(axes) for i in range(len(shape_of(eqn.outvars[0])))])]


def rev(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Reverses axes."""
    turned = eqn.params["dimensions"]
    return [moved(values[0], [cut(walk, a, "reversed") if i in turned else a for i, a in enumerate(values[0].axes)])]


def slice_(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Axes taken whole pass; of a parameter one index along an axis is remembered."""
    value, leaf = values[0], values[0].leaf
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    axes = list(value.axes)
    for i, (old, new, start) in enumerate(zip(before, after, eqn.params["start_indices"], strict=True)):
        if old == new:
            continue
        kept, of = cut(walk, axes[i], "a slice of it"), axes[i].of
        axes[i] = Axis() if new == 1 else kept
        if leaf is not None and of is not None:
            leaf = leaf.pick(of, int(start)) if new == 1 else None
    return [Value(tuple(axes), value.const, value.data, leaf)]


def split(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Consecutive ranges of one axis, which is fixed."""
    return [_parted(walk, values[0], eqn.params["axis"], "split") for _ in eqn.outvars]


def _parted(walk: Walk, value: Value, axis: int, reason: str) -> Value:
    leaf = value.leaf if value.axes[axis].of is None else None
    axes = [cut(walk, a, reason) if i == axis else a for i, a in enumerate(value.axes)]
    return dataclasses.replace(value, axes=tuple(axes), leaf=leaf)


def reshape(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Axes that stay whole pass; merged or split, they are fixed, or even if all are."""
    value = values[0]
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if 0 in after:
        return walk.unknown(eqn, values, "empty")
    axes, leaf = [Axis()] * len(after), value.leaf
    for old, new in factor_axes(before, after):
        if len(old) == len(new) == 1:
            axes[new[0]] = value.axes[old[0]]
            continue
        together = [value.axes[axis] for axis in old]
        walk.fix(together, "a reshape merges or splits it")
        leaf = None if any(axis.of is not None for axis in together) else leaf
        node = next((axis.node for axis in together if axis.node is not None), None)
        for axis in new:
            axes[axis] = Axis(node)
    return [dataclasses.replace(value, axes=tuple(axes), leaf=leaf)]


def concatenate(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Pieces are turned alike along other axes."""
    along = eqn.params["dimension"]
    return [_joined(walk, values, along, len(values[0].axes))]


def stack(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Joins along a new axis."""
    at = eqn.params["axis"]
    grown = [moved(value, (*value.axes[:at], Axis(), *value.axes[at:])) for value in values]
    return [_joined(walk, grown, at, len(grown[0].axes))]


def _joined(walk: Walk, values: Sequence[Value], along: int, ndim: int) -> Value:
    axes = []
    for axis in range(ndim):
        if axis == along:
            walk.fix([value.axes[axis] for value in values], "joined with others along it")
            axes.append(walk.still("joined of several"))
        else:
            axes.append(walk.alike(values, axis, "pieces joined"))
    return Value(tuple(axes))


def unstack(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Slices along one axis."""
    at, value = eqn.params["axis"], values[0]
    of = value.axes[at].of
    cut(walk, value.axes[at], "taken apart along it")
    rest = [axis for i, axis in enumerate(value.axes) if i != at]
    picked = [
        value.leaf.pick(of, i) if value.leaf is not None and of is not None else value.leaf
        for i in range(len(eqn.outvars))
    ]
    return [dataclasses.replace(value, axes=tuple(rest), leaf=leaf) for leaf in picked]


def pad(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Padded axes are fixed; along others the filling has to be turned like what it stands beside."""
    value, filling = values
    axes = []
    for axis, (own, config) in enumerate(zip(value.axes, eqn.params["padding_config"], strict=True)):
        if tuple(config) == (0, 0, 0):
            number = Value((Axis(),) * len(value.axes), filling.const)
            pads = any(tuple(other) != (0, 0, 0) for other in eqn.params["padding_config"])
            axes.append(walk.alike([value, number], axis, "padded") if pads else own)
        else:
            walk.fix((own,), "padded")
            axes.append(walk.still("padded"))
    return [Value(tuple(axes))]


def tile(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Repeated axes are fixed."""
    reps = eqn.params["reps"]
    value = values[0]
    for i, count in enumerate(reps):
        value = value if count == 1 else _parted(walk, value, i, "repeated")
    return [value]


def iota(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Even but along the axis that it counts."""
    along = eqn.params["dimension"]
    shape = shape_of(eqn.outvars[0])
    return [Value(tuple(walk.still("counted") if i == along else Axis() for i in range(len(shape))))]


RULES: dict[str, Any] = {
    "broadcast_in_dim": broadcast_in_dim,
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "rev": rev,
    "slice": slice_,
    "split": split,
    "reshape": reshape,
    "concatenate": concatenate,
    "stack": stack,
    "unstack": unstack,
    "pad": pad,
    "tile": tile,
    "iota": iota,
}
