"""Primitives that only move entries: labels move along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.groups.reshapes import factor_axes
from jaxcompress.core.rescaling.fields import ZERO, Field, Term, combined, thin
from jaxcompress.core.rescaling.walk import Walk

_LARGEST = 1 << 15


def moved(field: Field, move: Callable[[np.ndarray], np.ndarray]) -> Field:
    """The field with every array of labels moved."""
    return Field(tuple(Term(c, move(labels)) for c, labels in field.terms), field.const)


def shaped(walk: Walk, labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels with other axes of the value; those of the steps stay."""
    return labels.reshape(*labels.shape[: walk.steps], *shape)


def broadcast_in_dim(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """New and grown axes are scaled evenly."""
    ndim = len(shape_of(eqn.outvars[0]))

    def move(labels: np.ndarray) -> np.ndarray:
        shape = [1] * ndim
        for size, to in zip(labels.shape[walk.steps :], eqn.params["broadcast_dimensions"], strict=True):
            shape[to] = size
        return shaped(walk, labels, shape)

    return [moved(fields[0], move)]


def transpose(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Permutes."""
    order = (*range(walk.steps), *(axis + walk.steps for axis in eqn.params["permutation"]))
    return [moved(fields[0], lambda labels: labels.transpose(order))]


def squeeze(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Drops axes of length 1."""
    axes = tuple(axis + walk.steps for axis in eqn.params["dimensions"])
    return [moved(fields[0], lambda labels: np.squeeze(labels, axes))]


def expand_dims(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Adds axes of length 1."""
    axes = tuple(axis + walk.steps for axis in eqn.params["dimensions"])
    return [moved(fields[0], lambda labels: np.expand_dims(labels, axes))]


def rev(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Reverses axes."""
    axes = tuple(axis + walk.steps for axis in eqn.params["dimensions"])
    return [moved(fields[0], lambda labels: np.flip(labels, axes))]


def slice_(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Takes a strided range of every axis."""
    params = eqn.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [_ranged(walk, fields[0], {axis: slice(*bounds) for axis, bounds in enumerate(ranges)})]


def split(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Takes consecutive ranges of one axis."""
    ends = np.cumsum(eqn.params["sizes"]).tolist()
    return [
        _ranged(walk, fields[0], {eqn.params["axis"]: slice(start, end)})
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _ranged(walk: Walk, field: Field, ranges: dict[int, slice]) -> Field:
    def move(labels: np.ndarray) -> np.ndarray:
        index = [slice(None)] * labels.ndim
        for axis, taken in ranges.items():
            if labels.shape[axis + walk.steps] != 1:
                index[axis + walk.steps] = taken
        return thin(labels[tuple(index)])

    return moved(field, move)


def reshape(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Labels are written out along axes that are merged or split with those that they depend on."""
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if 0 in after:
        return [Field()]
    runs = factor_axes(before, after)

    def move(labels: np.ndarray) -> np.ndarray:
        full, shape = list(labels.shape), [1] * len(after)
        for old, new in runs:
            if any(labels.shape[axis + walk.steps] != 1 for axis in old):
                for axis in old:
                    full[axis + walk.steps] = before[axis]
                for axis in new:
                    shape[axis] = after[axis]
        return thin(shaped(walk, np.broadcast_to(labels, full), shape))

    return [moved(fields[0], move)]


def concatenate(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Pieces keep their fields along the axis."""
    along = eqn.params["dimension"]
    return [joined(walk, fields, along, [shape_of(v)[along] for v in eqn.invars])]


def stack(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Joins along a new axis."""
    axis = eqn.params["axis"]
    grown = [moved(field, lambda labels: np.expand_dims(labels, axis + walk.steps)) for field in fields]
    return [joined(walk, grown, axis, [1] * len(fields))]


def unstack(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Takes the slices along one axis."""
    axis = eqn.params["axis"]
    parts = [_ranged(walk, fields[0], {axis: slice(i, i + 1)}) for i in range(len(eqn.outvars))]
    return [moved(part, lambda labels: np.squeeze(labels, axis + walk.steps)) for part in parts]


def joined(walk: Walk, fields: Sequence[Field], along: int, sizes: Sequence[int]) -> Field:
    """Fields of pieces, one after the other along an axis.

    Pieces that are zero may be scaled in any way. Where writing all labels out along the axis would take too many
    (tokens of a sequence, say), the pieces have to be scaled alike instead.
    """
    axis = along + walk.steps
    parts = [_free(walk, field, fields, axis, size) for field, size in zip(fields, sizes, strict=True)]
    uneven = any(term.labels.shape[axis] != 1 for part in parts for term in part)
    ranked = [_ranked(part) for part in parts]
    keys = list(dict.fromkeys(key for part in ranked for key in part))
    shapes = {key: np.broadcast_shapes(*(_without(part[key], axis) for part in ranked if key in part)) for key in keys}
    if not uneven and any(int(np.prod(shape)) * sum(sizes) > _LARGEST for shape in shapes.values()):
        for other in parts[1:]:
            walk.system.equal(parts[0], other, "pieces that are joined")
        return Field(tuple(parts[0]))
    terms = []
    for key in keys:
        pieces = []
        for part, size in zip(ranked, sizes, strict=True):
            full = list(shapes[key])
            full[axis] = size
            pieces.append(np.broadcast_to(part.get(key, np.full((1,) * len(full), ZERO)), full))
        terms.append(Term(key[0], thin(np.concatenate(pieces, axis))))
    return Field(tuple(combined(terms)))


def _free(walk: Walk, field: Field, others: Sequence[Field], axis: int, size: int) -> Sequence[Term]:
    """Terms of a piece; fresh ones, alike those that it is joined with, where it is zero."""
    if not field.neutral:
        return field.terms
    model = next((other.terms for other in others if other.terms), ())
    terms = []
    for term in model:
        shape = list(term.labels.shape)
        shape[axis] = size if shape[axis] != 1 else 1
        terms.append(Term(Fraction(1), walk.system.fresh(*shape)))
    return terms


def _ranked(terms: Sequence[Term]) -> dict[tuple[Fraction, int], np.ndarray]:
    """Labels by coefficient and how many of that coefficient came before."""
    ranked: dict[tuple[Fraction, int], np.ndarray] = {}
    for coefficient, labels in terms:
        rank = sum(key[0] == coefficient for key in ranked)
        ranked[coefficient, rank] = labels
    return ranked


def _without(labels: np.ndarray, axis: int) -> tuple[int, ...]:
    return (*labels.shape[:axis], 1, *labels.shape[axis + 1 :])


def pad(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """What padding brings may be scaled in any way if it is zero, else nothing may be scaled."""
    value, filling = fields
    if not filling.neutral:
        return walk.fixed(eqn, fields, "padded with a number")

    def move(labels: np.ndarray) -> np.ndarray:
        for axis, config in enumerate(eqn.params["padding_config"], walk.steps):
            if labels.shape[axis] != 1 and config != (0, 0, 0):
                labels = _padded(walk, labels, axis, config)
            elif labels.shape[axis] == 1 and shape_of(eqn.invars[0])[axis - walk.steps] == 0:
                return np.full((1,) * labels.ndim, ZERO)
        return labels

    return [Field(moved(value, move).terms)]


def _padded(walk: Walk, labels: np.ndarray, axis: int, config: tuple[int, int, int]) -> np.ndarray:
    low, high, interior = config
    size = labels.shape[axis]
    place = np.full(size + (size - 1) * interior, -1)
    place[:: interior + 1] = np.arange(size)
    place = place[max(0, -low) : len(place) - max(0, -high)]
    place = np.concatenate([np.full(max(0, low), -1), place, np.full(max(0, high), -1)])
    grown = np.array(labels.take(np.maximum(place, 0), axis))
    index = [slice(None)] * labels.ndim
    index[axis] = np.flatnonzero(place < 0)  # type: ignore[call-overload]
    grown[tuple(index)] = walk.system.fresh(*grown[tuple(index)].shape)
    return grown


def tile(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Repeats axes."""
    reps = eqn.params["reps"]

    def move(labels: np.ndarray) -> np.ndarray:
        sizes = zip(reps, labels.shape[walk.steps :], strict=True)
        return np.tile(labels, (*(1,) * walk.steps, *(n if size != 1 else 1 for n, size in sizes)))

    return [moved(fields[0], move)]


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
    "reshape": reshape,
}
