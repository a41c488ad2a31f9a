"""The walk over a trace that labels every value; what a primitive does to labels stands in `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Graph, Labelled, shape_of
from jaxcompress.core.jaxprs import CALLS, walk_through


class Walk:
    """One analysis.

    Attributes:
        graph: what was found out.
        trips: product of the lengths of the enclosing scans.
        met: identities of the values that an equation met, calls aside.
        strict: False if reductions over values that are not zero when masked are let through.
    """

    def __init__(self, *, strict: bool = True) -> None:
        """Starts with an empty graph."""
        self.graph = Graph()
        self.trips = 1
        self.met: set[int] = set()
        self.strict = strict

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Labelled]) -> list[Labelled]:
        """Labels the values of an open jaxpr; returns its results."""
        return walk_through(jaxpr, consts, args, self.equation, self.constant)

    def equation(self, eqn: JaxprEqn, values: Sequence[Labelled]) -> Sequence[Labelled]:
        """Labels the results of one equation."""
        from jaxcompress.core.groups.rules import ALWAYS, RULES  # the rules name the walk in their signatures

        name = eqn.primitive.name
        if name not in CALLS:
            self.met.update(map(id, values))
        if name not in ALWAYS and not any(value.weight for value in values):
            return [self.graph.value(shape_of(out)) for out in eqn.outvars]  # computed whole, cut where it is used
        rule = RULES.get(name)
        with self.graph.at(eqn):
            return self.unknown(eqn, values, f"{name}: no rule") if rule is None else rule(self, eqn, values)

    def constant(self, value: Any) -> Labelled:
        """A value that depends on nothing."""
        if not _is_number(value) or np.ndim(value) > 1:
            return self.graph.value(np.shape(value))
        if np.ndim(value) == 0:
            return self.graph.value((), const=float(value))
        return Labelled((self.graph.fresh(len(value)),), (np.asarray(value, np.float64),))

    def unknown(self, eqn: JaxprEqn, values: Sequence[Labelled], reason: str) -> list[Labelled]:
        """Everything that meets in the equation stays."""
        for value in values:
            for labels in value.labels:
                self.graph.pin(labels, reason)
        return [self.whole(shape_of(out), reason) for out in eqn.outvars]

    def whole(self, shape: Sequence[int], reason: str) -> Labelled:
        """A value of which no axis can shrink."""
        value = self.graph.value(shape, weight=True, masked=0.0)  # pinned: never masked
        for labels in value.labels:
            self.graph.pin(labels, reason)
        return value

    def need(self, harmless: np.ndarray, labels: np.ndarray, what: str) -> None:
        """Pins the indices of a reduced axis whose masked entries would still count in the result."""
        if harmless.all():
            return
        reason = f"{what} takes in values that masking does not make neutral"
        if self.strict:
            self.graph.pin(labels[~harmless], reason)
        else:
            self.graph.allow(labels[~harmless], reason)


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, bool | int | float) or (dtype is not None and np.dtype(dtype).kind in "biuf")
