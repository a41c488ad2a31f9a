"""Calls and control flow: bodies are walked with the fields of what enters them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.jaxprs import CALLS, called, closed
from jaxcompress.core.rescaling.fields import Field, Term, dependence
from jaxcompress.core.rescaling.walk import Walk


def call(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Walks the body in place."""
    return walk.run(*called(eqn), fields)


def scan(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """The axis that is scanned becomes one of the steps; carries may be scaled step by step where something is."""
    params, at = eqn.params, walk.steps
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    inner, consts = closed(params["jaxpr"])

    def inside(field: Field) -> Field:
        terms = tuple(Term(c, np.expand_dims(labels, at)) for c, labels in field.terms)
        return Field(terms, field.const, field.data)

    fixed, start = list(map(inside, fields[:n_consts])), list(map(inside, fields[n_consts : n_consts + n_carry]))
    slices = list(fields[n_consts + n_carry :])

    def body(state: Sequence[Field]) -> list[Field]:
        walk.steps += 1
        outs = walk.run(inner, consts, [*fixed, *state, *slices])
        walk.steps -= 1
        return outs

    shapes = [shape_of(v) for v in eqn.invars[n_consts : n_consts + n_carry]]
    carry = _Carry(walk, start, shapes, at, params["length"], reverse=params["reverse"])
    outs = carry.settle(body)
    return [*carry.result(), *(Field(out.terms) for out in outs[n_carry:])]


def while_(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Carries are scaled alike in every step; the condition is walked too."""
    params = eqn.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts, start = fields[:n_test], fields[n_test : n_test + n_body], fields[n_test + n_body :]
    test, test_inner = closed(params["cond_jaxpr"])
    body, body_inner = closed(params["body_jaxpr"])

    def step(state: Sequence[Field]) -> list[Field]:
        walk.fixed(eqn, walk.run(test, test_inner, [*test_consts, *state]), "the condition of a loop")
        return walk.run(body, body_inner, [*body_consts, *state])

    shapes = [shape_of(v) for v in eqn.invars[n_test + n_body :]]
    carry = _Carry(walk, start, shapes)
    carry.settle(step)
    return carry.result()


def cond(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Results of the branches are scaled alike."""
    walk.system.zero(fields[0].terms, "it chooses a branch")
    found = [walk.run(*_open(branch), fields[1:]) for branch in eqn.params["branches"]]
    return [_alike(walk, outs) for outs in zip(*found, strict=True)]


def _open(branch: Any) -> tuple[Any, Sequence[Any]]:
    return closed(branch)


def _alike(walk: Walk, outs: Sequence[Field]) -> Field:
    counting = [out for out in outs if not out.neutral]
    for other in counting[1:]:
        walk.system.equal(counting[0].terms, other.terms, "results of branches")
    return Field(counting[0].terms if counting else (), outs[0].const if not counting else None)


class _Carry:
    """Unknown fields of what a loop carries, found by running the body until they have all the axes they need.

    In a scan an unknown that depends on the step has one entry more than there are steps: before and after each.
    """

    def __init__(
        self,
        walk: Walk,
        start: Sequence[Field],
        shapes: Sequence[tuple[int, ...]],
        step: int | None = None,
        length: int = 0,
        *,
        reverse: bool = False,
    ) -> None:
        self._walk, self._start, self._shapes = walk, start, shapes
        self._step, self._length, self._reverse = step, length, reverse
        self._unknown: list[list[np.ndarray]] = []

    def settle(self, body: Callable[[Sequence[Field]], list[Field]]) -> list[Field]:
        """Walks the body and ties what it returns to what it was given; all its results."""
        mark = self._walk.system.mark()
        needed = [_largest(map(dependence, _labels(field))) for field in self._start]
        outer = [tuple(labels.shape) for field in self._start for labels in _labels(field)]
        while True:
            self._unknown = [self._fresh(i, axes, outer) for i, axes in enumerate(needed)]
            outs = body([_field(self._part(labels, 0) for labels in unknown) for unknown in self._unknown])
            grown = [_largest([*axes, *map(dependence, _labels(out))]) for axes, out in zip(needed, outs, strict=False)]
            if grown == needed:
                break
            outer += [tuple(labels.shape) for out in outs for labels in _labels(out)]
            self._walk.system.rollback(mark)
            needed = grown
        for start, unknown, out in zip(self._start, self._unknown, outs, strict=False):
            if not start.neutral:
                first = _field(self._end(labels, 0) for labels in unknown)
                self._walk.system.equal(start.terms, first.terms, "where a loop starts")
            after = _field(self._part(labels, 1) for labels in unknown)
            self._walk.system.equal(out.terms, after.terms, "carried by a loop")
        return outs

    def result(self) -> list[Field]:
        """What the loop ends with."""
        ends = [_field(self._end(labels, -1) for labels in unknown) for unknown in self._unknown]
        if self._step is None:
            return ends
        return [Field(tuple(Term(c, np.squeeze(labels, self._step)) for c, labels in end.terms)) for end in ends]

    def _fresh(self, index: int, needed: list[frozenset[int]], seen: list[tuple[int, ...]]) -> list[np.ndarray]:
        steps = self._walk.steps + (self._step is not None)
        sizes = [max((shape[axis] for shape in seen if axis < len(shape)), default=1) for axis in range(steps)]
        if self._step is not None:
            sizes[self._step] = self._length + 1
        sizes += self._shapes[index]
        return [
            self._walk.system.fresh(*(size if axis in axes else 1 for axis, size in enumerate(sizes)))
            for axes in needed
        ]

    def _part(self, labels: np.ndarray, after: int) -> np.ndarray:
        """Labels before (0) or after (1) every step."""
        if self._step is None or labels.shape[self._step] == 1:
            return labels
        later = after != self._reverse
        return labels.take(range(1, self._length + 1) if later else range(self._length), self._step)

    def _end(self, labels: np.ndarray, end: int) -> np.ndarray:
        """Labels before the first (0) or after the last step (-1)."""
        if self._step is None or labels.shape[self._step] == 1:
            return labels
        last = (end == -1) != self._reverse
        return labels.take([self._length if last else 0], self._step)


def _labels(field: Field) -> list[np.ndarray]:
    return [term.labels for term in field.terms]


def _field(labels: Any) -> Field:
    return Field(tuple(Term(Fraction(1), array) for array in labels), data=True)


def _largest(axes: Any) -> list[frozenset[int]]:
    found = sorted(set(axes), key=lambda part: (-len(part), sorted(part)))
    return [part for i, part in enumerate(found) if not any(part <= other for other in found[:i])]


RULES: dict[str, Any] = {
    **dict.fromkeys(CALLS, call),
    "scan": scan,
    "while": while_,
    "cond": cond,
}
