"""Data movement that a view absorbs: transposes, reshapes, broadcasts, casts, joins and scalar factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter, bind
from jaxcompress.core.view import Concat, Value, View, is_lazy


def transpose(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A permutation of the view's axes."""
    permutation = tuple(eqn.params["permutation"])
    return [_transposed(values[0], permutation)]


def _transposed(value: Value, permutation: tuple[int, ...]) -> Value:
    if isinstance(value, View):
        return value.transpose(permutation)
    if isinstance(value, Concat):
        parts = tuple(_transposed(part, permutation) for part in value.parts)
        return Concat(parts, permutation.index(value.axis))  # type: ignore[arg-type]  # a part is never a join
    return lax.transpose(value, permutation)


def reshape(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """Axes split and merge symbolically where the sizes allow it."""
    view = values[0]
    if not isinstance(view, View) or eqn.params.get("dimensions") is not None or len(values) > 1:
        return None
    return _one(view.reshape(eqn.params["new_sizes"]))


def squeeze(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """Axes of size 1 leave the layout."""
    view = values[0]
    if not isinstance(view, View):
        return None
    gone = eqn.params["dimensions"]
    return [view.with_layout([atoms for axis, atoms in enumerate(view.layout) if axis not in gone])]


def broadcast_in_dim(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """New axes enter the layout; copies are not made."""
    view = values[0]
    if not isinstance(view, View) or len(values) > 1 or eqn.params.get("sharding") is not None:
        return None
    if 0 in eqn.params["shape"]:
        return None
    return [view.broadcast(eqn.params["shape"], tuple(eqn.params["broadcast_dimensions"]))]


def convert_element_type(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """Casts between float types; the kind decides whether it can stay compressed."""
    dtype = eqn.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    return _one(_cast(values[0], dtype))


def _cast(value: Value, dtype: Any) -> Value | None:
    if isinstance(value, View):
        return value.astype(dtype)
    if isinstance(value, Concat):
        parts = tuple(_cast(part, dtype) for part in value.parts)
        return None if any(part is None for part in parts) else Concat(parts, value.axis)  # type: ignore[arg-type]
    return value.astype(dtype)


def concatenate(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A join of views (and dense arrays) stays a join."""
    if any(isinstance(value, Concat) for value in values):
        return None
    return [Concat(tuple(values), eqn.params["dimension"])]  # type: ignore[arg-type]  # no join among them


def stack(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A stack is a join of views with one more axis."""
    axis = eqn.params["axis"]
    parts = []
    for value in values:
        if isinstance(value, Concat):
            return None
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        kept = tuple(i for i in range(len(shape)) if i != axis)
        dense = not isinstance(value, View)
        parts.append(lax.broadcast_in_dim(value, shape, kept) if dense else value.broadcast(shape, kept))
    return [Concat(tuple(parts), axis)]


def scalar_factor(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A product with, or division by, a scalar waits until after the contraction."""
    lhs, rhs = values
    view, other = (lhs, rhs) if isinstance(lhs, View) else (rhs, lhs)
    inverse = eqn.primitive.name == "div"
    if not isinstance(view, View) or is_lazy(other) or jnp.ndim(other) != 0 or (inverse and view is rhs):
        return None
    factor = jnp.asarray(other)
    return [view.times(1 / factor if inverse else factor)]


def neg(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A sign waits like a scalar factor."""
    view = values[0]
    return [view.times(jnp.asarray(-1, view.dtype))] if isinstance(view, View) else None


def on_fields(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """Primitives that change no values (``copy``, ``stop_gradient``, ``pvary``) act on every field."""
    if len(values) > 1:
        return None
    return [jax.tree.map(lambda field: bind(eqn, [field])[0], values[0])]


def barrier(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A barrier between the fields instead."""
    return list(lax.optimization_barrier(list(values)))


def sharding_constraint(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A constraint on a plain leaf becomes one on each of its fields, along the aligned axes."""
    view = values[0]
    sharding = eqn.params["sharding"]
    if not isinstance(view, View) or not isinstance(sharding, jax.sharding.NamedSharding):
        return None
    if view.leaf_axes() != tuple(range(view.ndim)):
        return None
    specs = view.leaf.partition_specs(sharding.spec)
    leaf = jax.tree.map(
        lambda field, spec: lax.with_sharding_constraint(field, jax.sharding.NamedSharding(sharding.mesh, spec)),
        view.leaf,
        specs,
    )
    return [dataclasses.replace(view, leaf=leaf)]


def _one(value: Value | None) -> list[Value] | None:
    return None if value is None else [value]


RULES: dict[str, Callable[[Interpreter, JaxprEqn, Sequence[Value]], list[Value] | None]] = {
    "transpose": transpose,
    "reshape": reshape,
    "squeeze": squeeze,
    "broadcast_in_dim": broadcast_in_dim,
    "convert_element_type": convert_element_type,
    "concatenate": concatenate,
    "stack": stack,
    "mul": scalar_factor,
    "div": scalar_factor,
    "neg": neg,
    "copy": on_fields,
    "copy_p": on_fields,
    "name": on_fields,
    "optimization_barrier": barrier,
    "stop_gradient": on_fields,
    "pvary": on_fields,
    "pcast": on_fields,
    "sharding_constraint": sharding_constraint,
}
