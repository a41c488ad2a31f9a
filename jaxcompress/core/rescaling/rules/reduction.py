"""Reductions, windows and orders: along the axis nothing may be scaled unevenly, other axes pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rescaling.fields import Field, Term
from jaxcompress.core.rescaling.walk import Walk


def reduced(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """A sum or an extremum over axes that are not scaled unevenly."""
    axes = eqn.params["axes"]
    kept = _even(walk, eqn, fields[0], axes)
    where = tuple(axis + walk.steps for axis in axes)
    return [Field(tuple(Term(term.coefficient, np.squeeze(term.labels, where)) for term in kept))]


def position(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """The place of an extremum."""
    _even(walk, eqn, fields[0], eqn.params["axes"])
    return [Field()]


def running(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """A running sum or extremum."""
    return [Field(tuple(_even(walk, eqn, fields[0], [eqn.params["axis"]])))]


def sort(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """One operand may be scaled in other axes."""
    if len(fields) > 1:
        return walk.fixed(eqn, fields, "sorted by others")
    return [Field(tuple(_even(walk, eqn, fields[0], [eqn.params["dimension"]])))]


def top_k(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Largest values, and where they are."""
    ndim = len(shape_of(eqn.invars[0]))
    return [Field(tuple(_even(walk, eqn, fields[0], [eqn.params.get("axis", ndim - 1) % ndim]))), Field()]


def window(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Pooling: axes along which a window moves are not scaled unevenly; its padding is zero or infinite."""
    params, ndim = eqn.params, len(shape_of(eqn.invars[0]))
    ones, zeros = (1,) * ndim, ((0, 0),) * ndim
    settings = zip(
        params["window_dimensions"],
        params.get("window_strides") or ones,
        params.get("padding") or zeros,
        params.get("base_dilation") or ones,
        strict=True,
    )
    still = 1, 1, (0, 0), 1
    moving = [
        axis for axis, (size, stride, pad, base) in enumerate(settings) if (size, stride, tuple(pad), base) != still
    ]
    return [Field(tuple(_even(walk, eqn, fields[0], moving)))]


def _even(walk: Walk, eqn: JaxprEqn, field: Field, axes: Sequence[int]) -> list[Term]:
    uneven, kept = walk.split(field, axes)
    walk.system.zero(uneven, f"{eqn.primitive.name} over it")
    return kept


RULES: dict[str, Any] = {
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), reduced),
    **dict.fromkeys(("argmax", "argmin"), position),
    **dict.fromkeys(("cumsum", "cummax", "cummin"), running),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), window),
    "sort": sort,
    "top_k": top_k,
}
