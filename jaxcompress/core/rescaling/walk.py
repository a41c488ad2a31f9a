"""The walk over a trace that finds out how scaled parameters scale every value; the primitives stand in `rules`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.jaxprs import CALLS, walk_through
from jaxcompress.core.rescaling.fields import Field, System, Term


class Walk:
    """One analysis.

    Attributes:
        system: what was found out.
        steps: number of enclosing scans, whose steps are leading axes of all labels.
        clips: True if finite bounds of a clip are taken for infinite.
        gains: labels of parameters, or what was made of them alone, that data was multiplied by.
        met: ids of the fields that an equation met, calls aside.
    """

    def __init__(self, *, clips: bool = False) -> None:
        """Starts with an empty system."""
        self.system = System()
        self.steps = 0
        self.clips = clips
        self.gains: list[np.ndarray] = []
        self.met: set[int] = set()

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Field]) -> list[Field]:
        """The fields of the results of an open jaxpr."""
        return walk_through(jaxpr, consts, args, self.equation, constant)

    def equation(self, eqn: JaxprEqn, fields: Sequence[Field]) -> Sequence[Field]:
        """The fields of the results of one equation."""
        from jaxcompress.core.rescaling.rules import MOVES, RULES  # the rules name the walk in their signatures

        name = eqn.primitive.name
        if name not in CALLS and not any(field.terms for field in fields):
            consts = {field.const for field in fields} if name in MOVES and _keeps(eqn) else set()
            const = consts.copy().pop() if len(consts) == 1 else None
            return [Field(const=const, data=any(field.data for field in fields)) for _ in eqn.outvars]
        rule = RULES.get(name)
        with self.system.at(eqn):
            outs = self.fixed(eqn, fields, name) if rule is None else rule(self, eqn, fields)
        if name in CALLS:
            return outs
        self.met.update(id(field) for field in fields)
        data = any(field.data for field in fields)
        return [dataclasses.replace(out, data=data) for out in outs]

    def fixed(self, eqn: JaxprEqn, fields: Sequence[Field], reason: str) -> list[Field]:
        """Nothing that meets in the equation may be scaled."""
        for field in fields:
            self.system.zero(field.terms, reason)
        return [Field() for _ in eqn.outvars]

    def split(self, field: Field, axes: Sequence[int]) -> tuple[list[Term], list[Term]]:
        """The terms that depend on some axes of the value, and the others."""
        within = [axis + self.steps for axis in axes]
        touched = [any(term.labels.shape[axis] != 1 for axis in within) for term in field.terms]
        pairs = list(zip(field.terms, touched, strict=True))
        return [term for term, touches in pairs if touches], [term for term, touches in pairs if not touches]


def _keeps(eqn: JaxprEqn) -> bool:
    dtype = eqn.params.get("new_dtype")
    return dtype is None or jnp.issubdtype(dtype, jnp.floating)


def constant(value: Any) -> Field:
    """A value that depends on nothing; what all its entries equal is known."""
    dtype = getattr(value, "dtype", None)
    if not (isinstance(value, bool | int | float) or _is_real(dtype)):
        return Field()
    array = np.asarray(value)
    if array.size and (array.size == 1 or (array == array.flat[0]).all()):
        return Field(const=float(array.flat[0]))
    return Field()


def _is_real(dtype: Any) -> bool:
    """True of numbers and truth values; of the dtypes beside NumPy's own (bfloat16) too."""
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
