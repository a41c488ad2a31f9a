"""Primitives that only move entries: label arrays are reused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, agreed, shape_of
from jaxcompress.core.groups.reshapes import factor_axes
from jaxcompress.core.groups.walk import Walk

SINGLE = "the only entry of an axis that is dropped or repeated"


def broadcast_in_dim(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """New axes and axes grown from size 1 are free."""
    value, shape = values[0], shape_of(eqn.outvars[0])
    out = walk.graph.value(shape, const=value.const, weight=value.weight)
    labels, masked = list(out.labels), list(out.masked)
    for axis, to in enumerate(eqn.params["broadcast_dimensions"]):
        if len(value.labels[axis]) == shape[to]:
            labels[to], masked[to] = value.labels[axis], value.masked[axis]
        else:
            walk.graph.pin(value.labels[axis], SINGLE)
    return [Labelled(tuple(labels), tuple(masked), value.const, value.weight)]


def transpose(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Permutes."""
    return [_picked(values[0], eqn.params["permutation"])]


def squeeze(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Drops axes of size 1, whose only entry therefore stays."""
    for axis in eqn.params["dimensions"]:
        walk.graph.pin(values[0].labels[axis], SINGLE)
    return [_picked(values[0], [i for i in range(len(values[0].labels)) if i not in eqn.params["dimensions"]])]


def expand_dims(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Adds axes of size 1."""
    value, shape = values[0], shape_of(eqn.outvars[0])
    fresh, old = walk.graph.value(shape, const=value.const), iter(range(len(value.labels)))
    source = [None if i in eqn.params["dimensions"] else next(old) for i in range(len(shape))]
    pairs = [
        (fresh.labels[i], fresh.masked[i]) if axis is None else (value.labels[axis], value.masked[axis])
        for i, axis in enumerate(source)
    ]
    return [Labelled(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), value.const, value.weight)]


