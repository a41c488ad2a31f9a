"""Products and convolutions: over what is summed the factors of both operands cancel, the rest passes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rescaling.fields import Field, Term, combined, dependence
from jaxcompress.core.rescaling.walk import Walk


def dot_general(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Axes of the result: batch, free ones of the first, free ones of the second."""
    contract, batch = eqn.params["dimension_numbers"]
    ndims = [len(shape_of(v)) for v in eqn.invars]
    frees = [
        [axis for axis in range(ndim) if axis not in (*contract[side], *batch[side])] for side, ndim in enumerate(ndims)
    ]
    shared = len(batch[0]), len(contract[0])
    terms: list[Term] = []
    for side, field in enumerate(fields):
        order = (*range(walk.steps), *(axis + walk.steps for axis in (*batch[side], *contract[side], *frees[side])))
        before = len(frees[0]) if side else 0
        after = 0 if side else len(frees[1])
        for coefficient, labels in field.terms:
            moved = labels.transpose(order)
            cut = walk.steps + sum(shared)
            shape = (*moved.shape[:cut], *(1,) * before, *moved.shape[cut:], *(1,) * after)
            terms.append(Term(coefficient, moved.reshape(shape)))
    summed = range(shared[0], sum(shared))
    cancelling, kept = walk.split(Field(tuple(combined(terms))), summed)
    walk.system.zero(cancelling, "a product over it")
    where = tuple(axis + walk.steps for axis in summed)
    return [Field(tuple(Term(term.coefficient, np.squeeze(term.labels, where)) for term in kept))]


def convolution(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Channels cancel as in a product, group by group; positions are not scaled unevenly."""
    if eqn.params["batch_group_count"] != 1:
        return walk.fixed(eqn, fields, "a convolution with batch groups")
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    kernel = shape_of(eqn.invars[1])
    batch, channels, whole = _by_axis(walk, fields[0], numbers.lhs_spec[:2])
    outputs, inputs, whole_kernel = _by_axis(walk, fields[1], numbers.rhs_spec[:2])
    passing = _through(walk, channels, inputs, groups, kernel[numbers.rhs_spec[1]])
    share = kernel[numbers.rhs_spec[0]] // groups
    spread = [Term(term.coefficient, np.repeat(term.labels, share, axis=-1)) for term in passing]
    ndim = len(shape_of(eqn.outvars[0]))
    placed = [_placed(term, ndim, numbers.out_spec[1]) for term in (*outputs, *spread, *whole, *whole_kernel)]
    placed += [_placed(term, ndim, numbers.out_spec[0]) for term in batch]
    return [Field(tuple(combined(placed)))]


def _by_axis(walk: Walk, field: Field, axes: Sequence[int]) -> tuple[list[Term], list[Term], list[Term]]:
    """Terms along either of two axes and along none, as labels [steps..., size]; all others have to vanish."""
    found: dict[frozenset[int], list[Term]] = {frozenset([axis]): [] for axis in axes} | {frozenset(): []}
    others = []
    for term in field.terms:
        along = frozenset(axis - walk.steps for axis in dependence(term.labels) if axis >= walk.steps)
        if along in found:
            flat = term.labels.reshape(*term.labels.shape[: walk.steps], -1)
            found[along].append(Term(term.coefficient, flat))
        else:
            others.append(term)
    walk.system.zero(others, "a convolution over it")
    first, second, neither = found.values()
    return first, second, neither


def _through(walk: Walk, channels: list[Term], inputs: list[Term], groups: int, size: int) -> list[Term]:
    """What every group of channels hands on, as labels [steps..., groups]; for one group nothing: it cancels."""
    if groups == 1:
        walk.system.zero([*channels, *inputs], "a convolution over it")
        return []
    if size == 1:
        return channels
    apart = [Term(c, labels.reshape(*labels.shape[:-1], groups, size)) for c, labels in channels]
    apart += [Term(c, labels[..., None, :]) for c, labels in inputs]
    if not apart:
        return []
    handed = walk.system.fresh(*np.broadcast_shapes((groups,), *(term.labels.shape[:-1] for term in apart)))
    walk.system.zero([*apart, Term(Fraction(-1), handed[..., None])], "a grouped convolution over it")
    return [Term(Fraction(1), handed)]


def _placed(term: Term, ndim: int, axis: int) -> Term:
    """Labels [steps..., size] as those of one axis of a value."""
    shape = [1] * ndim
    shape[axis] = term.labels.shape[-1]
    return Term(term.coefficient, term.labels.reshape(*term.labels.shape[:-1], *shape))


RULES: dict[str, Any] = {"dot_general": dot_general, "conv_general_dilated": convolution}
