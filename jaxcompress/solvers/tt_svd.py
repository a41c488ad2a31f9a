"""Tensor trains by successive singular value decompositions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcompress.solvers.lowrank import truncated_svd


def tt_svd(w: jax.Array, *, rank: int | Sequence[int], method: str = "gram") -> tuple[jax.Array, ...]:
    """A tensor as a train of cores: ``w[i, j, k] ~ sum_ab core0[0, i, a] core1[a, j, b] core2[b, k, 0]``.

    The error is at most ``sqrt(d - 1)`` times that of the best train of these ranks. The cores are scaled alike (the
    same root mean square), so that they train and round alike.

    Args:
        w: float array of two axes or more, finite.
        rank: of every bond, or one for each of the ``ndim - 1``; a bond gets no more than it can use. Static.
        method: of the decompositions, see `jaxcompress.solvers.lowrank.truncated_svd`.

    Returns:
        One core ``[r, n, r']`` for each axis, in the dtype of ``w``; the outermost ranks are 1.

    Raises:
        ValueError: if ``w`` has one axis, or ``rank`` is not positive or of the wrong length.

    Example:
        >>> w = jnp.einsum("i,j,k->ijk", jnp.arange(3.0), jnp.ones(4), jnp.ones(2))
        >>> cores = tt_svd(w, rank=1)
        >>> [core.shape for core in cores], bool(jnp.allclose(tt_dense(cores), w, atol=1e-5))
        ([(1, 3, 1), (1, 4, 1), (1, 2, 1)], True)

    References:
        Oseledets, 2011. Tensor-train decomposition. SIAM J. Sci. Comput. 33(5), algorithm 1 and corollary 2.4.
    """
    ranks = feasible_ranks(w.shape, rank)
    rest = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    cores, before = [], 1
    for size, own in zip(w.shape[:-1], ranks, strict=True):
        u, s, vt = truncated_svd(rest.reshape(before * size, -1), rank=own, method=method)  # type: ignore[arg-type]
        cores.append(u.reshape(before, size, own))
        rest, before = s[:, None] * vt, own
    cores.append(rest.reshape(before, w.shape[-1], 1))
    return tuple(core.astype(w.dtype) for core in balanced(cores))


def tt_dense(cores: Sequence[jax.Array]) -> jax.Array:
    """The tensor of a train, multiplied out from the left."""
    out = cores[0]
    for core in cores[1:]:
        out = jnp.tensordot(out, core, 1, precision=lax.Precision.HIGHEST)
    return out[0, ..., 0]


def tt_ranks(w: jax.Array, error: float, *, method: str = "full") -> tuple[int, ...]:
    """The ranks at which `tt_svd` keeps within a relative error, for each tensor of a batch.

    Every bond may leave out ``error / sqrt(d - 1)`` of the norm (the errors are orthogonal and add up to ``error``).

    Args:
        w: float array ``[batch, n1, ..., nd]``, concrete: its values decide shapes.
        error: bound of ``norm(w - train) / norm(w)``, in ``(0, 1)``.
        method: of the decompositions; ``"gram"`` is faster but sees nothing below some ``3e-4`` in float32.

    Returns:
        A rank for each bond: the largest that a tensor of the batch needs.

    Raises:
        TypeError: if ``w`` is traced.

    Example:
        >>> w = jnp.ones((1, 3, 4, 2)).at[0, 0, 0, 0].add(10.0)
        >>> tt_ranks(w, 0.01), tt_ranks(w, 0.9)
        ((2, 2), (1, 1))

    References:
        Oseledets, 2011, algorithm 1.
    """
    if isinstance(w, Tracer):
        raise TypeError("an error bound decides shapes and needs concrete arrays: call outside jit")
    batch, *sizes = w.shape
    allowed = error / math.sqrt(len(sizes) - 1)
    rest = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    bound, ranks, before = None, [], 1
    for size in sizes[:-1]:
        rest = rest.reshape(batch, before * size, -1)
        s, vt = _spectrum(rest, method)
        squares = np.asarray(s, np.float64) ** 2
        missing = np.sqrt(np.cumsum(squares[:, ::-1], axis=1)[:, ::-1])  # what rank i leaves out, [batch, k]
        bound = allowed * missing[:, :1] if bound is None else bound  # of the norm, whose square may be no float32
        before = max(1, int((missing > bound).sum(1).max()))
        ranks.append(before)
        rest = s[:, :before, None] * vt[:, :before]
    return tuple(ranks)


def feasible_ranks(sizes: Sequence[int], rank: int | Sequence[int]) -> tuple[int, ...]:
    """The ranks asked for, each no larger than what the axes on either side of its bond can use.

    Raises:
        ValueError: if there are fewer than two axes, or a rank is not positive, or the number of ranks is wrong.

    Example:
        >>> feasible_ranks((2, 6, 3), 8), feasible_ranks((4, 6, 3), (3, 2))
        ((2, 3), (3, 2))
    """
    if len(sizes) < 2:
        raise ValueError(f"a train needs two axes or more, got {tuple(sizes)}")
    asked = tuple(rank) if isinstance(rank, Sequence) else (rank,) * (len(sizes) - 1)
    if len(asked) != len(sizes) - 1 or any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in asked):
        raise ValueError(
            f"rank must be positive, or {len(sizes) - 1} positive integers for {len(sizes)} axes, got {rank!r}"
        )
    ranks, before = [], 1
    for i, own in enumerate(asked):
        before = min(own, before * sizes[i], math.prod(sizes[i + 1 :]))
        ranks.append(before)
    return tuple(ranks)


def balanced(cores: Sequence[jax.Array]) -> list[jax.Array]:
    """The same train with cores of one root mean square."""
    sizes = [_root_mean_square(core) for core in cores]
    safe = [jnp.where(size > 0, size, 1) for size in sizes]
    logs = [jnp.log(size) for size in safe]
    mean = jnp.exp(sum(logs[1:], logs[0]) / len(cores))
    return [core * (mean / size) for core, size in zip(cores, safe, strict=True)]


def _root_mean_square(core: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(core))
    unit = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    return unit * jnp.sqrt(jnp.mean(jnp.square(core / unit)))


@functools.partial(jax.jit, static_argnames="method")
def _spectrum(matrices: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    _, s, vt = truncated_svd(matrices, rank=min(matrices.shape[-2:]), method=method)  # type: ignore[arg-type]
    return s, vt