def rev(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Reverses axes."""
    return [_indexed(values[0], {axis: slice(None, None, -1) for axis in eqn.params["dimensions"]})]


def slice_(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Takes a strided range of every axis."""
    params = eqn.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [_indexed(values[0], {axis: slice(*bounds) for axis, bounds in enumerate(ranges)})]


def split(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Takes consecutive ranges of one axis."""
    ends = np.cumsum(eqn.params["sizes"]).tolist()
    starts = [0, *ends[:-1]]
    return [
        _indexed(values[0], {eqn.params["axis"]: slice(start, end)}) for start, end in zip(starts, ends, strict=True)
    ]


def concatenate(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Joins along one axis, ties the others."""
    return _joined(walk, values, eqn.params["dimension"])


def _joined(walk: Walk, values: Sequence[Labelled], along: int) -> list[Labelled]:
    first = values[0]
    labels, masked = list(first.labels), list(first.masked)
    for axis in range(len(labels)):
        if axis == along:
            labels[axis] = np.concatenate([v.labels[axis] for v in values])
            masked[axis] = np.concatenate([v.masked[axis] for v in values])
            continue
        for other in values[1:]:
            walk.graph.tie(labels[axis], other.labels[axis])
            masked[axis] = agreed(masked[axis], other.masked[axis])
    consts = {v.const for v in values}
    const = consts.pop() if len(consts) == 1 else None
    return [Labelled(tuple(labels), tuple(masked), const, any(v.weight for v in values))]


def stack(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Joins along a new axis, ties the others."""
    grown = [_with_axis(value, eqn.params["axis"], walk.graph.fresh(1)) for value in values]
    return _joined(walk, grown, eqn.params["axis"])


def unstack(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Takes the slices along one axis, every one of which therefore stays."""
    axis = eqn.params["axis"]
    walk.graph.pin(values[0].labels[axis], SINGLE)
    part = _picked(values[0], [i for i in range(len(values[0].labels)) if i != axis])
    return [part] * len(eqn.outvars)


def tile(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Repeats axes."""
    (value,), reps = values, eqn.params["reps"]
    labels, masked = (
        tuple(np.tile(axis, n) for axis, n in zip(part, reps, strict=True)) for part in (value.labels, value.masked)
    )
    return [Labelled(labels, masked, value.const, value.weight)]


def pad(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """What padding brings is free, what it cuts off is gone."""
    value, filling = values
    config = eqn.params["padding_config"]
    known = np.nan if filling.const is None else filling.const
    grown = [axis for axis, padding in enumerate(config) if max(padding) > 0]
    labels, masked = [], []
    for axis, (low, high, interior) in enumerate(config):
        place = np.full(len(value.labels[axis]) + max(0, len(value.labels[axis]) - 1) * interior, -1)
        place[:: interior + 1] = np.arange(len(value.labels[axis]))
        place = place[max(0, -low) : len(place) - max(0, -high)]
        place = np.concatenate([np.full(max(0, low), -1), place, np.full(max(0, high), -1)])
        own, old = place >= 0, place[place >= 0]
        joined, slices = walk.graph.fresh(len(place)), np.full(len(place), known)
        joined[own], slices[own] = value.labels[axis][old], value.masked[axis][old]
        if any(other != axis for other in grown):  # every slice of this axis holds filling too
            slices[own] = agreed(slices[own], np.full(len(old), known))
        if interior:
            walk.graph.pin(joined, "padding between its entries")
        labels.append(joined)
        masked.append(slices)
    const = value.const if value.const == filling.const else None
    return [Labelled(tuple(labels), tuple(masked), const, value.weight or filling.weight)]


def iota(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """A constant."""
    return [walk.graph.value(shape_of(eqn.outvars[0]))]


def reshape(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes that are only renamed keep their labels; merged and split ones are decided at the end."""
    value, shape = values[0], shape_of(eqn.outvars[0])
    out = walk.graph.value(shape, const=value.const, weight=value.weight)
    labels, masked = list(out.labels), list[Any](out.masked)
    for axis in value.labels:
        if len(axis) == 1:
            walk.graph.pin(axis, SINGLE)
    runs = factor_axes(value.shape, shape) if 0 not in shape else []
    for old, new in runs:
        if len(old) == len(new) == 1:
            labels[new[0]], masked[new[0]] = value.labels[old[0]], value.masked[old[0]]
        elif len(new) == 1:
            walk.graph.reshape([value.labels[i] for i in old], labels[new[0]], weight=value.weight)
            places = np.indices([value.shape[i] for i in old]).reshape(len(old), -1)
            masked[new[0]] = agreed(*(value.masked[i][at] for i, at in zip(old, places, strict=True)))
        elif len(old) == 1:
            walk.graph.reshape([labels[i] for i in new], value.labels[old[0]], weight=value.weight)
            sizes = [shape[i] for i in new]
            grid = value.masked[old[0]].reshape(sizes)
            for position, i in enumerate(new):
                masked[i] = agreed(*np.moveaxis(grid, position, -1).reshape(-1, sizes[position]))
        elif value.weight:
            for axis in (*(value.labels[i] for i in old), *(labels[i] for i in new)):
                walk.graph.pin(axis, "a reshape of several axes into several")
    return [Labelled(tuple(labels), tuple(masked), value.const, value.weight)]


def _with_axis(value: Labelled, axis: int, labels: np.ndarray) -> Labelled:
    known = np.full(len(labels), np.nan if value.const is None else value.const)
    return Labelled(
        (*value.labels[:axis], labels, *value.labels[axis:]),
        (*value.masked[:axis], known, *value.masked[axis:]),
        value.const,
        value.weight,
    )


def _picked(value: Labelled, axes: Sequence[int]) -> Labelled:
    return Labelled(
        tuple(value.labels[i] for i in axes), tuple(value.masked[i] for i in axes), value.const, value.weight
    )


def _indexed(value: Labelled, ranges: dict[int, slice]) -> Labelled:
    labels = [axis[ranges[i]] if i in ranges else axis for i, axis in enumerate(value.labels)]
    masked = [axis[ranges[i]] if i in ranges else axis for i, axis in enumerate(value.masked)]
    return Labelled(tuple(labels), tuple(masked), value.const, value.weight)


RULES: dict[str, Any] = {
    "broadcast_in_dim": broadcast_in_dim,
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "rev": rev,
    "slice": slice_,
    "split": split,
    "concatenate": concatenate,
    "pad": pad,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
    "iota": iota,
    "reshape": reshape,
}
