"""The walk over a trace that labels every value; what a primitive does to labels stands in `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.groups.labels import Graph, Labelled, shape_of


class Walk:
    """One analysis.

    Attributes:
        graph: what was found out.
        trips: product of the lengths of the enclosing scans.
        strict: False if reductions over values that are not zero when masked are let through.
    """

    def __init__(self, *, strict: bool = True) -> None:
        """Starts with an empty graph."""
        self.graph = Graph()
        self.trips = 1
        self.strict = strict

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Labelled]) -> list[Labelled]:
        """Labels the values of an open jaxpr; returns its results."""
        env: dict[Any, Labelled] = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            values = [self.constant(v.val) if isinstance(v, Literal) else env[v] for v in eqn.invars]
            env.update(zip(eqn.outvars, self.equation(eqn, values), strict=True))
        return [self.constant(v.val) if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, values: Sequence[Labelled]) -> Sequence[Labelled]:
        """Labels the results of one equation."""
        from jaxcompress.core.groups.rules import ALWAYS, RULES  # the rules name the walk in their signatures

        name = eqn.primitive.name
        if name not in ALWAYS and not any(value.weight for value in values):
            return [self.graph.value(shape_of(out)) for out in eqn.outvars]  # computed whole, cut where it is used
        rule = RULES.get(name)
        return self.unknown(eqn, values, f"{name}: no rule") if rule is None else rule(self, eqn, values)

    def constant(self, value: Any) -> Labelled:
        """A value that depends on nothing."""
        const = float(value) if np.ndim(value) == 0 and _is_number(value) else None
        return self.graph.value(np.shape(value), const=const)

    def unknown(self, eqn: JaxprEqn, values: Sequence[Labelled], reason: str) -> list[Labelled]:
        """Everything that meets in the equation stays."""
        for value in values:
            for labels in value.labels:
                self.graph.pin(labels, reason, eqn)
        return [self.whole(eqn, shape_of(out), reason) for out in eqn.outvars]

    def whole(self, eqn: JaxprEqn | None, shape: Sequence[int], reason: str) -> Labelled:
        """A value of which no axis can shrink."""
        value = self.graph.value(shape, weight=True, zero=True)  # pinned: no slice of it is ever masked
        for labels in value.labels:
            self.graph.pin(labels, reason, eqn)
        return value

    def need_zero(self, labels: np.ndarray, zero: np.ndarray, what: str, eqn: JaxprEqn) -> None:
        """Pins the indices of a reduced axis whose masked entries would still count in the result."""
        if zero.all():
            return
        reason = f"{what} takes in values that are not zero when masked"
        if self.strict:
            self.graph.pin(labels[~zero], reason, eqn)
        else:
            self.graph.allow(labels[~zero], reason, eqn)


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, bool | int | float) or (dtype is not None and np.dtype(dtype).kind in "biuf")
