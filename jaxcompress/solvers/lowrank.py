"""Truncated singular value decompositions.

By default through the eigenvectors of the smaller Gram matrix: 2 to 3 times faster than a full SVD, and what is kept is
an orthogonal projection, so that squaring the condition number costs little (the error exceeds the optimum by about the
square root of the machine precision relative to the largest singular value, where that optimum is smaller than this).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

Method: TypeAlias = Literal["gram", "full"]


class TruncatedSVD(NamedTuple):
    """``w ~ (u * s) @ vt``: orthonormal columns of ``u``, singular values in descending order, rows of ``vt``."""

    u: jax.Array  # [..., m, rank]
    s: jax.Array  # [..., rank]
    vt: jax.Array  # [..., rank, n]


def truncated_svd(w: jax.Array, *, rank: int, method: Method = "gram") -> TruncatedSVD:
    """The leading singular triples of a matrix, or of a batch of them.

    Args:
        w: float array ``[..., m, n]``, finite. Computed in float32 (float64 for float64).
        rank: number of triples, 1 to ``min(m, n)``, static.
        method: ``"gram"`` as the module says (columns of ``u`` beyond the numerical rank are then not orthonormal, but
            their singular values are as good as zero), ``"full"``: `jnp.linalg.svd`.

    Returns:
        The triples, in the dtype of the computation.

    Raises:
        ValueError: if ``rank`` is out of range or ``method`` unknown.

    Example:
        >>> truncated_svd(jnp.array([[3.0, 0.0], [0.0, -5.0]]), rank=1).s.tolist()
        [5.0]
    """
    m, n = w.shape[-2:]
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"rank must be from 1 to {min(m, n)} for matrices of shape {(m, n)}, got {rank}")
    if method not in ("gram", "full"):
        raise ValueError(f"method must be 'gram' or 'full', got {method!r}")
    w = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    if method == "full":
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        return TruncatedSVD(u[..., :rank], s[..., :rank], vt[..., :rank, :])
    if m < n:
        v, s, ut = truncated_svd(w.mT, rank=rank)
        return TruncatedSVD(ut.mT, s, v.mT)
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True, initial=0)
    largest = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    unit = w / largest
    v = jnp.linalg.eigh(_product(unit.mT, unit))[1][..., ::-1][..., :rank]  # eigh ascends
    us = _product(unit, v)
    s = jnp.sqrt(jnp.sum(us * us, axis=-2))
    u = us / jnp.where(s > 0, s, 1)[..., None, :]
    return TruncatedSVD(u, s * largest[..., 0], v.mT)


def rank_for_energy(s: jax.Array, energy: float) -> jax.Array:
    """The least rank whose singular values hold a fraction of the sum of all squares; at least 1.

    Args:
        s: singular values in descending order, ``[..., k]``.
        energy: fraction to hold, in ``(0, 1]``.

    Example:
        >>> int(rank_for_energy(jnp.array([3.0, 1.0, 1.0]), 0.9))
        2
    """
    squares = s * s
    missing = jnp.flip(
        jnp.cumsum(jnp.flip(squares, -1), axis=-1), -1
    )  # what the rank-i truncation leaves out, [..., k]
    allowed = jnp.asarray(1 - energy, s.dtype) * missing[..., :1]
    return jnp.maximum(jnp.sum(missing > allowed, axis=-1, dtype=jnp.int32), 1)


def break_even_rank(m: int, n: int) -> float:
    """The rank at which two factors take as many entries as the matrix.

    Example:
        >>> break_even_rank(6, 3)
        2.0
    """
    return m * n / (m + n)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
