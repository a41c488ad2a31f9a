"""Reductions, scans along an axis, windows and sorts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, shape_of
from jaxcompress.core.groups.walk import Walk


def reduce_sum(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """A sum does not see the entries that masking makes zero."""
    value, axes = values[0], eqn.params["axes"]
    for axis in axes:
        walk.need(value.masked[axis] == 0, value.labels[axis], "a sum")
    count = math.prod(value.shape[axis] for axis in axes)
    out = _without(value, axes)
    return [Labelled(out.labels, tuple(count * masked for masked in out.masked), None, out.weight)]


def reduce_other(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """A masked value may be the largest or the smallest entry, and makes a product zero."""
    value, name = values[0], eqn.primitive.name
    for axis in eqn.params["axes"]:
        walk.need(np.zeros(value.shape[axis], bool), value.labels[axis], name)
    out = _without(value, eqn.params["axes"])
    if name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or"):  # of equal values it is that value
        return [out]
    return [Labelled(out.labels, tuple(_zero_or_unknown(axis) for axis in out.masked), None, out.weight)]


def _zero_or_unknown(masked: np.ndarray) -> np.ndarray:
    return np.where(masked == 0, 0.0, np.nan)


def arg_reduce(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The result is a position: the axis stays."""
    for axis in eqn.params["axes"]:
        walk.graph.pin(values[0].labels[axis], f"{eqn.primitive.name} gives positions along it")
    out = _without(values[0], eqn.params["axes"])
    return [Labelled(out.labels, tuple(np.full(size, np.nan) for size in out.shape), None, out.weight)]


def along(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Results along the axis depend on neighbours, or on the order: it stays."""
    name = eqn.primitive.name
    axis = eqn.params["dimension"] if name == "sort" else eqn.params["axis"]
    first = values[0]
    for value in values:
        walk.graph.pin(value.labels[axis], f"{name} along it")
        for a, b in zip(first.labels, value.labels, strict=True):
            walk.graph.tie(a, b)
    weight = any(value.weight for value in values)
    if len(values) > 1:  # sorted by others: only what is the same everywhere stays what it is
        return [Labelled(value.labels, value.masked, None, weight) for value in values]
    return [Labelled(first.labels, tuple(_zero_or_unknown(masked) for masked in first.masked), None, weight)]


def top_k(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The axis that is ranked stays."""
    value = values[0]
    axis = eqn.params.get("axis", len(value.labels) - 1) % len(value.labels)
    walk.graph.pin(value.labels[axis], "top_k along it")
    chosen = walk.whole((shape_of(eqn.outvars[0])[axis],), "top_k")
    labels = (*value.labels[:axis], chosen.labels[0], *value.labels[axis + 1 :])
    masked = (*value.masked[:axis], chosen.masked[0], *value.masked[axis + 1 :])
    positions = tuple(np.full(len(axis), np.nan) for axis in labels)
    return [Labelled(labels, masked, None, value.weight), Labelled(labels, positions, None, value.weight)]


def window(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Pooling: axes under a window of size 1 pass, the others stay."""
    value, shape = values[0], shape_of(eqn.outvars[0])
    params = eqn.params
    labels, masked = [], []
    ones = (1,) * len(shape)
    for axis, size in enumerate(shape):
        untouched = (
            params["window_dimensions"][axis] == 1
            and (params.get("window_strides") or ones)[axis] == 1
            and tuple((params.get("padding") or ((0, 0),) * len(shape))[axis]) == (0, 0)
            and (params.get("base_dilation") or ones)[axis] == 1
        )
        if untouched:
            labels.append(value.labels[axis])
            masked.append(value.masked[axis])
        else:
            walk.graph.pin(value.labels[axis], "a window moves along it")
            whole = walk.whole((size,), "a window moved along it")
            labels.append(whole.labels[0])
            masked.append(whole.masked[0])
    if eqn.primitive.name == "reduce_window_sum":
        masked = [_zero_or_unknown(axis) for axis in masked]
    return [Labelled(tuple(labels), tuple(masked), None, value.weight)]


def _without(value: Labelled, axes: Sequence[int]) -> Labelled:
    left = [i for i in range(len(value.labels)) if i not in axes]
    return Labelled(tuple(value.labels[i] for i in left), tuple(value.masked[i] for i in left), None, value.weight)


RULES: dict[str, Any] = {
    "reduce_sum": reduce_sum,
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"), reduce_other),
    **dict.fromkeys(("argmax", "argmin"), arg_reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"), along),
    "top_k": top_k,
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), window),
}
