"""Products and convolutions: contracted axes are cut alike, free axes pass on what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import Keep, Kept, array_of, keep_of, small_shape, value_of
from jaxcompress.core.shrink.propagate import Propagation, shapes_in


def dot_general(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Contracted and batch axes that meet keep the same. A sum over an empty axis is zero."""
    ((l_sum, r_sum), (l_batch, r_batch)) = eqn.params["dimension_numbers"]
    return _product(run, eqn, values, (l_sum, r_sum), (l_batch, r_batch))


def ragged_dot(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A product in groups of rows: the axes that the groups cut are whole."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    ((l_sum, r_sum), (l_batch, r_batch)) = numbers.dot_dimension_numbers
    lhs, rhs, sizes = values
    run.whole(eqn, lhs, numbers.lhs_ragged_dimensions, "a ragged axis")
    run.whole(eqn, rhs, numbers.rhs_group_dimensions, "the axis of the groups")
    run.whole(eqn, sizes, range(np.ndim(array_of(sizes))), "the sizes of the groups")
    if set(numbers.lhs_ragged_dimensions) & {*l_sum, *l_batch}:
        run.fail(eqn, "a ragged axis that is contracted", [*keep_of(lhs), *keep_of(rhs)])
    gone = (*r_sum, *numbers.rhs_group_dimensions)
    return _product(run, eqn, values, (l_sum, r_sum), (l_batch, r_batch), gone)


def _product(
    run: Propagation, eqn: JaxprEqn, values: Sequence[Any], sums: Any, batches: Any, gone: Sequence[int] | None = None
) -> list[Any]:
    lhs, rhs, *more = values
    l_keep, r_keep = list(keep_of(lhs)), list(keep_of(rhs))
    for what, pairs in (("a contracted axis", sums), ("a batch axis", batches)):
        for a, b in zip(*pairs, strict=True):
            l_keep[a] = r_keep[b] = run.join(eqn, [l_keep[a], r_keep[b]], what)
    keep = [
        *(l_keep[axis] for axis in batches[0]),
        *(kept for axis, kept in enumerate(l_keep) if axis not in {*sums[0], *batches[0]}),
        *(kept for axis, kept in enumerate(r_keep) if axis not in {*(gone or sums[1]), *batches[1]}),
    ]
    operands = [array_of(run.fit(eqn, value, held)) for value, held in ((lhs, l_keep), (rhs, r_keep))]
    return [value_of(out, keep) for out in bind(eqn, [*operands, *map(array_of, more)])]


class Features(NamedTuple):
    """What the feature axes of a convolution keep, agreed between its operands."""

    lhs: Kept | None
    rhs_in: Kept | None
    out: Kept | None
    groups: int


def conv(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Features shrink; a grouped convolution loses whole groups, or the same features in each of them."""
    lhs, rhs = values
    params = eqn.params
    numbers = params["dimension_numbers"]
    run.whole(eqn, lhs, numbers.lhs_spec[2:], "a spatial axis")
    run.whole(eqn, rhs, numbers.rhs_spec[2:], "a spatial axis of the kernel")
    if params["batch_group_count"] != 1:
        run.fail(eqn, f"batch_group_count={params['batch_group_count']}", [*keep_of(lhs), *keep_of(rhs)])
    features = _features(run, eqn, lhs, rhs)
    batch = keep_of(lhs)[numbers.lhs_spec[0]]
    ndim = len(numbers.lhs_spec)
    lhs = run.fit(eqn, lhs, _placed(ndim, {numbers.lhs_spec[0]: batch, numbers.lhs_spec[1]: features.lhs}))
    rhs = run.fit(eqn, rhs, _placed(ndim, {numbers.rhs_spec[0]: features.out, numbers.rhs_spec[1]: features.rhs_in}))
    keep = _placed(ndim, {numbers.out_spec[0]: batch, numbers.out_spec[1]: features.out})
    aval: Any = eqn.outvars[0].aval
    small = small_shape(aval.shape, keep)
    x, kernel = array_of(lhs), array_of(rhs)
    if 0 in (x.shape[numbers.lhs_spec[1]], kernel.shape[numbers.rhs_spec[0]], kernel.shape[numbers.rhs_spec[1]]):
        return [value_of(jnp.zeros(small, aval.dtype), keep)]  # a sum of nothing
    out = eqn.primitive.bind(x, kernel, **{**params, "feature_group_count": features.groups})
    return [value_of(out, keep)]


def _placed(ndim: int, keeps: dict[int, Kept | None]) -> Keep:
    return tuple(keeps.get(axis) for axis in range(ndim))


def _features(run: Propagation, eqn: JaxprEqn, lhs: Any, rhs: Any) -> Features:
    params = eqn.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    given = keep_of(lhs)[numbers.lhs_spec[1]]
    inner, out = keep_of(rhs)[numbers.rhs_spec[1]], keep_of(rhs)[numbers.rhs_spec[0]]
    if groups == 1:
        joined = run.join(eqn, [given, inner], "the feature axis")
        return Features(joined, joined, out, 1)
    shapes = shapes_in(eqn)
    ins, outs = shapes[0][numbers.lhs_spec[1]], shapes[1][numbers.rhs_spec[0]]
    x_mask, x_firm = _in_groups(given, ins, groups)
    if not x_mask.any():
        return Features(given, inner, out, groups)  # no input is left: the outputs are zero, and no fewer for that
    out_mask, out_firm = _in_groups(out, outs, groups)
    if given is None and inner is not None:
        x_mask = np.broadcast_to(inner.mask(), x_mask.shape)
    kept_groups = np.asarray(x_mask.any(1) & out_mask.any(1))
    if ((x_firm | out_firm) & ~kept_groups).any():
        run.fail(eqn, f"its {groups} feature groups are dropped in one operand and kept in the other", [given, out])
    within = x_mask[kept_groups]
    counts = out_mask[kept_groups].sum(1)
    if (within != within[:1]).any() or (counts != counts[:1]).any():
        run.fail(eqn, f"each of its {groups} feature groups must be dropped whole or keep the same", [given, out])
    origin = next(kept.origin for kept in (given, inner, out) if kept is not None)
    same = within[0] if len(within) else np.zeros(x_mask.shape[1], np.bool_)
    if inner is not None and len(within) and (inner.mask() != same).any():
        run.fail(eqn, "the features of a group are cut unlike the kernel's", [given, inner])
    in_kept_groups = kept_groups.reshape(-1, 1)
    x_kept, out_kept = x_mask & in_kept_groups, out_mask & in_kept_groups
    small_in = inner if not len(within) or same.all() else Kept(len(same), np.flatnonzero(same), origin=origin)
    return Features(_kept(x_kept, origin), small_in, _kept(out_kept, origin), int(kept_groups.sum()))


def _in_groups(kept: Kept | None, size: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """What each group keeps, and whether it has an entry that may not be cut any more."""
    if kept is None:
        return np.ones((groups, size // groups), np.bool_), np.zeros(groups, np.bool_)
    return kept.mask().reshape(groups, -1), np.asarray(kept.firm().reshape(groups, -1).any(1))


def _kept(mask: np.ndarray, origin: str) -> Kept | None:
    return None if mask.all() else Kept(mask.size, np.flatnonzero(mask.reshape(-1)), origin=origin)


RULES = {"dot_general": dot_general, "ragged_dot_general": ragged_dot, "conv_general_dilated": conv}
