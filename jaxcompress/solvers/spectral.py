"""Functions of singular values: matrices whose singular values are changed, their singular vectors not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Filtered(NamedTuple):
    """A matrix after its singular values were changed.

    Attributes:
        matrix: ``[..., m, n]``.
        s: singular values before, descending, ``[..., min(m, n)]``.
        factors: what each was multiplied by, ``[..., min(m, n)]``.
        basis: the singular vectors of the shorter side in this order, as columns ``[..., min(m, n), min(m, n)]``.
    """

    matrix: jax.Array
    s: jax.Array
    factors: jax.Array
    basis: jax.Array


def spectral_filter(w: jax.Array, factor: Callable[[jax.Array], jax.Array]) -> Filtered:
    """Multiplies every singular value by a function of all of them.

    By the eigenvectors of the smaller Gram matrix; a factor of zero takes a direction out up to rounding.

    Args:
        w: float array ``[..., m, n]``, finite. Computed in float32 (float64 for float64).
        factor: from descending singular values ``[..., k]`` to factors ``[..., k]``.

    Example:
        >>> halved = spectral_filter(jnp.diag(jnp.array([4.0, 1.0])), lambda s: jnp.where(s > 2, 0.5, 0.0))
        >>> halved.matrix.round(3).tolist(), halved.s.round(3).tolist()
        ([[2.0, 0.0], [0.0, 0.0]], [4.0, 1.0])
    """
    if w.shape[-2] < w.shape[-1]:
        found = spectral_filter(w.mT, factor)
        return found._replace(matrix=found.matrix.mT)
    w = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True, initial=0)
    unit = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    v = jnp.linalg.eigh(product((w / unit).mT, w / unit))[1][..., ::-1]  # eigh ascends
    wv = product(w, v)
    s = jnp.sqrt(jnp.sum(jnp.square(wv / unit), axis=-2)) * unit[..., 0]
    factors = factor(s)
    return Filtered(product(wv * factors[..., None, :], v.mT), s, factors, v)


def soft_threshold(w: jax.Array, threshold: jax.Array) -> Filtered:
    """Singular values less ``threshold``, and not below zero: the proximal step of the trace norm.

    Args:
        w: float array ``[..., m, n]``, finite.
        threshold: 0 or more, ``[...]`` or a scalar.

    Example:
        >>> soft_threshold(jnp.diag(jnp.array([4.0, 1.0])), jnp.float32(1.5)).matrix.round(3).tolist()
        [[2.5, 0.0], [0.0, 0.0]]

    References:
        Cai, Candes and Shen, 2010, theorem 2.1. https://arxiv.org/abs/0810.3286
    """
    threshold = jnp.broadcast_to(threshold, w.shape[:-2])[..., None]
    return spectral_filter(w, lambda s: jnp.maximum(1 - threshold.astype(s.dtype) / jnp.where(s > 0, s, 1), 0))


def keep_largest(w: jax.Array, rank: jax.Array) -> Filtered:
    """The best matrix of a rank that may be traced, an integer.

    Example:
        >>> keep_largest(jnp.diag(jnp.array([4.0, 1.0])), jnp.int32(1)).matrix.round(3).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """

    def leading(s: jax.Array) -> jax.Array:
        return jnp.broadcast_to((jnp.arange(s.shape[-1], dtype=jnp.int32) < rank).astype(s.dtype), s.shape)

    return spectral_filter(w, leading)


@jax.custom_jvp
def trace_norm_of(w: jax.Array) -> jax.Array:
    """The sum of the singular values of every matrix, ``[...]``; its derivative is the subgradient ``U V^T``.

    Singular values within rounding of zero do not enter ``U V^T``, which so stays finite everywhere.

    Example:
        >>> float(trace_norm_of(jnp.diag(jnp.array([3.0, -4.0]))))
        7.0
        >>> jax.grad(trace_norm_of)(jnp.diag(jnp.array([3.0, -4.0, 0.0]))).round(3).tolist()
        [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return jnp.sum(spectral_filter(w, jnp.zeros_like).s, axis=-1).astype(w.dtype)


@trace_norm_of.defjvp
def _trace_norm_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (w,), (dw,) = primals, tangents

    def inverse(s: jax.Array) -> jax.Array:
        real = s > s[..., :1] * (max(w.shape[-2:]) * jnp.finfo(s.dtype).eps)
        return jnp.where(real, 1 / jnp.where(real, s, 1), 0)

    uvt, s, _, _ = spectral_filter(w, inverse)
    return jnp.sum(s, axis=-1).astype(w.dtype), jnp.sum(uvt.astype(w.dtype) * dw, axis=(-2, -1))


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix products at the highest precision of the device."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
