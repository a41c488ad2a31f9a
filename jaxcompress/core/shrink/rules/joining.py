"""Primitives that join, split and pad along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import Kept, array_of, keep_of, take, value_of
from jaxcompress.core.shrink.propagate import Propagation, shape_out, shapes_in
from jaxcompress.core.shrink.rules.structural import window


def concatenate(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Along the joined axis each part keeps its own; the others must agree."""
    axis = eqn.params["dimension"]
    ndim = len(shape_out(eqn))
    keep = [run.join(eqn, [keep_of(v)[i] for v in values], f"axis {i}") if i != axis else None for i in range(ndim)]
    parts = [run.fit(eqn, v, [keep_of(v)[axis] if i == axis else kept for i, kept in enumerate(keep)]) for v in values]
    sizes = [shape[axis] for shape in shapes_in(eqn)]
    keep[axis] = _joined([keep_of(part)[axis] for part in parts], sizes)
    return [value_of(lax.concatenate([array_of(part) for part in parts], axis), keep)]


def _joined(keeps: Sequence[Kept | None], sizes: Sequence[Any]) -> Kept | None:
    """What a join of axes keeps, one after another."""
    if all(kept is None for kept in keeps):
        return None
    indices, loose, start = [], [], 0
    for kept, size in zip(keeps, sizes, strict=True):
        indices.append(start + (np.arange(size) if kept is None else kept.indices))
        loose.append(np.ones(size, np.bool_) if kept is None else kept.loose)
        start += size
    origin = next(kept.origin for kept in keeps if kept is not None)
    return Kept(start, np.concatenate(indices), np.concatenate(loose), origin)


def split(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The inverse of a join."""
    (value,) = values
    axis, keep = eqn.params["axis"], keep_of(value)
    kept = keep[axis]
    if kept is None:
        return [value_of(out, keep) for out in bind(eqn, [array_of(value)])]
    parts, start = [], 0
    for size in map(int, eqn.params["sizes"]):
        positions, inside = window(kept, start, start + size)
        parts.append(value_of(take(array_of(value), axis, positions), [*keep[:axis], inside, *keep[axis + 1 :]]))
        start += size
    return parts


def stack(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Parts agree; the new axis is whole."""
    axis = eqn.params["axis"]
    keep = [run.join(eqn, list(kept), f"axis {i}") for i, kept in enumerate(zip(*map(keep_of, values), strict=True))]
    out = bind(eqn, [array_of(run.fit(eqn, value, keep)) for value in values])[0]
    return [value_of(out, [*keep[:axis], None, *keep[axis:]])]


def unstack(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The slices along a whole axis."""
    (value,) = values
    axis = eqn.params["axis"]
    run.whole(eqn, value, [axis], "the axis that is taken apart")
    keep = [kept for i, kept in enumerate(keep_of(value)) if i != axis]
    return [value_of(out, keep) for out in bind(eqn, [array_of(value)])]


def tile(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Every copy keeps the same."""
    (value,) = values
    repeats = eqn.params["reps"]
    keep = list(keep_of(value))
    keep = [None] * (len(repeats) - len(keep)) + keep
    for axis, (kept, count) in enumerate(zip(keep, repeats, strict=True)):
        if kept is not None and count != 1:
            keep[axis] = _joined([kept] * count, [kept.size] * count)
    return [value_of(bind(eqn, [array_of(value)])[0], keep)]


def pad(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Padding is whole, so it is cut to what it meets; negative padding takes entries off."""
    value, filler = values
    array, keep = array_of(value), list(keep_of(value))
    config = list(eqn.params["padding_config"])
    for axis, (low, high, inner) in enumerate(config):
        kept = keep[axis]
        if kept is None or (low, high, inner) == (0, 0, 0):
            continue
        if inner:
            run.fail(eqn, f"a cut axis {axis} is padded between its entries", [kept])
        positions, inside = window(kept, max(0, -low), kept.size - max(0, -high))
        array = take(array, axis, positions)
        low, high = max(low, 0), max(high, 0)
        config[axis] = (low, high, 0)
        keep[axis] = _joined([None, inside, None], [low, inside.size, high])
    return [value_of(lax.pad(array, array_of(filler), config), keep)]


RULES = {
    "concatenate": concatenate,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
    "pad": pad,
}
