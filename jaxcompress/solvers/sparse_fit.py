"""Sparse least squares from second moments: few weights that do on the observed data what a dense column did.

All methods here minimise, for every column of ``w``, the output error ``(w - v)^T S (w - v)`` over vectors ``v`` of few
nonzeros. The data enter as ``S = E[x x^T]`` alone (with ``damping`` times its mean on the diagonal, which draws ``v``
towards ``w``). They are plain ``jax.numpy``, to be called under ``jit``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.solvers.topk import topk_mask


class SparseFit(NamedTuple):
    """Values that are zero where the mask drops."""

    values: jax.Array  # [features, outputs]
    mask: jax.Array  # bool; True keeps


def fit_support(
    w: jax.Array, second_moment: jax.Array, mask: jax.Array, *, iterations: int = 100, damping: ArrayLike = 0.01
) -> jax.Array:
    """The best values on a given support, by conjugate gradients with all columns side by side.

    Args:
        w: ``[features, outputs]``, float32 or float64.
        second_moment: ``[features, features]``.
        mask: bool, of the shape of ``w``.
        iterations: steps, static; the error of the fit shrinks with every one.
        damping: fraction of the mean diagonal that is added to the diagonal.

    Returns:
        Values, zero outside of the mask.

    Example:
        >>> s = jnp.array([[1.0, 0.5], [0.5, 1.0]])
        >>> fit_support(jnp.array([[1.0], [1.0]]), s, jnp.array([[True], [False]]), damping=0.0).tolist()
        [[1.5], [0.0]]
    """
    s = damped(second_moment.astype(w.dtype), damping)
    inverse = (1 / jnp.diag(s))[:, None]
    zero = jnp.zeros((), w.dtype)

    def step(_: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        values, residual, direction, size = state
        along = jnp.where(mask, _product(s, direction), zero)
        curve = jnp.sum(direction * along, axis=0)
        length = jnp.where(curve > 0, size / jnp.where(curve > 0, curve, 1), 0)
        residual = residual - length[None] * along
        ready = inverse * residual
        following = jnp.sum(residual * ready, axis=0)
        turn = jnp.where(size > 0, following / jnp.where(size > 0, size, 1), 0)
        return values + length[None] * direction, residual, ready + turn[None] * direction, following

    start = jnp.where(mask, w, zero)
    residual = jnp.where(mask, _product(s, w - start), zero)
    ready = inverse * residual
    state = (start, residual, ready, jnp.sum(residual * ready, axis=0))
    return lax.fori_loop(0, iterations, step, state)[0]


def hard_thresholding(
    w: jax.Array,
    second_moment: jax.Array,
    choose: Callable[[jax.Array], jax.Array],
    mask: jax.Array,
    *,
    iterations: int = 50,
    damping: ArrayLike = 0.01,
) -> SparseFit:
    """Normalized iterative hard thresholding from a given support, which may move.

    Every step goes down the gradient as far as is best on the present support, keeps the largest entries, and is taken
    only in the columns whose error it lowers; in the others the next step is half as long. So the error never rises.
    Features are scaled to unit size, as the theory has it. At last the values are fitted on the support.

    Args:
        w: ``[features, outputs]``, float32 or float64.
        second_moment: ``[features, features]``.
        choose: ``sizes [features, outputs] -> bool mask``: the pattern, the largest entries that it allows.
        mask: the support to start from, one that ``choose`` could give.
        iterations: steps, static.
        damping: fraction of the mean diagonal that is added to the diagonal.

    References:
        Blumensath and Davies, 2009. https://arxiv.org/abs/0805.0510
        Blumensath and Davies, 2010. Normalized iterative hard thresholding: guaranteed stability and performance.
    """
    s = damped(second_moment.astype(w.dtype), damping)
    scale = jnp.sqrt(jnp.diag(s))
    unit, target = s / (scale[:, None] * scale[None]), w * scale[:, None]
    zero = jnp.zeros((), w.dtype)

    def step(_: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        values, mask, gradient, error, factor = state
        inside = jnp.where(mask, gradient, zero)
        curve = jnp.sum(inside * _product(unit, inside), axis=0)
        length = factor * jnp.where(curve > 0, jnp.sum(inside * inside, axis=0) / jnp.where(curve > 0, curve, 1), 1)
        moved = values + length[None] * gradient
        stays = choose(jnp.abs(moved))
        moved = jnp.where(stays, moved, zero)
        downhill = _product(unit, target - moved)
        after = jnp.sum((target - moved) * downhill, axis=0)
        better = after < error
        return (
            jnp.where(better[None], moved, values),
            jnp.where(better[None], stays, mask),
            jnp.where(better[None], downhill, gradient),
            jnp.where(better, after, error),
            jnp.where(better, jnp.minimum(2 * factor, 1), factor / 2),
        )

    start = jnp.where(mask, target, zero)
    gradient = _product(unit, target - start)
    error = jnp.sum((target - start) * gradient, axis=0)
    state = (start, mask, gradient, error, jnp.ones_like(error))
    mask = lax.fori_loop(0, iterations, step, state)[1]
    return SparseFit(fit_support(w, second_moment, mask, damping=damping), mask)


def matching_pursuit(
    w: jax.Array,
    second_moment: jax.Array,
    kept: jax.Array,
    *,
    allowed: jax.Array | None = None,
    damping: ArrayLike = 0.01,
) -> SparseFit:
    """Orthogonal matching pursuit from second moments: one feature after the other, that which explains the most.

    After each choice the features that are left are made orthogonal to it, so that what they would add is known without
    a fit. Columns run one after the other; each takes ``kept * features^2`` operations and ``features^2`` memory.

    Args:
        w: ``[features, outputs]``, float32 or float64.
        second_moment: ``[features, features]``.
        kept: int32 ``[outputs]``, features to take per column.
        allowed: bool, of the shape of ``w``; others are never taken.
        damping: fraction of the mean diagonal that is added to the diagonal.

    Returns:
        Values fitted on what was taken, and the mask.

    Example:
        >>> w, s = jnp.array([[3.0], [1.0], [2.0]]), jnp.eye(3)
        >>> matching_pursuit(w, s, jnp.array([2]), damping=0.0).mask.tolist()
        [[True], [False], [True]]

    References:
        Tropp and Gilbert, 2007. Signal recovery from random measurements via orthogonal matching pursuit.
        Rubinstein, Zibulevsky and Elad, 2008. Efficient implementation of the K-SVD algorithm using batch OMP.
    """
    s = damped(second_moment.astype(w.dtype), damping)
    scale = jnp.sqrt(jnp.diag(s))
    unit = s / (scale[:, None] * scale[None])
    allowed = jnp.ones(w.shape, bool) if allowed is None else allowed

    def column(given: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        correlation, count, open_ = given

        def take(_: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            correlation, left, open_, taken = state
            best = jnp.argmax(jnp.where(open_, jnp.abs(correlation), jnp.asarray(-1, w.dtype)))
            row = left[best]
            pivot = jnp.where(row[best] > 0, row[best], jnp.ones((), w.dtype))
            # A column without a feature left to take (fewer are allowed than asked for) changes nothing any more.
            taken = taken.at[best].set(taken[best] | open_[best])
            return (
                correlation - row * (correlation[best] / pivot),
                left - row[:, None] * (row / pivot)[None],
                open_.at[best].set(False),
                taken,
            )

        state = (correlation, unit, open_, jnp.zeros_like(open_))
        return lax.fori_loop(0, count, take, state)[3]

    columns = (_product(unit, w * scale[:, None]).T, kept, allowed.T)
    mask = lax.map(column, columns).T
    return SparseFit(fit_support(w, second_moment, mask, damping=damping), mask)


def damped(second_moment: jax.Array, damping: ArrayLike) -> jax.Array:
    """The second moment with a fraction of its mean diagonal (at least 1e-6 where it is zero) on the diagonal."""
    diagonal = jnp.diag(second_moment)
    mean = jnp.mean(diagonal)
    mean = jnp.where(mean > 0, mean, jnp.ones((), mean.dtype))
    extra = jnp.asarray(damping, mean.dtype)
    extra = jnp.where(diagonal > 0, extra, jnp.maximum(extra, jnp.asarray(1e-6, mean.dtype)))
    return second_moment + jnp.diag(extra * mean)


def largest_per_column(kept: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The pattern of ``kept[i]`` entries in column ``i``; among equals the lower feature stays.

    Example:
        >>> largest_per_column(jnp.array([1, 2]))(jnp.array([[3.0, 1.0], [1.0, 2.0]])).tolist()
        [[True, True], [False, True]]
    """
    return lambda sizes: jax.vmap(topk_mask)(sizes.T, kept).T


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
