"""Truncated singular value decompositions.

By default through the eigenvectors of the smaller Gram matrix, all of them or, where few are asked for, the leading
ones by a subspace iteration: 2 to 5 times faster than a full SVD. What is kept is an orthogonal projection, so that
squaring the condition number costs little (the error exceeds the optimum by about the square root of the machine
precision relative to the largest singular value, where that optimum is smaller than this; ``accumulate="float64"``
takes it to 1e-8).

All methods have derivatives that stay finite where singular values coincide: see `jaxcompress.solvers.svd_derivative`.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.solvers.svd_derivative import TruncatedSVD as TruncatedSVD
from jaxcompress.solvers.svd_derivative import triples

Method: TypeAlias = Literal["gram", "full", "randomized"]
Accumulate: TypeAlias = Literal["float64"] | None

METHODS = ("gram", "full", "randomized")


def truncated_svd(
    w: jax.Array,
    *,
    rank: int,
    method: Method = "gram",
    key: jax.Array | None = None,
    accumulate: Accumulate = None,
    oversample: int = 10,
    power_iterations: int = 2,
) -> TruncatedSVD:
    """The leading singular triples of a matrix, or of a batch of them.

    Args:
        w: float array ``[..., m, n]``, finite. Computed in float32 (float64 for float64).
        rank: number of triples, 1 to ``min(m, n)``, static. For a traced rank see `masked_svd`.
        method: ``"gram"`` as the module says (columns of ``u`` beyond the numerical rank are then not orthonormal, but
            their singular values are as good as zero); ``"full"``: `jnp.linalg.svd`; ``"randomized"``: a Gaussian
            sketch of the range, for ranks far below ``min(m, n)``.
        key: from `jax.random.key`, for ``"randomized"``.
        accumulate: ``"float64"`` computes float32 matrices in float64 and rounds the triples at the end. Works with
            ``jax_enable_x64`` off too, but then not under a transformation. (A float64 Gram matrix
            before a float32 eigensolver removes only a part of the loss: at ``0.9 ** i``, rank 100 of 200, errors were
            6.3, 2.2 and 1.0 times the optimum with float32, with that, and with float64 throughout.)
        oversample: columns of the sketch beyond ``rank``, static.
        power_iterations: multiplications of the sketch by ``w w^T``, with a QR after each product, static. What is lost
            falls with the power ``2 * power_iterations + 1`` of the ratios of singular values.

    Returns:
        The triples, in the dtype of the computation (float32 for float32 with ``accumulate="float64"``).

    Raises:
        ValueError: if ``rank`` is out of range, ``method`` or ``accumulate`` unknown, or ``key`` is missing.
        TypeError: if float64 is asked for where JAX allows none.

    Example:
        >>> truncated_svd(jnp.array([[3.0, 0.0], [0.0, -5.0]]), rank=1).s.tolist()
        [5.0]

    References:
        Halko, Martinsson and Tropp, 2011, algorithms 4.4 and 5.1. https://arxiv.org/abs/0909.4061
    """
    m, n = w.shape[-2:]
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"rank must be from 1 to {min(m, n)} for matrices of shape {(m, n)}, got {rank}")
    if method not in METHODS:
        raise ValueError(f"method must be 'gram', 'full' or 'randomized', got {method!r}")
    if accumulate not in (None, "float64"):
        raise ValueError(f"accumulate must be None or 'float64', got {accumulate!r}")
    wide = jnp.float64 if w.dtype == jnp.float64 else jnp.float32
    sketch = None
    if method == "randomized":
        if key is None:
            raise ValueError("method='randomized' needs key=, from jax.random.key")
        if oversample < 0 or power_iterations < 0:
            raise ValueError(
                f"oversample and power_iterations must be 0 or more, got {oversample} and {power_iterations}"
            )
        columns = min(rank + oversample, m, n)
        sketch = jax.random.normal(key, (*w.shape[:-2], min(m, n), columns), wide)
    w = w.astype(wide)
    if accumulate is None or wide == jnp.float64:
        return _solve(w, sketch, rank=rank, method=method, power=power_iterations)
    if isinstance(w, Tracer) and jax.dtypes.canonicalize_dtype(jnp.float64) != jnp.float64:
        raise TypeError(
            "accumulate='float64' under a transformation (jit, vmap, grad) needs jax_enable_x64: set it, or call this "
            "outside of the transformation"
        )
    with jax.enable_x64(True):
        return _in_float64(w, sketch, rank=rank, method=method, power=power_iterations)


def masked_svd(w: jax.Array, rank: ArrayLike, *, method: Method = "gram") -> TruncatedSVD:
    """All singular triples, with singular values of zero from ``rank`` on: shapes do not depend on the rank.

    So a population over ranks is one program. Where the arrays stay the same, decompose once and mask many times.

    Args:
        w: float array ``[..., m, n]``, finite.
        rank: integers that broadcast to ``[...]``; may be traced. Above ``min(m, n)`` nothing is masked.
        method: ``"gram"`` or ``"full"``.

    Example:
        >>> ranks = jnp.arange(1, 3)
        >>> jax.vmap(lambda rank: masked_svd(jnp.diag(jnp.array([3.0, 5.0])), rank).s)(ranks).tolist()
        [[5.0, 0.0], [5.0, 3.0]]
    """
    if method not in ("gram", "full"):
        raise ValueError(f"a masked rank needs all triples: method must be 'gram' or 'full', got {method!r}")
    u, s, vt = truncated_svd(w, rank=min(w.shape[-2:]), method=method)
    return TruncatedSVD(u, keep_leading(s, rank), vt)


def keep_leading(s: jax.Array, rank: ArrayLike) -> jax.Array:
    """Values with zeros from a rank on; see `masked_svd`.

    Example:
        >>> keep_leading(jnp.array([3.0, 2.0, 1.0]), 2).tolist()
        [3.0, 2.0, 0.0]
    """
    counts = jnp.broadcast_to(jnp.asarray(rank, jnp.int32), s.shape[:-1])[..., None]
    kept = lax.broadcasted_iota(jnp.int32, s.shape, s.ndim - 1) < counts
    return jnp.where(kept, s, jnp.zeros((), s.dtype))


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


def _solve(w: jax.Array, sketch: jax.Array | None, *, rank: int, method: Method, power: int) -> TruncatedSVD:
    m, n = w.shape[-2:]
    if m < n:
        v, s, ut = _solve(w.mT, sketch, rank=rank, method=method, power=power)
        return TruncatedSVD(ut.mT, s, v.mT)
    largest = lax.stop_gradient(jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True, initial=0))
    largest = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    u, s, vt = triples(w / largest, sketch, rank, method, power)
    return TruncatedSVD(u, s * largest[..., 0], vt)


@functools.partial(jax.jit, static_argnames=("rank", "method", "power"))
def _in_float64(w: jax.Array, sketch: jax.Array | None, *, rank: int, method: Method, power: int) -> TruncatedSVD:
    wide = None if sketch is None else sketch.astype(jnp.float64)
    found = _solve(w.astype(jnp.float64), wide, rank=rank, method=method, power=power)
    return TruncatedSVD(*(part.astype(w.dtype) for part in found))
