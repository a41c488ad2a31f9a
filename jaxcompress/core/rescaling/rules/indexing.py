"""Lookups and updates by index: along what is indexed all entries are scaled alike, other axes pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rescaling.fields import Field, Term, combined, dependence
from jaxcompress.core.rescaling.walk import Walk


def dynamic_slice(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Axes taken whole pass."""
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    for index in fields[1:]:
        walk.system.zero(index.terms, "an index")
    partial = [axis for axis, size in enumerate(after) if size != before[axis]]
    return [Field(tuple(_levelled(walk, eqn, fields[0], partial)))]


def dynamic_update_slice(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Array and update are scaled alike, evenly along the axes that are written in part."""
    before, update = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])
    for index in fields[2:]:
        walk.system.zero(index.terms, "an index")
    partial = [axis for axis, size in enumerate(update) if size != before[axis]]
    both = [Field(tuple(_levelled(walk, eqn, field, partial)), field.const) for field in fields[:2]]
    counting = [field for field in both if not field.neutral]
    for other in counting[1:]:
        walk.system.equal(counting[0].terms, other.terms, "written by index")
    return [Field(counting[0].terms if counting else ())]


def gather(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Axes that every index takes whole pass."""
    operand, indices = fields
    filling = eqn.params.get("fill_value")
    if filling is not None and np.isfinite(filling) and filling != 0:
        return walk.fixed(eqn, fields, "a number stands for what is not there")
    walk.system.zero(indices.terms, "an index")
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(sizes)) if axis not in dropped]
    shape = shape_of(eqn.invars[0])
    uneven = [axis for axis in range(len(sizes)) if axis in dropped or sizes[axis] != shape[axis]]
    uneven += [axis for axis in numbers.start_index_map if axis not in uneven]
    terms = []
    for coefficient, labels in _levelled(walk, eqn, operand, uneven):
        out = [1] * len(shape_of(eqn.outvars[0]))
        for axis, to in zip(kept, numbers.offset_dims, strict=True):
            out[to] = labels.shape[axis + walk.steps]
        terms.append(Term(coefficient, labels.reshape(*labels.shape[: walk.steps], *out)))
    return [Field(tuple(combined(terms)))]


def _levelled(walk: Walk, eqn: JaxprEqn, field: Field, axes: Iterable[int]) -> list[Term]:
    """The terms once they are equal along some axes, which then have length 1.

    A term along such axes alone is asked to vanish: what is even along them can be said by the other terms.
    """
    within = [axis + walk.steps for axis in axes]
    touched, kept = walk.split(field, list(axes))
    alone = [term for term in touched if dependence(term.labels) <= set(within)]
    walk.system.zero(alone, f"{eqn.primitive.name} along it")
    shared = [term for term in touched if not dependence(term.labels) <= set(within)]
    first = [Term(term.coefficient, _first(term.labels, within)) for term in shared]
    walk.system.equal(shared, first, f"{eqn.primitive.name} along it")
    return combined([*kept, *first])


def _first(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    for axis in axes:
        labels = labels.take([0], axis)
    return labels


RULES: dict[str, Any] = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
