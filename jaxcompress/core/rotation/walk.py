"""The walk over a trace that finds out which axes are turned together; the primitives stand in `rules`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.jaxprs import CALLS, walk_through
from jaxcompress.core.rotation.values import Axis, Classes, Value, even, slice_of


class Walk:
    """One analysis.

    Attributes:
        classes: what was found out.
        scans: number of scans entered so far.
        met: ids of the values that an equation met, calls aside.
    """

    def __init__(self) -> None:
        """Starts with nothing known."""
        self.classes = Classes()
        self.scans = 0
        self.met: set[int] = set()

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """The results of an open jaxpr."""
        return walk_through(jaxpr, consts, args, self.equation, self.constant)

    def equation(self, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
        """The results of one equation."""
        from jaxcompress.core.rotation.rules import RULES  # the rules name the walk in their signatures

        name = eqn.primitive.name
        rule = RULES.get(name)
        with self.classes.at(eqn):
            outs = self.unknown(eqn, values, name) if rule is None else rule(self, eqn, values)
        if name in CALLS:
            return outs
        self.met.update(map(id, values))
        data = any(value.data for value in values)
        return [dataclasses.replace(out, data=data) for out in outs]

    def unknown(self, eqn: JaxprEqn, values: Sequence[Value], reason: str) -> list[Value]:
        """Nothing that meets in the equation is turned."""
        for value in values:
            self.fix(value.axes, reason)
        return [self.whole(shape_of(out), reason) for out in eqn.outvars]

    def whole(self, shape: Sequence[int], reason: str, const: float | None = None) -> Value:
        """A value that is not turned."""
        return Value(tuple(Axis() if size == 1 else self.still(reason) for size in shape), const)

    def still(self, reason: str) -> Axis:
        """An axis that is not turned."""
        node = self.classes.fresh()
        self.classes.fix(node, reason)
        return Axis(node)

    def fix(self, axes: Iterable[Axis], reason: str) -> None:
        """Says that axes are not turned."""
        for axis in axes:
            if axis.node is not None:
                self.classes.fix(axis.node, reason)

    def plain(self, axis: Axis) -> Axis:
        """A square along an axis that is not turned is a value like any other."""
        fixed = axis.square and axis.node is not None and self.classes.fixed(axis.node)
        return dataclasses.replace(axis, square=False) if fixed else axis

    def constant(self, value: Any) -> Value:
        """A value that depends on nothing; what all its entries equal is known."""
        shape = np.shape(value)
        dtype = getattr(value, "dtype", None)
        numbers = isinstance(value, bool | int | float) or (dtype is not None and not _is_odd(dtype))
        if numbers and np.size(value):
            array = np.asarray(value)
            if array.size == 1 or (array == array.flat[0]).all():
                return Value(even(len(shape)), float(array.flat[0]))
        return self.whole(shape, "a constant")

    def alike(self, values: Sequence[Value], axis: int, how: str) -> Axis:
        """One axis of what is a sum of values, or one of them: all are turned alike. Zeros are like anything."""
        counting = [value for value in values if value.const != 0]
        axes = [self.plain(value.axes[axis]) for value in counting]
        turned = [(a, value) for a, value in zip(axes, counting, strict=True) if a.node is not None]
        if not turned:
            return Axis()
        plain = [a for a, _ in turned if not a.square]
        if plain and len(plain) < len(turned):
            self.fix(axes, f"{how} with what is a product of two")
            return Axis(plain[0].node)
        first, owner = next(
            ((a, v) for a, v in turned if self.classes.nodes[a.node].kind == "gain"),  # type: ignore[index]
            next(((a, v) for a, v in turned if v.data), turned[0]),
        )
        assert first.node is not None  # of those that are turned
        for other, value in turned:
            if other is not first and other.node is not None:
                slices = slice_of(owner, axis), slice_of(value, axis)
                self.classes.join(first.node, other.node, how, slices)
        if first.square:
            for a, _ in turned:
                self.classes.spoil(a.node, how)  # type: ignore[arg-type]
        elif len(turned) < len(axes):
            self.classes.keep_ones(first.node, f"{how} with a number that is the same along the axis")
        return Axis(first.node, first.square)


def _is_odd(dtype: Any) -> bool:
    return not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
