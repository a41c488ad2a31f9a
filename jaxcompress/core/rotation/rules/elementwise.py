"""Elementwise primitives: sums pass, a factor that is even passes, a gain makes a class of its own, others fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.rules.functions import FUNCTIONS
from jaxcompress.core.rotation.values import Axis, Leaf, Link, Node, Value, Vector, raised, vector_of
from jaxcompress.core.rotation.walk import Walk


def same(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """The value itself."""
    return list(values)


def negative(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A factor."""
    value = values[0]
    const = None if value.const is None else -value.const
    return [dataclasses.replace(value, const=const, leaf=_times(value.leaf, -1))]


def convert(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Floats stay floats up to rounding."""
    if jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return list(values)
    return nonlinear(walk, eqn, values)


def addition(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Summands are turned alike."""
    values = raised(values)
    sign = -1 if eqn.primitive.name == "sub" else 1
    a, b = values
    axes = [walk.alike(values, axis, eqn.primitive.name) for axis in range(len(a.axes))]
    leaf = None
    if b.const is not None and a.leaf is not None:
        leaf = _shifted(a, sign * b.const)
    elif a.const is not None and b.leaf is not None:
        leaf = _shifted(dataclasses.replace(b, leaf=_times(b.leaf, sign)), a.const)
    if leaf is not None:
        held = a if a.leaf is not None else b
        axes = [dataclasses.replace(axis, of=own.of) for axis, own in zip(axes, held.axes, strict=True)]
    return [Value(tuple(axes), leaf=leaf)]


def product(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Factors that are even pass; along an axis where both are turned alike a product is a square."""
    a, b = values = raised(values)
    axes = [_factors(walk, eqn, values, axis) for axis in range(len(a.axes))]
    const = a.const * b.const if a.const is not None and b.const is not None else None
    const = 0.0 if 0 in (a.const, b.const) else const
    if (a.leaf is None) == (b.leaf is None):
        return [Value(tuple(axes), const)]
    held, factor = (a, b) if a.leaf is not None else (b, a)
    leaf = _times(held.leaf, factor.const)
    named = [
        dataclasses.replace(axis, of=own.of if other.node is None else None)
        for axis, own, other in zip(axes, held.axes, factor.axes, strict=True)
    ]
    return [Value(tuple(named), const, leaf=leaf)]


def _factors(walk: Walk, eqn: JaxprEqn, values: Sequence[Value], axis: int) -> Axis:
    """One axis of a product of two."""
    classes = walk.classes
    a, b = (walk.plain(value.axes[axis]) for value in values)
    if a.node is None or b.node is None:
        return a if b.node is None else b
    vectors = [vector_of(value, axis) for value in values]
    if a.square or b.square:
        walk.fix((a, b), "multiplied by what is a product of two")
    elif classes.root(a.node) == classes.root(b.node):
        for node in (a.node, b.node):
            classes.spoil(node, "multiplied by its like")
        return Axis(a.node, square=True)
    elif (vectors[0] is None) != (vectors[1] is None):
        data, gain, vector = (b, a, vectors[0]) if vectors[0] is not None else (a, b, vectors[1])
        assert vector is not None  # one of them is not
        return _gained(walk, data, gain, vector)
    elif not (classes.fixed(a.node) and classes.fixed(b.node)):
        walk.fix((a, b), "two values multiplied entry by entry")
    return Axis(a.node)


def _gained(walk: Walk, data: Axis, gain: Axis, vector: Vector) -> Axis:
    """Data times a parameter: a class of its own, to be made one with that of the data if the gain can be folded."""
    classes = walk.classes
    assert data.node is not None  # the caller looked
    assert gain.node is not None
    if classes.fixed(data.node):
        walk.fix((gain,), "it multiplies, entry by entry, what is not turned")
        return Axis(data.node)
    classes.gains.setdefault(gain.node, classes.source)
    after = classes.fresh(Node("gain"))
    classes.links.append(Link(data.node, after, vector, classes.source))
    return Axis(after)


def quotient(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """What divides is even, or it fixes."""
    a, b = raised(values)
    axes = []
    for own, other in zip(a.axes, b.axes, strict=True):
        own = walk.plain(own)
        if other.node is not None:
            walk.fix((own, other), "a division by it")
            own = other if own.node is None else own
            axes.append(Axis(own.node))
        else:
            axes.append(own)
    factor = 1 / b.const if b.const else None
    return [Value(tuple(axes), 0.0 if a.const == 0 else None, leaf=_times(a.leaf, factor))]


def power(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A square is a product."""
    if eqn.primitive.name == "square" or eqn.params.get("y") == 2:
        return product(walk, eqn, (values[0], values[0]))
    return nonlinear(walk, eqn, values)


def select(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """One of several values, chosen evenly along what is turned."""
    which, *cases = values
    cases = raised(cases)
    ndim = len(cases[0].axes)
    axes = []
    for axis in range(ndim):
        chosen = which.axes[axis] if which.axes else Axis()
        if chosen.node is None:
            axes.append(walk.alike(cases, axis, "select"))
        else:
            walk.fix((chosen, *(case.axes[axis] for case in cases)), "a selection entry by entry")
            axes.append(Axis(chosen.node))
    return [Value(tuple(axes))]


def nonlinear(walk: Walk, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """An elementwise function fixes what is turned; what is even stays so."""
    values = raised(values)
    axes = []
    for together in zip(*(value.axes for value in values), strict=True):
        walk.fix(together, eqn.primitive.name)
        axes.append(next((Axis(axis.node) for axis in together if axis.node is not None), Axis()))
    return [Value(tuple(axes)) for _ in eqn.outvars]


def _times(leaf: Leaf | None, factor: float | None) -> Leaf | None:
    """A parameter times a number, or times what is not known."""
    if leaf is None:
        return None
    if factor is None:
        return dataclasses.replace(leaf, exact=False)
    return dataclasses.replace(leaf, scale=leaf.scale * factor, offset=leaf.offset * factor)


def _shifted(value: Value, number: float) -> Leaf | None:
    leaf = value.leaf
    if leaf is None or not leaf.exact:
        return leaf if number == 0 else None
    return dataclasses.replace(leaf, offset=leaf.offset + number)


_PASSING = "copy copy_p layout_constraint name optimization_barrier pvary reduce_precision reshard sharding_constraint"
RULES: dict[str, Any] = {
    **dict.fromkeys(FUNCTIONS, nonlinear),
    **dict.fromkeys((*_PASSING.split(), "stop_gradient"), same),
    **dict.fromkeys(("add", "add_any", "sub"), addition),
    **dict.fromkeys(("square", "integer_pow"), power),
    "neg": negative,
    "convert_element_type": convert,
    "mul": product,
    "div": quotient,
    "select_n": select,
}
