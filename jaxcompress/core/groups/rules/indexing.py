"""Lookups and updates by index: axes taken whole pass, indexed ones stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, agreed, shape_of
from jaxcompress.core.groups.walk import Walk

_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")


def gather(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes that every index takes whole keep their labels; so do the axes of the indices."""
    operand, indices = values
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = shape_of(eqn.outvars[0])
    labels: list[Any] = [None] * len(shape)
    masked: list[Any] = [None] * len(shape)
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(sizes)) if axis not in dropped]
    for axis, to in zip(kept, numbers.offset_dims, strict=True):
        if sizes[axis] == len(operand.labels[axis]) and axis not in numbers.start_index_map:
            labels[to], masked[to] = operand.labels[axis], operand.masked[axis]
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is taken by index")
            part = walk.whole((sizes[axis],), "a part taken by index")
            labels[to], masked[to] = part.labels[0], part.masked[0]
    for axis in {*numbers.start_index_map, *numbers.collapsed_slice_dims}:
        walk.graph.pin(operand.labels[axis], "looked up by index")
    walk.graph.pin(indices.labels[-1], "components of an index")
    for axis, other in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        walk.graph.tie(operand.labels[axis], indices.labels[other])
    batch = [to for to in range(len(shape)) if to not in numbers.offset_dims]
    for position, to in enumerate(batch):
        labels[to], masked[to] = indices.labels[position], np.full(shape[to], np.nan)
        if position in numbers.start_indices_batching_dims:
            axis = numbers.operand_batching_dims[numbers.start_indices_batching_dims.index(position)]
            masked[to] = operand.masked[axis]
    return [Labelled(tuple(labels), tuple(masked), None, operand.weight or indices.weight)]


def scatter(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes that every update covers whole are tied; those written by index stay."""
    operand, indices, updates = values
    numbers = eqn.params["dimension_numbers"]
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    masked = [np.full(size, np.nan) for size in operand.shape]
    windows = [axis for axis in range(len(operand.labels)) if axis not in dropped]
    for axis, at in zip(windows, numbers.update_window_dims, strict=True):
        if len(operand.labels[axis]) == len(updates.labels[at]):
            walk.graph.tie(operand.labels[axis], updates.labels[at])
            masked[axis] = np.where((operand.masked[axis] == 0) & (updates.masked[at] == 0), 0.0, np.nan)
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is written by index")
            walk.graph.pin(updates.labels[at], "written by index")
    for axis in {*numbers.scatter_dims_to_operand_dims, *numbers.inserted_window_dims}:
        walk.graph.pin(operand.labels[axis], "written by index")
    for axis in numbers.operand_batching_dims:
        walk.graph.pin(operand.labels[axis], "written by index in step with others")
    for at in range(len(updates.labels)):
        if at not in numbers.update_window_dims:
            walk.graph.pin(updates.labels[at], "written by index")
    for labels in indices.labels:
        walk.graph.pin(labels, "indices of a scatter")
    return [Labelled(operand.labels, tuple(masked), None, True)]


def dynamic_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes taken whole pass."""
    operand, labels, masked = values[0], [], []
    for axis, size in enumerate(shape_of(eqn.outvars[0])):
        if size == len(operand.labels[axis]):
            labels.append(operand.labels[axis])
            masked.append(operand.masked[axis])
        else:
            walk.graph.pin(operand.labels[axis], "a part of it is taken by index")
            part = walk.whole((size,), "a part taken by index")
            labels.append(part.labels[0])
            masked.append(part.masked[0])
    return [Labelled(tuple(labels), tuple(masked), operand.const, operand.weight)]


def dynamic_update_slice(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Axes written whole are tied, the others stay."""
    operand, update = values[:2]
    masked = []
    for axis, labels in enumerate(operand.labels):
        if len(labels) == len(update.labels[axis]):
            walk.graph.tie(labels, update.labels[axis])
            masked.append(agreed(operand.masked[axis], update.masked[axis]))
        else:
            walk.graph.pin(labels, "a part of it is written by index")
            walk.graph.pin(update.labels[axis], "written by index")
            masked.append(operand.masked[axis])
    return [Labelled(operand.labels, tuple(masked), None, operand.weight or update.weight)]


RULES: dict[str, Any] = {
    "gather": gather,
    **dict.fromkeys(_SCATTERS, scatter),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
