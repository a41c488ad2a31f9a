"""Slices and lookups: only the entries that are used leave the compressed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter
from jaxcompress.core.view import Value, View, dense_value


def slice_(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A static slice, one axis after another; the result stays compressed."""
    view = values[0]
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        if not isinstance(view, View):
            return None
        view = view.window(axis, start, max(0, -(-(limit - start) // stride)), stride)
    return None if view is None else [view]


def split(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A split is a row of static slices."""
    view, axis = values[0], eqn.params["axis"]
    if not isinstance(view, View):
        return None
    parts: list[Value] = []
    start = 0
    for size in map(int, eqn.params["sizes"]):
        part = view.window(axis, start, size)
        if part is None:
            return None
        parts.append(part)
        start += size
    return parts


def unstack(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """The slices along one axis, without that axis."""
    view, axis = values[0], eqn.params["axis"]
    if not isinstance(view, View):
        return None
    parts = [view.window(axis, i, 1) for i in range(view.shape[axis])]
    kept = [p.with_layout([atoms for i, atoms in enumerate(p.layout) if i != axis]) for p in parts if p is not None]
    return list(kept) if len(kept) == len(parts) else None


def dynamic_slice(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A slice at traced starts (clamped as XLA does); the result stays compressed."""
    view, *starts = values
    for axis, (start, size) in enumerate(zip(starts, eqn.params["slice_sizes"], strict=True)):
        if not isinstance(view, View):
            return None
        if size == view.shape[axis]:
            continue
        # Clamp on the dense axis: a coarser unit inside the leaf must not clamp differently.
        first = _wide(dense_value(start))
        clamped = lax.clamp(jnp.zeros_like(first), first, jnp.full_like(first, view.shape[axis] - size))
        view = view.window(axis, clamped, size)
    return None if view is None else [view]


def rev(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A reversal along whole leaf axes."""
    view = values[0]
    for axis in eqn.params["dimensions"]:
        if not isinstance(view, View):
            return None
        view = view if view.shape[axis] == 1 else view.indexed(axis, lambda f, ax: lax.rev(f, (ax,)), view.shape[axis])
    return None if view is None else [view]


def gather(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """A lookup along one axis (embedding rows, an expert's weights): only the rows taken are decoded."""
    view, indices = values[0], dense_value(values[1])
    axis = _taken_axis(eqn, view)
    if axis is None or not isinstance(view, View):
        return None
    numbers = eqn.params["dimension_numbers"]
    indices = indices[..., numbers.start_index_map.index(axis)]
    batch_shape = indices.shape
    size = view.shape[axis]
    flat = _wide(indices.reshape((math.prod(batch_shape),)))
    rows = view.indexed(axis, lambda f, ax: jnp.take(f, flat, axis=ax, mode="clip"), math.prod(batch_shape))
    rows = view.looked_up(axis, flat) if rows is None else rows
    if rows is None:
        return None
    use = run.record(
        eqn,
        view,
        served=True,
        reason=f"only the rows taken are decoded ({view.leaf.kind})",
        lookup=(view.layout[axis][0].axis,) if view.layout[axis] else (),
    )
    if run.listener is not None:
        run.listener.lookup(run, use, indices)
    order = [axis, *(i for i in range(view.ndim) if i != axis)]
    kept = [eqn.params["slice_sizes"][i] for i in range(view.ndim) if i not in numbers.collapsed_slice_dims]
    spread = rows.transpose(order).reshape((*batch_shape, *kept))
    if spread is None:
        return None
    slots = iter(range(len(batch_shape), spread.ndim)), iter(range(len(batch_shape)))
    offset = numbers.offset_dims
    taken = spread.transpose([next(slots[0] if i in offset else slots[1]) for i in range(spread.ndim)])
    if eqn.params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        return [_filled(eqn, dense_value(taken), (flat >= 0) & (flat < size), batch_shape)]
    # Whole matrices taken by index (the weights of an expert) go on to a contraction; rows are wanted as they are.
    return [taken if view.ndim > 2 else dense_value(taken)]


def _wide(index: jax.Array) -> jax.Array:
    """An index of a dtype that holds every size (300 does not fit uint8)."""
    return index.astype(jnp.int32) if jnp.result_type(index).itemsize < 4 else index


def _taken_axis(eqn: JaxprEqn, operand: Any) -> int | None:
    """The axis of a gather that takes whole slices along one axis, else ``None``."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    starts = numbers.start_index_map
    if len(starts) > 1 and eqn.params["mode"] != jax.lax.GatherScatterMode.FILL_OR_DROP:
        # A dynamic slice under vmap has a start for every axis; where the whole axis is taken it is clipped to 0.
        starts = [i for i in starts if sizes[i] != operand.shape[i]]
    if len(starts) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = starts
    full = all(sizes[i] == operand.shape[i] for i in range(operand.ndim) if i != axis)
    return axis if full and sizes[axis] == 1 and set(numbers.collapsed_slice_dims) <= {axis} else None


def _filled(eqn: JaxprEqn, taken: jax.Array, inside: jax.Array, batch_shape: tuple[int, ...]) -> jax.Array:
    """Fills what was out of bounds."""
    fill = eqn.params["fill_value"]
    axes = [i for i in range(taken.ndim) if i not in eqn.params["dimension_numbers"].offset_dims]
    keep = lax.broadcast_in_dim(inside.reshape(batch_shape), taken.shape, axes)
    return lax.select(keep, taken, jnp.full_like(taken, jnp.nan if fill is None else fill))


RULES = {
    "slice": slice_,
    "split": split,
    "unstack": unstack,
    "dynamic_slice": dynamic_slice,
    "rev": rev,
    "gather": gather,
}
