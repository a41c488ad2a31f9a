"""Reductions, windows, running sums, and what orders or transforms an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import array_of, keep_of, value_of
from jaxcompress.core.shrink.propagate import Propagation


def reduce(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Over a cut axis the kept entries are reduced: exact where the others change nothing (zeros in a sum)."""
    axes = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    count = len(eqn.outvars)
    operands = _alike(run, eqn, values[:count])
    keep = [kept for axis, kept in enumerate(keep_of(operands[0])) if axis not in axes]
    outs = bind(eqn, [*map(array_of, operands), *map(array_of, values[count:])])
    return [value_of(out, keep) for out in outs]


def locate(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The index of an extreme would be that of the small axis."""
    run.whole(eqn, values[0], eqn.params["axes"], "an axis whose indices are asked for")
    return reduce(run, eqn, values)


def cumulative(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Runs along a whole axis."""
    (value,) = values
    run.whole(eqn, value, [eqn.params["axis"]], "the axis that it runs along")
    return [value_of(bind(eqn, [array_of(value)])[0], keep_of(value))]


def sort(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Orders a whole axis."""
    for value in values:
        run.whole(eqn, value, [eqn.params["dimension"]], "the axis that it orders")
    operands = _alike(run, eqn, values)
    outs = bind(eqn, [array_of(operand) for operand in operands])
    return [value_of(out, keep_of(operands[0])) for out in outs]


def top_k(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Chooses from a whole axis."""
    (value,) = values
    axis = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1))
    run.whole(eqn, value, [axis], "the axis that it chooses from")
    return [value_of(out, keep_of(value)) for out in bind(eqn, [array_of(value)])]


def fft(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Transforms whole axes, the last ones."""
    (value,) = values
    keep = keep_of(value)
    run.whole(eqn, value, range(len(keep) - len(eqn.params["fft_lengths"]), len(keep)), "an axis that it transforms")
    return [value_of(bind(eqn, [array_of(value)])[0], keep)]


def windows(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Pooling: a cut axis may have no window."""
    count = len(values) // 2 if eqn.primitive.name == "reduce_window" else len(values)
    operands = _alike(run, eqn, values[:count])
    keep = keep_of(operands[0])
    run.whole(eqn, operands[0], windowed_axes(eqn, len(keep)), "an axis that windows slide along")
    outs = bind(eqn, [*map(array_of, operands), *map(array_of, values[count:])])
    return [value_of(out, keep) for out in outs]


def scatter_windows(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The derivative of max pooling: sources and operand are cut alike."""
    source, operand = values[:2]
    ndim = len(keep_of(operand))
    keep = [
        run.join(eqn, [keep_of(source)[axis], keep_of(operand)[axis]], f"axis {axis}") if axis not in axes else None
        for axes in [windowed_axes(eqn, ndim)]
        for axis in range(ndim)
    ]
    arrays = [array_of(run.fit(eqn, value, keep)) for value in (source, operand)]
    return [value_of(out, keep) for out in bind(eqn, [*arrays, *map(array_of, values[2:])])]


def windowed_axes(eqn: JaxprEqn, ndim: int) -> list[int]:
    """Axes along which windows of several entries slide, or that are padded or dilated."""
    params = eqn.params
    ones = (1,) * ndim
    columns = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params.get("base_dilation") or ones,
        strict=True,
    )
    return [axis for axis, (size, stride, pads, base) in enumerate(columns)
            if (size, stride, *pads, base) != (1, 1, 0, 0, 1)]  # fmt: skip


def _alike(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    keeps = zip(*map(keep_of, values), strict=True)
    keep = [run.join(eqn, kept, f"axis {axis}") for axis, kept in enumerate(keeps)]
    return [run.fit(eqn, value, keep) for value in values]


RULES = {
    **dict.fromkeys(
        ("reduce", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "reduce_xor"),
        reduce,
    ),
    **dict.fromkeys(("argmax", "argmin"), locate),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), cumulative),
    "sort": sort,
    "top_k": top_k,
    "approx_top_k": top_k,
    "fft": fft,
    **dict.fromkeys(
        ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"),
        windows,
    ),
    "select_and_scatter_add": scatter_windows,
}
