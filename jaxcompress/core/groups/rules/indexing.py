"""Lookups and updates by index: axes taken whole pass, indexed ones stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, shape_of
from jaxcompress.core.groups.walk import Walk

_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")


def gather(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes that every index takes whole keep their labels; so do the axes of the indices."""
    operand, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shape_of(eqn.outvars[0])
    labels: list[Any] = [None] * len(shape)
    zeros: list[Any] = [None] * len(shape)
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(sizes)) if axis not in dropped]
    for axis, to in zip(kept, numbers.offset_dims, strict=True):
        if sizes[axis] == len(operand.labels[axis]) and axis not in numbers.start_index_map:
            labels[to], zeros[to] = operand.labels[axis], operand.zeros[axis]
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is taken by index", eqn)
            part = walk.whole(eqn, (sizes[axis],), "a part taken by index")
            labels[to], zeros[to] = part.labels[0], part.zeros[0]
    for axis in {*numbers.start_index_map, *numbers.collapsed_slice_dims}:
        walk.graph.pin(operand.labels[axis], "looked up by index", eqn)
    _pin_components(walk, eqn, indices)
    for axis, other in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        walk.graph.tie(operand.labels[axis], indices.labels[other])
    batch = [to for to in range(len(shape)) if to not in numbers.offset_dims]
    for position, to in enumerate(batch):
        labels[to], zeros[to] = indices.labels[position], indices.zeros[position] & False
        if position in numbers.start_indices_batching_dims:
            axis = numbers.operand_batching_dims[numbers.start_indices_batching_dims.index(position)]
            zeros[to] = operand.zeros[axis]
    return [Labelled(tuple(labels), tuple(zeros), None, operand.weight or indices.weight)]


def scatter(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes that every update covers whole are tied; those written by index stay."""
    operand, indices, updates = values
    numbers = eqn.params["dimension_numbers"]
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    zeros = [zero & False for zero in operand.zeros]
    windows = [axis for axis in range(len(operand.labels)) if axis not in dropped]
    for axis, at in zip(windows, numbers.update_window_dims, strict=True):
        if len(operand.labels[axis]) == len(updates.labels[at]):
            walk.graph.tie(operand.labels[axis], updates.labels[at])
            zeros[axis] = operand.zeros[axis] & updates.zeros[at]
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is written by index", eqn)
            walk.graph.pin(updates.labels[at], "written by index", eqn)
    for axis in {*numbers.scatter_dims_to_operand_dims, *numbers.inserted_window_dims}:
        walk.graph.pin(operand.labels[axis], "written by index", eqn)
    for axis in numbers.operand_batching_dims:
        walk.graph.pin(operand.labels[axis], "written by index in step with others", eqn)
    for at in range(len(updates.labels)):
        if at not in numbers.update_window_dims:
            walk.graph.pin(updates.labels[at], "written by index", eqn)
    for labels in indices.labels:
        walk.graph.pin(labels, "indices of a scatter", eqn)
    return [Labelled(operand.labels, tuple(zeros), None, True)]


def dynamic_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes taken whole pass."""
    operand, labels, zeros = values[0], [], []
    for axis, size in enumerate(shape_of(eqn.outvars[0])):
        if size == len(operand.labels[axis]):
            labels.append(operand.labels[axis])
            zeros.append(operand.zeros[axis])
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is taken by index", eqn)
            part = walk.whole(eqn, (size,), "a part taken by index")
            labels.append(part.labels[0])
            zeros.append(part.zeros[0])
    return [Labelled(tuple(labels), tuple(zeros), operand.const, operand.weight)]


def dynamic_update_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes written whole are tied, the others stay."""
    operand, update = values[:2]
    zeros = []
    for axis, labels in enumerate(operand.labels):
        if len(labels) == len(update.labels[axis]):
            walk.graph.tie(labels, update.labels[axis])
            zeros.append(operand.zeros[axis] & update.zeros[axis])
        else:
            walk.graph.pin(labels, "a part of it is written by index", eqn)
            walk.graph.pin(update.labels[axis], "written by index", eqn)
            zeros.append(operand.zeros[axis])
    return [Labelled(operand.labels, tuple(zeros), None, operand.weight or update.weight)]


def _pin_components(walk: Walk, eqn: JaxprEqn, indices: Labelled) -> None:
    """The last axis of indices holds their components."""
    walk.graph.pin(indices.labels[-1], "components of an index", eqn)


RULES: dict[str, Any] = {
    "gather": gather,
    **dict.fromkeys(_SCATTERS, scatter),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
