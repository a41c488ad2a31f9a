"""Reductions, scans along an axis, windows and sorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, shape_of
from jaxcompress.core.groups.walk import Walk


def reduce_sum(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """A sum does not see the entries that masking makes zero."""
    for axis in eqn.params["axes"]:
        walk.need_zero(values[0].labels[axis], values[0].zeros[axis], "a sum", eqn)
    return [_without(values[0], eqn.params["axes"])]


def reduce_other(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """A zero may be the largest or the smallest entry, and makes a product zero."""
    value = values[0]
    for axis in eqn.params["axes"]:
        nothing = value.zeros[axis] & False
        walk.need_zero(value.labels[axis], nothing, f"{eqn.primitive.name} (in which zero counts)", eqn)
    return [_without(value, eqn.params["axes"])]


def arg_reduce(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The result is a position: the axis stays."""
    for axis in eqn.params["axes"]:
        walk.graph.pin(values[0].labels[axis], f"{eqn.primitive.name} gives positions along it", eqn)
    out = _without(values[0], eqn.params["axes"])
    return [Labelled(out.labels, tuple(zero & False for zero in out.zeros), None, out.weight)]


def along(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Results along the axis depend on neighbours, or on the order: it stays."""
    name = eqn.primitive.name
    axis = eqn.params["dimension"] if name == "sort" else eqn.params["axis"]
    first = values[0]
    for value in values:
        walk.graph.pin(value.labels[axis], f"{name} along it", eqn)
        for a, b in zip(first.labels, value.labels, strict=True):
            walk.graph.tie(a, b)
    kept = name in ("cumsum", "cummax", "cummin", "cumprod")
    return [
        Labelled(value.labels, tuple(zero & (kept or len(values) == 1) for zero in value.zeros), None, first.weight)
        for value in values
    ]


def top_k(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The axis that is ranked stays."""
    value = values[0]
    axis = eqn.params.get("axis", len(value.labels) - 1) % len(value.labels)
    walk.graph.pin(value.labels[axis], "top_k along it", eqn)
    chosen = walk.whole(eqn, (shape_of(eqn.outvars[0])[axis],), "top_k")
    labels = (*value.labels[:axis], chosen.labels[0], *value.labels[axis + 1 :])
    zeros = (*value.zeros[:axis], chosen.zeros[0], *value.zeros[axis + 1 :])
    positions = tuple(zero if i == axis else zero & False for i, zero in enumerate(zeros))
    return [Labelled(labels, zeros, None, value.weight), Labelled(labels, positions, None, value.weight)]


def window(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Pooling: axes under a window of size 1 pass, the others stay."""
    value, shape = values[0], shape_of(eqn.outvars[0])
    params = eqn.params
    labels, zeros = [], []
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
            zeros.append(value.zeros[axis])
        else:
            walk.graph.pin(value.labels[axis], "a window moves along it", eqn)
            whole = walk.whole(eqn, (size,), "a window moved along it")
            labels.append(whole.labels[0])
            zeros.append(whole.zeros[0])
    return [Labelled(tuple(labels), tuple(zeros), None, value.weight)]


def _without(value: Labelled, axes: Sequence[int]) -> Labelled:
    left = [i for i in range(len(value.labels)) if i not in axes]
    return Labelled(tuple(value.labels[i] for i in left), tuple(value.zeros[i] for i in left), None, value.weight)


RULES: dict[str, Any] = {
    "reduce_sum": reduce_sum,
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"), reduce_other),
    **dict.fromkeys(("argmax", "argmin"), arg_reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"), along),
    "top_k": top_k,
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), window),
}
