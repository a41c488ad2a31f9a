"""Singular triples made exact within the subspace that they span."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.svd_derivative import TruncatedSVD


def rayleigh_ritz(w: jax.Array, found: TruncatedSVD) -> tuple[jax.Array, jax.Array]:
    """Singular values and right vectors of a matrix from ones that a Gram matrix gave.

    The eigenvectors of ``w^T w`` mix all triples whose singular values are below the square root of the precision,
    relative to the largest, and those that are quotients ``w^T u / s`` are not even orthogonal there. A thin QR of
    ``w v`` (or ``w^T u``) and the SVD of its small triangle take them apart again, to the precision itself.

    Args:
        w: float32 or float64 ``[m, n]``, finite.
        found: of `jaxcompress.solvers.lowrank.truncated_svd` of ``w``.

    Returns:
        ``([rank], [rank, n])``: descending values and orthonormal rows, signs as in ``found``. Derivatives are those
        of ``found``.

    Example:
        >>> from jaxcompress.solvers.lowrank import truncated_svd
        >>> w = jnp.diag(jnp.array([1.0, 1e-5, 1e-6])) @ jnp.linalg.qr(jnp.ones((6, 3)) + jnp.eye(6, 3))[0].T
        >>> s, vt = rayleigh_ritz(w, truncated_svd(w, rank=3))
        >>> [f"{value:.2g}" for value in s.tolist()]
        ['1', '1e-05', '1e-06']

    References:
        Golub and Van Loan, 2013, sections 8.6 (R-bidiagonalization) and 10.1. Matrix Computations.
    """
    x, u, vt = lax.stop_gradient((w, found.u, found.vt))
    if x.shape[0] >= x.shape[1]:
        _, s, turn = jnp.linalg.svd(jnp.linalg.qr(_product(x, vt.mT), mode="r"))
        rows = _product(turn, vt)
    else:
        q, r = jnp.linalg.qr(_product(x.mT, u))
        left, s, _ = jnp.linalg.svd(r)
        rows = _product(q, left).mT
    rows = jnp.where(jnp.sum(rows * vt, axis=-1, keepdims=True) < 0, -rows, rows)
    return found.s + (s - lax.stop_gradient(found.s)), found.vt + (rows - vt)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
