"""Primitives that move entries without looking at them: every kept index is followed to where it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import Kept, array_of, keep_of, small_shape, take, value_of
from jaxcompress.core.shrink.propagate import Propagation, shape_out, shapes_in


def transpose(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes change places."""
    (value,) = values
    order = eqn.params["permutation"]
    return [value_of(lax.transpose(array_of(value), order), [keep_of(value)[axis] for axis in order])]


def squeeze(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes of size 1 go."""
    (value,) = values
    gone = eqn.params["dimensions"]
    run.whole(eqn, value, gone, "an axis of size 1")
    keep = [kept for axis, kept in enumerate(keep_of(value)) if axis not in gone]
    return [value_of(lax.squeeze(array_of(value), gone), keep)]


def expand_dims(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes of size 1 come."""
    (value,) = values
    held = iter(keep_of(value))
    keep = [None if axis in eqn.params["dimensions"] else next(held) for axis in range(len(shape_out(eqn)))]
    return [value_of(bind(eqn, [array_of(value)])[0], keep)]


def broadcast_in_dim(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes go where they are sent; new ones are whole."""
    value, shape = values[0], eqn.params["shape"]
    sent = eqn.params["broadcast_dimensions"]
    keep: list[Kept | None] = [None] * len(shape)
    for axis, (kept, to) in enumerate(zip(keep_of(value), sent, strict=True)):
        if shapes_in(eqn)[0][axis] != shape[to]:
            run.whole(eqn, value, [axis], "an axis that is repeated")
        keep[to] = kept
    small = small_shape(shape, keep)
    out = lax.broadcast_in_dim(array_of(value), small, sent)
    run.note_even(out, frozenset(range(len(shape))) - frozenset(sent))
    return [value_of(out, keep)]


def rev(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Index ``i`` goes to ``size - 1 - i``."""
    (value,) = values
    turned = eqn.params["dimensions"]
    keep = [_turned(kept) if kept is not None and axis in turned else kept for axis, kept in enumerate(keep_of(value))]
    return [value_of(lax.rev(array_of(value), turned), keep)]


def _turned(kept: Kept) -> Kept:
    positions = np.arange(len(kept))[::-1]
    return kept.moved(positions, kept.size - 1 - kept.indices[positions], kept.size)


def window(kept: Kept, start: int, limit: int, stride: int = 1) -> tuple[np.ndarray, Kept]:
    """A strided slice of a cut axis: local positions, and what the slice keeps of its own dense length."""
    inside = (kept.indices >= start) & (kept.indices < limit) & ((kept.indices - start) % stride == 0)
    positions = np.flatnonzero(inside)
    size = max(0, -(-(limit - start) // stride))
    return positions, kept.moved(positions, (kept.indices[positions] - start) // stride, size)


def slice_(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Kept indices inside the slice stay."""
    (value,) = values
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    array, keep = array_of(value), list(keep_of(value))
    for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        kept = keep[axis]
        if kept is not None:
            positions, keep[axis] = window(kept, start, limit, stride)
            array = take(array, axis, positions)
        elif (start, stride) != (0, 1) or limit != array.shape[axis]:
            array = lax.slice_in_dim(array, start, limit, stride, axis=axis)
    return [value_of(array, keep)]


def reshape(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes merge and split; what is kept must be a full grid of kept indices on every new axis."""
    value = values[0]
    if len(values) > 1 or eqn.params.get("dimensions") is not None:
        run.fail(eqn, "this form of it is not known", keep_of(value))
    before, after = shapes_in(eqn)[0], eqn.params["new_sizes"]
    held = keep_of(value)
    keep: list[Kept | None] = [None] * len(after)
    for sources, targets in factor_groups(before, after):
        if len(sources) == len(targets) == 1:
            keep[targets[0]] = held[sources[0]]
        elif any(held[axis] is not None for axis in sources):
            found = _regrouped(run, eqn, value, sources, [after[axis] for axis in targets])
            for axis, kept in zip(targets, found, strict=True):
                keep[axis] = kept
    small = small_shape(after, keep)
    return [value_of(lax.reshape(array_of(value), small), keep)]


def factor_groups(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products on both sides, axes of size 1 left out.

    Example:
        >>> factor_groups((2, 1, 12, 5), (2, 3, 4, 5))
        [([0], [0]), ([2], [1, 2]), ([3], [3])]
    """
    a = [axis for axis, size in enumerate(before) if size != 1]
    b = [axis for axis, size in enumerate(after) if size != 1]
    head: list[tuple[list[int], list[int]]] = []
    tail: list[tuple[list[int], list[int]]] = []
    while a and b and before[a[0]] == after[b[0]]:
        head.append(([a.pop(0)], [b.pop(0)]))
    while a and b and before[a[-1]] == after[b[-1]]:
        tail.insert(0, ([a.pop()], [b.pop()]))
    if not a and not b:
        return head + tail
    sizes = [before[axis] for axis in a] + [after[axis] for axis in b]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return [*head, (a, b), *tail]  # a batch size that is not known yet, or no entries at all
    while a or b:
        sources, targets = ([a.pop(0)] if a else []), ([b.pop(0)] if b else [])
        while (p := math.prod(before[i] for i in sources)) != (q := math.prod(after[i] for i in targets)):
            if p < q:
                sources.append(a.pop(0))
            else:
                targets.append(b.pop(0))
        head.append((sources, targets))
    return head + tail


def _regrouped(
    run: Propagation, eqn: JaxprEqn, value: Any, sources: Sequence[int], sizes: Sequence[Any]
) -> list[Kept | None]:
    """What the target axes keep, given what the source axes do."""
    held = [keep_of(value)[axis] for axis in sources]
    dense = [shapes_in(eqn)[0][axis] for axis in sources]
    if not all(isinstance(size, int) for size in (*dense, *sizes)):
        run.fail(eqn, "a cut axis merges with one whose size is not known", held)
    origin = next(kept.origin for kept in held if kept is not None)
    flat, firm = np.ones(1, np.bool_), np.ones(1, np.bool_)
    for size, kept in zip(dense, held, strict=True):
        whole = np.ones(size, np.bool_)
        flat = np.outer(flat, whole if kept is None else kept.mask()).reshape(-1)
        firm = np.outer(firm, whole if kept is None else kept.firm()).reshape(-1)
    grid, firm = flat.reshape(sizes), firm.reshape(sizes)
    if not grid.any():  # nothing is kept: the outermost axis says so
        return [Kept(sizes[0], np.zeros(0, np.int64), origin=origin), *(None,) * (len(sizes) - 1)]
    others = [tuple(other for other in range(grid.ndim) if other != axis) for axis in range(grid.ndim)]
    sides = [np.flatnonzero(grid.any(rest)) for rest in others]
    if math.prod(map(len, sides)) != int(grid.sum()):
        run.fail(eqn, f"what is kept of {tuple(dense)} is no grid in {tuple(sizes)}", held)
    return [
        Kept(size, side, ~np.asarray(firm.any(rest))[side], origin)
        for size, side, rest in zip(sizes, sides, others, strict=True)
    ]


RULES = {
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "broadcast_in_dim": broadcast_in_dim,
    "rev": rev,
    "slice": slice_,
    "reshape": reshape,
}
