"""Descent on the output error over a grid: weights, scales and levels move one at a time, each to its best place.

What a sweep of `jaxcompress.solvers.obs` leaves behind is not a local optimum: a feature that was settled early never
heard of what later ones did. Here the error ``tr((w - v)^T S (w - v))`` falls with every step: a weight goes to the
grid point nearest to where the error has its minimum along that weight, and a scale, or a level of a table, goes to the
least-squares optimum while all codes stay. All outputs move side by side; nothing but sums of squares couples them.

References:
    Behdin et al., 2023, QuantEase, algorithm 2. https://arxiv.org/abs/2309.01885
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

Rounding: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""``(values [outputs], index of the feature) -> values on a grid``; padding has the index of the last feature."""


def damped_moment(second_moment: jax.Array, damping: ArrayLike) -> jax.Array:
    """The second moment in units of its mean diagonal, with ``damping`` added to the diagonal (1 where all is zero).

    Example:
        >>> damped_moment(jnp.array([[2.0, 1.0], [1.0, 2.0]]), 0.5).tolist()
        [[1.5, 0.5], [0.5, 1.5]]
    """
    dtype = second_moment.dtype
    diagonal = jnp.diag(second_moment)
    mean = jnp.mean(diagonal)
    extra = jnp.maximum(jnp.asarray(damping, dtype), jnp.asarray(1e-6, dtype))  # features without data stay
    return second_moment / jnp.where(mean > 0, mean, jnp.ones((), dtype)) + extra * jnp.eye(len(diagonal), dtype=dtype)


def output_error(w: jax.Array, v: jax.Array, moment: jax.Array) -> jax.Array:
    """``(w - v)^T S (w - v)`` of every output, ``[outputs]``.

    Example:
        >>> output_error(jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1)), jnp.array([[1.0, 0.5], [0.5, 1.0]])).tolist()
        [7.0]
    """
    return jnp.sum((w - v) * _product(moment, w - v), axis=0)


