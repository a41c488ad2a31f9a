"""Elementwise primitives: products add fields, sums want them equal, what is not homogeneous wants none."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.rescaling.fields import Field, Term, combined, raised, times
from jaxcompress.core.rescaling.walk import Walk


def same(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Homogeneous of degree 1: a positive factor passes."""
    return [Field(field.terms, None) for field in fields]


def sign(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Homogeneous of degree 0: a positive factor vanishes."""
    return [Field()]


def convert(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Floats stay floats up to rounding; a truth value asks for zero or not; integers are rounded."""
    dtype = eqn.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.floating):
        return same(walk, eqn, fields)
    return [Field()] if dtype == jnp.bool_ else walk.fixed(eqn, fields, "rounded to integers")


def product(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Factors multiply."""
    _note_gain(walk, fields)
    first, second = _aligned(walk, eqn, fields)
    return [Field(tuple(combined([*first, *second])))]


def quotient(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Factors divide."""
    _note_gain(walk, fields)
    first, second = _aligned(walk, eqn, fields)
    return [Field(tuple(combined([*first, *times(second, -1)])))]


def _note_gain(walk: Walk, fields: Sequence[Field]) -> None:
    """What depends on no input multiplies what does."""
    if fields[0].data != fields[1].data:
        walk.gains += [term.labels for term in fields[fields[0].data].terms]


def power(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """A fixed exponent multiplies the logarithm."""
    exponent = _EXPONENTS.get(eqn.primitive.name)
    if exponent is None:
        exponent = Fraction(eqn.params["y"]) if eqn.primitive.name == "integer_pow" else None
    if exponent is None:
        if fields[1].terms or fields[1].const is None:
            return walk.fixed(eqn, fields, "a power that is not fixed")
        exponent = Fraction(fields[1].const).limit_denominator(64)
        if float(exponent) != fields[1].const:
            return walk.fixed(eqn, fields, f"the power {fields[1].const}")
    return [Field(tuple(combined(times(fields[0].terms, exponent))))]


def addition(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Summands, or candidates for the larger one, are scaled alike; zeros and infinities are like anything."""
    return [_alike(walk, eqn, fields, fields, eqn.primitive.name)]


def extremum(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """As an addition; a finite bound fixes the scale, unless bounds are let through."""
    bounded = [field for field in fields if not (walk.clips and field.const is not None)]
    return [_alike(walk, eqn, fields, bounded, f"{eqn.primitive.name} with a bound" if _bound(fields) else "")]


def clamp(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """Finite bounds other than zero fix the scale, unless bounds are let through."""
    return extremum(walk, eqn, fields)


def comparison(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """What is scaled alike compares as before."""
    _alike(walk, eqn, fields, fields, "compared")
    return [Field()]


def select(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[Field]:
    """All cases are scaled alike."""
    walk.system.zero(fields[0].terms, "it selects")
    return [_alike(walk, eqn, fields[1:], fields[1:], "cases of a select")]


def _alike(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field], counting: Sequence[Field], reason: str) -> Field:
    """One field for all that is not neutral."""
    ndim = walk.steps + max(len(shape_of(v)) for v in eqn.invars)
    scaled = [raised(field.terms, ndim) for field in counting if not field.neutral]
    if not scaled:
        found = next((field for field in fields if not field.neutral), fields[0])
        return Field(raised(found.terms, ndim))
    first = min(scaled, key=len)
    for other in scaled:
        if other is not first:
            walk.system.equal(first, other, reason or eqn.primitive.name)
    return Field(first)


def _aligned(walk: Walk, eqn: JaxprEqn, fields: Sequence[Field]) -> list[tuple[Term, ...]]:
    ndim = walk.steps + max(len(shape_of(v)) for v in eqn.invars)
    return [raised(field.terms, ndim) for field in fields]


def _bound(fields: Sequence[Field]) -> bool:
    return any(field.const is not None and not field.neutral for field in fields)


_EXPONENTS = {"sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3), "square": Fraction(2)}
_SAME = """
abs copy copy_p layout_constraint name neg optimization_barrier pvary real reduce_precision reshard sharding_constraint
stop_gradient
"""
PASSING = tuple(_SAME.split())
RULES: dict[str, Any] = {
    **dict.fromkeys(PASSING, same),
    **dict.fromkeys(("sign", "is_finite"), sign),
    **dict.fromkeys(("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow"), power),
    **dict.fromkeys(("add", "add_any", "sub", "rem"), addition),
    **dict.fromkeys(("max", "min"), extremum),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), comparison),
    "convert_element_type": convert,
    "mul": product,
    "div": quotient,
    "clamp": clamp,
    "select_n": select,
}
