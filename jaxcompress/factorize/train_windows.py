"""Convolutions whose kernel is a tensor train from the input features over the window to the output features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.solvers.contraction import contract


@dataclasses.dataclass(frozen=True)
class _Options:
    """What a convolution is, as one hashable argument.

    Attributes:
        parts: for each core, from the input to the output, its kernel axes (0: output, 1: input, then the window).
        backward: True if the cores themselves run from the output to the input.
        items: parameters of the convolution.
    """

    parts: tuple[tuple[int, ...], ...]
    backward: bool
    items: tuple[tuple[str, Any], ...]


def convolve(
    cores: Sequence[ArrayOrLeaf], axes: Sequence[tuple[int, ...]], x: jax.Array, params: dict[str, Any]
) -> jax.Array | None:
    """A product per pixel to the first rank, thin convolutions between ranks, and a product per pixel to the output.

    Args:
        cores: ``(rank,) + digits + (rank,)`` of a train without stack or padding.
        axes: for each of them the kernel axes of its digits.
        x: the data.
        params: of `jax.lax.conv_general_dilated`.

    Returns:
        None where the train does not go that way, or its way back, or where features are grouped.
    """
    numbers = params["dimension_numbers"].rhs_spec
    parts = [tuple(numbers.index(axis) for axis in own) for own in axes]
    backward = 0 in parts[0]
    if backward:
        cores, parts = cores[::-1], parts[::-1]
    grouped = params["feature_group_count"] != 1 or params["batch_group_count"] != 1
    if grouped or cores[0].shape[-1 if backward else 0] != 1 or not _goes_through(parts):
        return None
    fn: Any = _LIFTED if any(map(is_compressed, cores)) else _convolve
    return fn(tuple(cores), x, _Options(tuple(parts), backward, tuple(params.items())))


def _goes_through(parts: Sequence[tuple[int, ...]]) -> bool:
    """True if digits of the input come first, then the window, each axis whole, then digits of the output."""
    names: dict[tuple[int, ...], str] = {(0,): "o", (1,): "i"}
    kinds = "".join(names.get(part, "w" if min(part) > 1 else "?") for part in parts)
    window = [axis for part in parts for axis in part if axis > 1]
    inside = kinds.lstrip("i").rstrip("o")
    return kinds[0] == "i" and kinds[-1] == "o" and set(inside) == {"w"} and len(set(window)) == len(window)


def _convolve(cores: Sequence[jax.Array], x: jax.Array, options: _Options) -> jax.Array:
    """Features last in between: ``[batch, *spatial, rank]``."""
    params, parts = dict(options.items), options.parts
    numbers, precision = params["dimension_numbers"], params["precision"]
    batch, feature, *spatial = numbers.lhs_spec
    kept = tuple(range(len(spatial) + 1))
    digit = len(kept)  # the digit of core i has the number digit + i, the bond before it bond + i
    bond = digit + len(parts)
    inputs, outputs = ([i for i, part in enumerate(parts) if part == (side,)] for side in (1, 0))
    thin = [_thin(core, i, len(parts), options.backward) for i, core in enumerate(cores)]

    def names(i: int) -> tuple[int, ...]:
        before, after = (bond + i,) * (i > 0), (bond + i + 1,) * (i + 1 < len(parts))
        return (*after, digit + i, *before) if options.backward else (*before, digit + i, *after)

    def by_place(side: list[int]) -> list[int]:  # the most significant digit is that of the core written first
        return side[::-1] if options.backward else side

    x = lax.transpose(x, (batch, *spatial, feature))
    z = contract(
        [x.reshape(*x.shape[:-1], *(cores[i].shape[1] for i in by_place(inputs))), *(thin[i] for i in inputs)],
        [(*kept, *(digit + i for i in by_place(inputs))), *map(names, inputs)],
        (*kept, bond + len(inputs)),
        precision=precision,
    )
    for i in range(len(inputs), outputs[0]):
        z = _window(z, cores[i], parts[i], options.backward, params)
    y = contract(
        [z, *(thin[i] for i in outputs)],
        [(*kept, bond + outputs[0]), *map(names, outputs)],
        (*kept, *(digit + i for i in by_place(outputs))),
        precision=precision,
        preferred_element_type=params["preferred_element_type"],
    )
    y = y.reshape(*y.shape[: len(kept)], math.prod(y.shape[len(kept) :]))
    order = [0] * y.ndim
    for position, axis in enumerate((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])):
        order[axis] = position
    return lax.transpose(y, order)


def _thin(core: jax.Array, i: int, count: int, backward: bool) -> jax.Array:
    """A core without the axis of size 1 at an end of the train."""
    first, last = (i == count - 1, i == 0) if backward else (i == 0, i == count - 1)
    shape = core.shape[1:] if first else core.shape
    return core.reshape(shape[:-1] if last else shape)


def _window(z: jax.Array, core: jax.Array, part: tuple[int, ...], backward: bool, params: dict[str, Any]) -> jax.Array:
    """Slides one core along its axes: from the rank before it to the one after it."""
    n = z.ndim - 2
    axes = [axis - 2 for axis in part]
    places = sorted(range(len(axes)), key=lambda i: axes[i])
    kernel = core.transpose(*(1 + i for i in places), *((core.ndim - 1, 0) if backward else (0, core.ndim - 1)))
    sizes = dict(zip(sorted(axes), kernel.shape, strict=False))
    kernel = kernel.reshape(*(sizes.get(i, 1) for i in range(n)), *kernel.shape[-2:])

    def along(name: str, idle: Any) -> list[Any]:
        return [value if i in sizes else idle for i, value in enumerate(params[name])]

    channels_last = (0, n + 1, *range(1, n + 1))
    return lax.conv_general_dilated(
        z,
        kernel,
        along("window_strides", 1),
        along("padding", (0, 0)),
        along("lhs_dilation", 1),
        along("rhs_dilation", 1),
        dimension_numbers=lax.ConvDimensionNumbers(channels_last, (n + 1, n, *range(n)), channels_last),
        precision=params["precision"],
    )


_LIFTED = lift(_convolve)
