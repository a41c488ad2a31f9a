"""Lookups and updates at traced indices: axes taken whole may be cut, indexed ones may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import Kept, array_of, keep_of, value_of
from jaxcompress.core.shrink.propagate import Propagation, shape_out, shapes_in

INDEXED = "an axis that indices select from"


def gather(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes taken whole, and axes in step with the indices, keep what they kept."""
    operand, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], list(eqn.params["slice_sizes"])
    shape = shapes_in(eqn)[0]
    index_keep = list(keep_of(indices))
    run.whole(eqn, indices, [len(index_keep) - 1], "the axis of the index vectors")
    keep = list(keep_of(operand))
    for a, b in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        keep[a] = index_keep[b] = run.join(eqn, [keep[a], index_keep[b]], "a batch axis")
    windows = [a for a in range(len(shape)) if a not in _dropped(numbers.collapsed_slice_dims, numbers)]
    for axis, kept in enumerate(keep):
        if kept is None or axis in numbers.operand_batching_dims:
            continue
        if axis not in windows or sizes[axis] != shape[axis]:
            run.whole(eqn, operand, [axis], INDEXED)
        sizes[axis] = len(kept)
    steps = iter(index_keep[:-1])
    offsets = dict(zip(numbers.offset_dims, (keep[axis] for axis in windows), strict=True))
    out_keep = [offsets[axis] if axis in offsets else next(steps) for axis in range(len(shape_out(eqn)))]
    arrays = [array_of(run.fit(eqn, operand, keep)), array_of(run.fit(eqn, indices, index_keep))]
    out = eqn.primitive.bind(*arrays, **{**eqn.params, "slice_sizes": tuple(sizes)})
    return [value_of(out, out_keep)]


def scatter(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """As a gather, the other way round: updates are cut like the axes that they fill."""
    operand, indices, updates = values
    numbers = eqn.params["dimension_numbers"]
    shape, _, update_shape = shapes_in(eqn)
    keep, index_keep, update_keep = list(keep_of(operand)), list(keep_of(indices)), list(keep_of(updates))
    run.whole(eqn, indices, [len(index_keep) - 1], "the axis of the index vectors")
    windows = [a for a in range(len(shape)) if a not in _dropped(numbers.inserted_window_dims, numbers)]
    filled = dict(zip(windows, numbers.update_window_dims, strict=True))
    steps = [axis for axis in range(len(update_shape)) if axis not in numbers.update_window_dims]
    for axis in range(len(shape)):
        if axis in filled and update_shape[filled[axis]] == shape[axis]:
            keep[axis] = update_keep[filled[axis]] = run.join(eqn, [keep[axis], update_keep[filled[axis]]], "an axis")
        elif axis not in numbers.operand_batching_dims:
            run.whole(eqn, operand, [axis], INDEXED)
            run.whole(eqn, updates, [filled[axis]] if axis in filled else [], INDEXED)
    batches = dict(zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True))
    for position, step in enumerate(steps):
        held: list[Kept | None] = [index_keep[position], update_keep[step]]
        held += [keep[batches[position]]] if position in batches else []
        index_keep[position] = update_keep[step] = joined = run.join(eqn, held, "a batch axis")
        if position in batches:
            keep[batches[position]] = joined
    pairs = ((operand, keep), (indices, index_keep), (updates, update_keep))
    arrays = [array_of(run.fit(eqn, value, held)) for value, held in pairs]
    return [value_of(bind(eqn, arrays)[0], keep)]


def _dropped(gone: Sequence[int], numbers: Any) -> set[int]:
    return {*gone, *numbers.operand_batching_dims}


def dynamic_slice(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes taken whole keep what they kept."""
    operand, *starts = values
    sizes, shape = list(eqn.params["slice_sizes"]), shapes_in(eqn)[0]
    keep = keep_of(operand)
    for axis, kept in enumerate(keep):
        if kept is not None:
            if sizes[axis] != shape[axis]:
                run.whole(eqn, operand, [axis], INDEXED)
            sizes[axis] = len(kept)
    out = eqn.primitive.bind(array_of(operand), *starts, **{**eqn.params, "slice_sizes": tuple(sizes)})
    return [value_of(out, keep)]


def dynamic_update_slice(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes that the update fills are cut like it."""
    operand, update, *starts = values
    shape, filled = shapes_in(eqn)[:2]
    keep, update_keep = list(keep_of(operand)), list(keep_of(update))
    for axis in range(len(shape)):
        if shape[axis] == filled[axis]:
            keep[axis] = update_keep[axis] = run.join(eqn, [keep[axis], update_keep[axis]], f"axis {axis}")
        else:
            run.whole(eqn, operand, [axis], INDEXED)
            run.whole(eqn, update, [axis], INDEXED)
    arrays = [array_of(run.fit(eqn, operand, keep)), array_of(run.fit(eqn, update, update_keep))]
    return [value_of(bind(eqn, [*arrays, *starts])[0], keep)]


RULES = {
    "gather": gather,
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter_mul", "scatter_min", "scatter-min",
         "scatter_max", "scatter-max", "scatter_sub", "scatter-sub"),
        scatter,
    ),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}  # fmt: skip
