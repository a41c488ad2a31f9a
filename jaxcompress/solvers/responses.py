"""Responses of a layer approximated by ones of low rank, from samples: linear, or as a ReLU sees them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

PENALTIES = (0.01,) * 25 + (1.0,) * 25  # as in the article
_RIDGE = 1e-6  # of the largest variance: directions that the samples do not show get nothing


class ResponseFit(NamedTuple):
    """``wanted ~ seen @ left @ right + offset``, perhaps up to a ReLU."""

    left: jax.Array  # [outputs, rank]
    right: jax.Array  # [rank, outputs], orthonormal rows
    offset: jax.Array  # [outputs]
    error: jax.Array  # mean over samples of the squared error, of what a ReLU leaves if there is one


@functools.partial(jax.jit, static_argnames=("rank", "relu", "intercept"))
def fit_responses(
    seen: jax.Array,
    wanted: jax.Array,
    *,
    rank: int,
    relu: bool = False,
    intercept: bool = True,
    penalties: Sequence[float] | jax.Array = PENALTIES,
) -> ResponseFit:
    """Finds the map of low rank from responses that are seen to those that are wanted.

    Without a ReLU this is reduced rank regression: ``E |wanted - seen M - c|^2`` is least where ``M`` is the plain
    regression, projected onto the leading principal components of what it predicts. If both are the same responses that
    is their principal component analysis.

    With one, ``E |r(wanted) - r(seen M + c)|^2``, ``r = relu``, is relaxed by auxiliary responses ``z``: ``E |r(wanted)
    - r(z)|^2 + penalty |z - seen M - c|^2`` is minimized in turns, over ``z`` entry by entry in closed form, over ``M``
    and ``c`` by reduced rank regression, from the linear solution on. Of all turns the best one by the true objective
    is kept, so it is never worse than the linear one.

    Args:
        seen: samples ``[n, outputs]``, finite.
        wanted: ``[n, outputs]``, in step with them.
        rank: 1 to the number of outputs, static.
        relu: whether a ReLU follows, static.
        intercept: whether there is a constant ``c``, static; else it is zero.
        penalties: one for each turn.

    Raises:
        ValueError: if the shapes differ or ``rank`` is out of range.

    Example:
        >>> wanted = jnp.array([[1.0, -1.0], [2.0, -4.0], [4.0, -2.0]])  # the second is never seen through a ReLU
        >>> fit = fit_responses(wanted, wanted, rank=1, relu=True)
        >>> bool(fit.error < 1e-2), round(float(fit_responses(wanted, wanted, rank=1).error), 2)
        (True, 1.33)

    References:
        Zhang, Zou, He and Sun, 2016. Accelerating very deep convolutional networks for classification and detection,
        equations 5, 7, 11 and 13. https://arxiv.org/abs/1505.06798; Izenman, 1975 (reduced rank regression).
    """
    if seen.shape != wanted.shape or seen.ndim != 2:
        raise ValueError(f"seen and wanted must have one shape [n, outputs], got {seen.shape} and {wanted.shape}")
    if not 1 <= rank <= seen.shape[1]:
        raise ValueError(f"rank must be from 1 to {seen.shape[1]}, the number of outputs, got {rank}")
    seen, wanted = (x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32) for x in (seen, wanted))
    unit = jnp.maximum(jnp.max(jnp.abs(seen), initial=0), jnp.max(jnp.abs(wanted), initial=0))
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))
    seen, wanted = seen / unit, wanted / unit
    count = seen.shape[0]
    centre = jnp.mean(seen, 0, keepdims=True) if intercept else jnp.zeros_like(seen[:1])
    values, vectors = jnp.linalg.eigh(_product((seen - centre).T, seen - centre) / count)
    ridge = _RIDGE * jnp.maximum(values[-1:], jnp.finfo(values.dtype).tiny)
    whitening = vectors / jnp.sqrt(jnp.maximum(values, 0) + ridge)[None]  # [outputs, outputs]
    white = _product(seen - centre, whitening)

    def regression(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        middle = jnp.mean(z, 0, keepdims=True) if intercept else jnp.zeros_like(z[:1])
        slope = _product(white.T, z - middle) / count
        right = jnp.linalg.eigh(_product(slope.T, slope))[1][:, ::-1][:, :rank].T
        left = _product(whitening, _product(slope, right.T))
        return left, right, middle - _product(_product(centre, left), right)

    def predicted(fit: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        left, right, offset = fit
        return _product(_product(seen, left), right) + offset

    def rectified(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x) if relu else x

    target = rectified(wanted)

    def error(given: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(target - rectified(given))) / count

    def turn(carry: tuple, penalty: jax.Array) -> tuple[tuple, None]:
        given, best = carry
        fit = regression(auxiliary(given, target, penalty))
        given = predicted(fit)
        now = (error(given), fit)
        return (given, jax.tree.map(lambda new, old: jnp.where(now[0] < best[0], new, old), now, best)), None

    fit = regression(wanted)
    given = predicted(fit)
    best = (error(given), fit)
    if relu:
        (_, best), _ = lax.scan(turn, (given, best), jnp.asarray(penalties, seen.dtype))
    least, (left, right, offset) = best
    return ResponseFit(left, right, offset[0] * unit, least * unit * unit)


def auxiliary(given: jax.Array, target: jax.Array, penalty: ArrayLike) -> jax.Array:
    """``argmin_z (target - relu(z))^2 + penalty (z - given)^2``, entry by entry; ``target`` is not negative.

    Example:
        >>> auxiliary(jnp.array([-3.0, 1.0, -1.0]), jnp.array([0.0, 3.0, 4.0]), 1.0).tolist()
        [-3.0, 2.0, 1.5]
    """
    penalty = jnp.asarray(penalty, given.dtype)
    below = jnp.minimum(given, 0)
    above = jnp.maximum((penalty * given + target) / (penalty + 1), 0)
    loss_below = jnp.square(target) + penalty * jnp.square(below - given)
    loss_above = jnp.square(target - above) + penalty * jnp.square(above - given)
    return jnp.where(loss_below < loss_above, below, above)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