def descend_weights(
    w: jax.Array,
    v: jax.Array,
    moment: jax.Array,
    rounding: Rounding,
    *,
    support: jax.Array | None = None,
    passes: ArrayLike = 1,
    block_size: int = 128,
) -> jax.Array:
    """Moves the weights on a grid, feature after feature, each to the grid point where the output error is least.

    Args:
        w: the weight to come close to, ``[features, outputs]``.
        v: where to start, on the grid.
        moment: positive definite, ``[features, features]`` (`damped_moment`).
        rounding: brings values to their nearest grid point.
        support: bool, of the shape of ``w``: where False, values stay as they are.
        passes: how often to go through all features; may be traced.
        block_size: features whose steps are applied to the others together, static.

    Returns:
        Values on the grid whose output error is no larger, up to rounding.

    Example:
        >>> w, s = jnp.array([[0.6], [0.6]]), jnp.array([[1.0, 0.99], [0.99, 1.0]])  # inputs that are almost the same
        >>> descend_weights(w, jnp.zeros((2, 1)), s, lambda x, i: jnp.round(x)).tolist()
        [[1.0], [0.0]]
    """
    features, block = w.shape[0], min(block_size, w.shape[0])
    padding = -features % block
    allowed = jnp.ones(w.shape, bool) if support is None else support
    allowed = jnp.pad(allowed, ((0, padding), (0, 0)))
    padded = jnp.pad(moment, (0, padding)) + jnp.diag(jnp.arange(features + padding) >= features).astype(moment.dtype)
    rows = lambda array: jnp.pad(array, ((0, padding), (0, 0)))  # noqa: E731

    def settle_block(b: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        values, gradient = state
        first = b * block
        own = lax.dynamic_slice(padded, (first, first), (block, block))
        before = lax.dynamic_slice_in_dim(values, first, block)
        free = lax.dynamic_slice_in_dim(allowed, first, block)

        def settle_one(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            values, gradient, step, along = state  # the step of the feature before comes first, as in `obs_sweep`
            value = lax.dynamic_index_in_dim(values, i, keepdims=False)
            slope = lax.dynamic_index_in_dim(gradient, i, keepdims=False)
            slope = slope - lax.dynamic_index_in_dim(along, i, keepdims=False) * step
            gradient = gradient - along[:, None] * step[None]
            along = lax.dynamic_index_in_dim(own, i, keepdims=False)
            best = rounding(value + slope / along[i], jnp.minimum(first + i, features - 1)).astype(value.dtype)
            best = jnp.where(lax.dynamic_index_in_dim(free, i, keepdims=False), best, value)
            return lax.dynamic_update_index_in_dim(values, best, i, 0), gradient, best - value, along

        inside = lax.dynamic_slice_in_dim(gradient, first, block)
        start = (before, inside, jnp.zeros_like(before[0]), jnp.zeros_like(before[:, 0]))
        after = lax.fori_loop(0, block, settle_one, start)[0]
        columns = lax.dynamic_slice_in_dim(padded, first, block, 1)
        gradient = gradient - _product(columns, after - before)
        return lax.dynamic_update_slice_in_dim(values, after, first, 0), gradient

    def once(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return lax.fori_loop(0, (features + padding) // block, settle_block, state)

    start = (rows(v), rows(_product(moment, w - v)))
    return lax.fori_loop(0, passes, once, start)[0][:features]


def best_gains(w: jax.Array, v: jax.Array, moment: jax.Array, *, groups: int = 1, shared: bool = False) -> jax.Array:
    """Factors of the groups of features that make the output error least, one group after the other.

    Args:
        w: the weight to come close to, ``[features, outputs]``.
        v: values, which a factor per group and output scales.
        moment: as for `descend_weights`.
        groups: runs of neighbouring features of equal length, static.
        shared: one factor for all outputs.

    Returns:
        ``[groups, outputs]``, ``[groups, 1]`` if shared; 1 where the best factor is not between a quarter and 4.

    Example:
        >>> best_gains(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]]), jnp.eye(2)).tolist()
        [[2.0]]
    """
    size = w.shape[0] // groups
    add = (lambda x: jnp.sum(x, keepdims=True)) if shared else (lambda x: jnp.sum(x, axis=0, keepdims=True))

    def settle(g: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gains, gradient = state
        part = lax.dynamic_slice_in_dim(v, g * size, size)
        columns = lax.dynamic_slice_in_dim(moment, g * size, size, 1)
        moved = _product(columns, part)
        curvature = add(part * lax.dynamic_slice_in_dim(moved, g * size, size))
        step = add(part * lax.dynamic_slice_in_dim(gradient, g * size, size))
        gain = 1 + step / jnp.where(curvature > 0, curvature, jnp.ones_like(curvature))
        gain = jnp.where((curvature > 0) & (gain > 0.25) & (gain < 4), gain, jnp.ones_like(gain))
        return lax.dynamic_update_slice_in_dim(gains, gain, g, 0), gradient - moved * (gain - 1)

    start = jnp.ones((groups, 1 if shared else w.shape[1]), w.dtype)
    return lax.fori_loop(0, groups, settle, (start, _product(moment, w - v)))[0]


def best_levels(
    w: jax.Array, codes: jax.Array, table: jax.Array, moment: jax.Array, *, support: jax.Array | None = None
) -> jax.Array:
    """Moves the levels of tables, one after the other, each to where the output error is least while all codes stay.

    Levels that are zero stay, and those that no weight has.

    Args:
        w: the weight to come close to, ``[features, outputs]``.
        codes: which level a weight has, of the same shape.
        table: ``[groups, outputs, levels]``, for runs of neighbouring features of equal length.
        moment: as for `descend_weights`.
        support: bool, of the shape of ``w``: where False, values are zero whatever the code.

    Returns:
        Tables in ascending order: codes are to be found anew.

    Example:
        >>> w, codes = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([[0], [0], [1]])
        >>> best_levels(w, codes, jnp.array([[[-1.0, 4.0]]]), jnp.eye(3)).tolist()
        [[[0.5, 5.0]]]
    """
    groups, outputs, levels = table.shape
    size = w.shape[0] // groups
    allowed = jnp.ones(w.shape, bool) if support is None else support
    own = jnp.repeat(table, size, axis=0)
    values = jnp.take_along_axis(own, codes[..., None].astype(jnp.int32), axis=2)[..., 0]
    values = jnp.where(allowed, values, jnp.zeros_like(values))

    def settle(index: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        table, gradient = state
        g, level = index // levels, index % levels
        at = g * size
        inside = lambda array: lax.dynamic_slice_in_dim(array, at, size)  # noqa: E731
        members = ((inside(codes).astype(jnp.int32) == level) & inside(allowed)).astype(w.dtype)
        moved = _product(lax.dynamic_slice_in_dim(moment, at, size, 1), members)
        curvature = jnp.sum(members * inside(moved), axis=0)
        step = jnp.sum(members * inside(gradient), axis=0) / jnp.where(curvature > 0, curvature, 1)
        at_level = (g, jnp.zeros_like(g), level)
        before = lax.dynamic_slice(table, at_level, (1, outputs, 1))
        step = jnp.where((curvature > 0) & (before[0, :, 0] != 0), step, jnp.zeros_like(step))
        table = lax.dynamic_update_slice(table, before + step[None, :, None], at_level)
        return table, gradient - moved * step[None]

    return jnp.sort(lax.fori_loop(0, groups * levels, settle, (table, _product(moment, w - values)))[0], axis=-1)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
