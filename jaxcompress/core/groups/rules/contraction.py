"""Products and convolutions: contracted axes are tied, free axes pass, and the work is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, Product, shape_of
from jaxcompress.core.groups.walk import Walk


def dot_general(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Along a contracted axis a masked index adds nothing if either operand is zero there."""
    x, y = values
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    if not (x.weight or y.weight):
        walk.graph.products.append(Product(walk.trips, 1, (*x.labels, *_free(y, contract_y, batch_y))))
        return [walk.graph.value(shape_of(eqn.outvars[0]))]
    for i, j in zip(contract_x, contract_y, strict=True):
        walk.graph.tie(x.labels[i], y.labels[j])
        walk.need((x.masked[i] == 0) | (y.masked[j] == 0), x.labels[i], "a product")
    for i, j in zip(batch_x, batch_y, strict=True):
        walk.graph.tie(x.labels[i], y.labels[j])
    free_x = [i for i in range(len(x.labels)) if i not in (*contract_x, *batch_x)]
    free_y = [j for j in range(len(y.labels)) if j not in (*contract_y, *batch_y)]
    labels = (*(x.labels[i] for i in (*batch_x, *free_x)), *(y.labels[j] for j in free_y))
    zeros = (
        *((x.masked[i] == 0) | (y.masked[j] == 0) for i, j in zip(batch_x, batch_y, strict=True)),
        *(x.masked[i] == 0 for i in free_x),
        *(y.masked[j] == 0 for j in free_y),
    )
    walk.graph.products.append(Product(walk.trips, 1, (*labels, *(x.labels[i] for i in contract_x))))
    return [Labelled(labels, tuple(map(_where_zero, zeros)), None, x.weight or y.weight)]


def _free(value: Labelled, contract: Sequence[int], batch: Sequence[int]) -> tuple[np.ndarray, ...]:
    return tuple(labels for axis, labels in enumerate(value.labels) if axis not in (*contract, *batch))


def _where_zero(zero: np.ndarray) -> np.ndarray:
    return np.where(zero, 0.0, np.nan)


def convolution(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Channels as in a product, spatial axes stay."""
    x, kernel = values
    params, graph = eqn.params, walk.graph
    numbers, groups, shape = params["dimension_numbers"], params["feature_group_count"], shape_of(eqn.outvars[0])
    if params["batch_group_count"] != 1:
        return walk.unknown(eqn, values, "a convolution with batch groups")
    batch, channels = x.labels[numbers.lhs_spec[0]], x.labels[numbers.lhs_spec[1]]
    outputs, inputs = kernel.labels[numbers.rhs_spec[0]], kernel.labels[numbers.rhs_spec[1]]
    for axis in numbers.lhs_spec[2:]:
        graph.pin(x.labels[axis], "a spatial axis of a convolution")
    for axis in numbers.rhs_spec[2:]:
        graph.pin(kernel.labels[axis], "a spatial axis of a kernel")
    if groups == 1:
        graph.tie(channels, inputs)
        zero = (x.masked[numbers.lhs_spec[1]] == 0) | (kernel.masked[numbers.rhs_spec[1]] == 0)
        walk.need(zero, channels, "a convolution")
    else:
        _tie_groups(walk, eqn, x, kernel)
    labels: list[Any] = [None] * len(shape)
    masked: list[Any] = [None] * len(shape)
    to_batch, to_channels, *_ = numbers.out_spec
    labels[to_batch], masked[to_batch] = batch, _where_zero(x.masked[numbers.lhs_spec[0]] == 0)
    labels[to_channels], masked[to_channels] = outputs, _where_zero(kernel.masked[numbers.rhs_spec[0]] == 0)
    for axis in numbers.out_spec[2:]:
        spatial = walk.whole((shape[axis],), "a spatial axis of a convolution")
        labels[axis], masked[axis] = spatial.labels[0], spatial.masked[0]
    window = math.prod(len(kernel.labels[axis]) for axis in numbers.rhs_spec[2:])
    positions = math.prod(shape[axis] for axis in numbers.out_spec[2:])
    graph.products.append(Product(walk.trips, window * positions, (batch, outputs, inputs)))
    return [Labelled(tuple(labels), tuple(masked), None, x.weight or kernel.weight)]


def _tie_groups(walk: Walk, eqn: JaxprEqn, x: Labelled, kernel: Labelled) -> None:
    """Channels are (groups, inputs of a group), results (groups, outputs of a group): either factor may move."""
    numbers, graph, groups = eqn.params["dimension_numbers"], walk.graph, eqn.params["feature_group_count"]
    channels, zero = x.labels[numbers.lhs_spec[1]], x.masked[numbers.lhs_spec[1]] == 0
    outputs, inputs = kernel.labels[numbers.rhs_spec[0]], kernel.labels[numbers.rhs_spec[1]]
    every_group = zero.reshape(groups, -1).all(axis=0)
    walk.need((kernel.masked[numbers.rhs_spec[1]] == 0) | every_group, inputs, "a convolution")
    whole = graph.fresh(groups)
    for inner, merged in ((inputs, channels), (graph.fresh(len(outputs) // groups), outputs)):
        if len(inner) == 1:
            graph.pin(inner, "the only channel of each feature group")
            graph.tie(whole, merged)
        else:
            graph.reshape((whole, inner), merged, weight=True)


RULES: dict[str, Any] = {"dot_general": dot_general, "conv_general_dilated": convolution}
