"""Mean and covariance of data that come in batches: exact merging, in any order, on any number of devices."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Running(NamedTuple):
    """Count, mean, and scatter of the rows seen so far; the covariance is ``scatter / (count - 1)``."""

    count: jax.Array  # int32, ()
    mean: jax.Array  # [features]
    scatter: jax.Array  # [features, features], the sum of (x - mean) (x - mean)^T


def no_rows(features: int, dtype: jnp.dtype) -> Running:
    """What no data have taught yet.

    Example:
        >>> no_rows(2, jnp.dtype("float32")).scatter.shape
        (2, 2)
    """
    return Running(jnp.int32(0), jnp.zeros(features, dtype), jnp.zeros((features, features), dtype))


def of_rows(x: jax.Array, rows: jax.Array | None = None) -> Running:
    """Mean and scatter of one batch, centred before anything is squared.

    Args:
        x: ``[n, features]``, float.
        rows: bool ``[n]``, True for the rows that count; None for all.

    Example:
        >>> of_rows(jnp.array([[1.0], [3.0], [99.0]]), jnp.array([True, True, False]))
        Running(count=Array(2, dtype=int32), mean=Array([2.], dtype=float32), scatter=Array([[2.]], dtype=float32))
    """
    if rows is not None:
        x = jnp.where(rows[:, None], x, jnp.zeros_like(x))  # what does not count may be NaN
    count = jnp.int32(x.shape[0]) if rows is None else jnp.sum(rows, dtype=jnp.int32)
    mean = jnp.sum(x, axis=0) / jnp.maximum(count, 1).astype(x.dtype)
    centred = x - mean[None, :]
    if rows is not None:
        centred = jnp.where(rows[:, None], centred, jnp.zeros_like(x))
    return Running(count, mean, jnp.matmul(centred.mT, centred, precision=lax.Precision.HIGHEST))


def merged(a: Running, b: Running) -> Running:
    """Both together, as if their rows had come in one batch (up to rounding).

    Example:
        >>> float(merged(of_rows(jnp.array([[1.0]])), of_rows(jnp.array([[3.0]]))).scatter[0, 0])
        2.0

    References:
        Chan, Golub and LeVeque, 1979, equation 2.1. Updating formulae and a pairwise algorithm for computing sample
        variances.
    """
    count = a.count + b.count
    total = jnp.maximum(count, 1).astype(a.mean.dtype)
    share = b.count.astype(a.mean.dtype) / total
    apart = b.mean - a.mean
    weight = a.count.astype(a.mean.dtype) * share
    return Running(count, a.mean + share * apart, a.scatter + b.scatter + weight * (apart[:, None] * apart[None, :]))
