"""The best matrix of low rank where errors are measured by a metric of the inputs.

Of all ``V`` of rank ``r`` the one that makes ``tr((W - V)^T M (W - V))`` least. With ``M = E[x x^T]`` that is the mean
squared error of the outputs (the optimum of SVD-LLM, of DRONE, and of a principal component analysis of outputs without
centring: one problem, three ways to it); with a diagonal ``M`` rows of ``W`` count by weights (ASVD, FWSVD).

The published ways factor ``M = S^T S``, truncate the singular value decomposition of ``S W`` and multiply by ``S^-1``,
which needs a positive definite ``M``, and loses digits where it nearly is not. But ``S^-1 (S W)_r = W P`` with ``P``
the projection onto the leading right singular vectors of ``S W``: nothing is inverted here, moments of fewer rows than
features are as good as others, and at full rank the result is ``W``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


class MetricLowRank(NamedTuple):
    """``w ~ u @ v``."""

    u: jax.Array  # [..., features, rank]
    v: jax.Array  # [..., rank, outputs], orthonormal rows
    s: jax.Array  # [..., rank], singular values of S W in descending order


def metric_lowrank(w: jax.Array, metric: jax.Array, *, rank: int, damping: ArrayLike = 0.0) -> MetricLowRank:
    """The product of two factors that is closest to a matrix in a metric, of one or of a batch of them.

    Args:
        w: float array ``[..., features, outputs]``, finite. Computed in float32 (float64 for float64).
        metric: symmetric and positive semidefinite ``[..., features, features]``, or the diagonal ``[..., features]``.
            What rounding made of zero eigenvalues, slightly negative ones, counts as zero.
        rank: 1 to ``min(features, outputs)``, static.
        damping: what is added to the diagonal of the metric, as a fraction of its mean: decides among directions that
            the metric does not see by the weights themselves. May be traced.

    Returns:
        Factors and singular values, in the dtype of the computation.

    Raises:
        ValueError: if ``rank`` is out of range or the shapes do not fit.

    Example:
        >>> w, metric = jnp.diag(jnp.array([3.0, 1.0])), jnp.diag(jnp.array([1.0, 100.0]))
        >>> found = metric_lowrank(w, metric, rank=1)  # the smaller weight meets the larger data
        >>> jnp.abs(jnp.round(found.u @ found.v, 4)).tolist(), round(float(found.s[0]), 4)
        ([[0.0, 0.0], [0.0, 1.0]], 10.0)
    """
    features, outputs = w.shape[-2:]
    if not 1 <= rank <= min(features, outputs):
        raise ValueError(
            f"rank must be from 1 to {min(features, outputs)} for matrices of shape {(features, outputs)}, got {rank}"
        )
    w, metric, unit, largest = _prepared(w, metric, damping)
    if outputs <= features:
        values, basis = jnp.linalg.eigh(_gram(w, metric))
        v, s = basis[..., ::-1][..., :rank], _roots(values[..., ::-1][..., :rank])
    else:
        scaled = _scaled(w, metric)
        values, left = jnp.linalg.eigh(_product(scaled, scaled.mT))
        s = _roots(values[..., ::-1][..., :rank])
        # Columns of vanishing singular values are noise: orthonormalized in descending order they stay out of the rest.
        v, _ = jnp.linalg.qr(_unit_columns(_product(scaled.mT, left[..., ::-1][..., :rank])))
    return MetricLowRank(_product(w, v) * largest, v.mT, s * jnp.sqrt(unit)[..., None] * largest[..., 0])


def metric_singular_values(w: jax.Array, metric: jax.Array, *, damping: ArrayLike = 0.0) -> jax.Array:
    """All singular values of ``S W``: the error at rank ``r`` is the root of the sum of squares beyond the first ``r``.

    Args:
        w: as for `metric_lowrank`.
        metric: likewise.
        damping: likewise.

    Returns:
        ``[..., min(features, outputs)]``, descending.

    Example:
        >>> metric_singular_values(jnp.diag(jnp.array([3.0, 1.0])), jnp.array([1.0, 100.0])).round(4).tolist()
        [10.0, 3.0]
    """
    features, outputs = w.shape[-2:]
    w, metric, unit, largest = _prepared(w, metric, damping)
    if outputs <= features:
        gram = _gram(w, metric)
    else:
        scaled = _scaled(w, metric)
        gram = _product(scaled, scaled.mT)
    return _roots(jnp.linalg.eigvalsh(gram)[..., ::-1]) * jnp.sqrt(unit)[..., None] * largest[..., 0]


def metric_error(difference: jax.Array, metric: jax.Array) -> jax.Array:
    """``tr(D^T M D)`` of every matrix, ``[...]``: the mean squared error of its outputs if ``M = E[x x^T]``.

    Example:
        >>> metric_error(jnp.array([[1.0], [2.0]]), jnp.array([10.0, 1.0])).tolist()
        14.0
    """
    wide = _wide(difference)
    seen = metric.astype(wide.dtype)
    seen = _product(seen, wide) if metric.ndim == difference.ndim else seen[..., None] * wide
    return jnp.sum(wide * seen, axis=(-2, -1))


def _prepared(w: jax.Array, metric: jax.Array, damping: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The matrix over its largest entry, the damped metric over its mean diagonal; that mean ``[...]`` and that entry.

    The entry is ``[..., 1, 1]``.
    """
    w = _wide(w)
    full = metric.ndim == w.ndim
    if metric.shape != (*w.shape[:-1], *w.shape[-2:-1] * full):
        raise ValueError(
            f"metric must be [..., features, features] or [..., features] for matrices of shape {w.shape}, got the "
            f"shape {metric.shape}"
        )
    metric = metric.astype(w.dtype)
    unit = jnp.mean(jnp.diagonal(metric, axis1=-2, axis2=-1) if full else metric, axis=-1)
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))  # sums of squares neither overflow nor vanish
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    added = jnp.asarray(damping, w.dtype)
    metric = metric / unit.reshape(*unit.shape, *(1,) * (metric.ndim - unit.ndim))
    return (
        w / largest,
        metric + (added * jnp.broadcast_to(jnp.eye(w.shape[-2], dtype=w.dtype), metric.shape) if full else added),
        unit,
        largest,
    )


def _gram(w: jax.Array, metric: jax.Array) -> jax.Array:
    """``W^T M W``."""
    if metric.ndim == w.ndim:
        return _product(w.mT, _product(metric, w))
    return _product(w.mT, jnp.maximum(metric, jnp.zeros_like(metric))[..., None] * w)


def _scaled(w: jax.Array, metric: jax.Array) -> jax.Array:
    """``S W`` with ``S^T S = M``."""
    if metric.ndim < w.ndim:
        return _roots(metric)[..., None] * w
    values, vectors = jnp.linalg.eigh(metric)
    return _product(_roots(values)[..., None] * vectors.mT, w)


def _roots(values: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(values, jnp.zeros_like(values)))


def _unit_columns(matrix: jax.Array) -> jax.Array:
    norms = jnp.sqrt(jnp.sum(matrix * matrix, axis=-2, keepdims=True))
    return matrix / jnp.where(norms > 0, norms, jnp.ones_like(norms))


def _wide(array: jax.Array) -> jax.Array:
    return array.astype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
