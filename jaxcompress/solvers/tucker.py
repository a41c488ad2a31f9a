"""Tucker decompositions over some or all axes of an array: HOSVD, then sweeps of higher-order orthogonal iteration.

Everything is eigendecompositions of small Gram matrices and products in the cheapest order, in loops of `jax.lax`: the
functions are pure, and may be jitted and mapped.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.contraction import contract
from jaxcompress.solvers.leading_eigh import leading_eigh, worthwhile


class TuckerFactors(NamedTuple):
    """``w ~ core`` times ``factors[i]`` along ``modes[i]``, for every mode; other axes of the core are those of ``w``.

    Columns of a factor are orthonormal, the leading ones first.
    """

    core: jax.Array
    factors: tuple[jax.Array, ...]  # [size of the mode, rank]


def tucker_factors(
    w: jax.Array,
    *,
    ranks: Sequence[int],
    modes: Sequence[int] | None = None,
    sweeps: int = 3,
    live: jax.Array | None = None,
) -> TuckerFactors:
    """Orthonormal bases along some axes of an array, and the coefficients in them.

    HOSVD takes for every mode the leading eigenvectors of the Gram matrix of its unfolding; its squared error is at
    most the number of modes times the least one there is. Each sweep of HOOI then makes the basis of one mode after
    another the best one given the others, so the error never grows.

    Args:
        w: float array, finite, of two axes or more. Computed in float32 (float64 for float64).
        ranks: one for each mode, from 1 to its size, static.
        modes: axes, ascending; by default all.
        sweeps: of HOOI, static; 0 for the HOSVD.
        live: ranks that count, integers ``[len(modes)]`` up to ``ranks``, traced: further columns become zero, so that
            one program serves every rank.

    Returns:
        Core and factors, in the dtype of the computation.

    Raises:
        ValueError: if ``modes`` are no ascending axes of ``w``, or a rank is out of range.

    Example:
        >>> a, b, c = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0, 2.0]), jnp.ones(4)
        >>> w = jnp.einsum("i,j,k->ijk", a, b, c)
        >>> core, factors = tucker_factors(w, ranks=(1, 1), modes=(0, 1))
        >>> core.shape, bool(jnp.allclose(jnp.einsum("abk,ia,jb->ijk", core, *factors), w, atol=1e-5))
        ((1, 1, 4), True)

    References:
        De Lathauwer, De Moor and Vandewalle, 2000. On the best rank-1 and rank-(R1, ..., RN) approximation of
        higher-order tensors, algorithm 4.2. https://doi.org/10.1137/S0895479898346995
    """
    modes = tuple(range(w.ndim)) if modes is None else tuple(modes)
    _check(w.shape, modes, ranks)
    w, largest = _scaled(w)

    def basis(tensor: jax.Array, i: int) -> jax.Array:
        vectors = _leading_vectors(_gram(tensor, modes[i]), ranks[i])
        if live is None:
            return vectors
        return jnp.where((jnp.arange(ranks[i]) < live[i])[None], vectors, jnp.zeros_like(vectors))

    def sweep(
        carry: tuple[tuple[jax.Array, ...], jax.Array], _: None
    ) -> tuple[tuple[tuple[jax.Array, ...], jax.Array], None]:
        factors, partial = list(carry[0]), carry[1]
        for i in range(len(modes)):
            partial = _projected(w, factors, modes, skip=i)
            factors[i] = basis(partial, i)
        return (tuple(factors), partial), None

    first = jnp.zeros((w.shape[modes[0]], ranks[0]), w.dtype)  # a sweep begins with this one and does not read it
    factors = tuple(first if i == 0 and sweeps else basis(w, i) for i in range(len(modes)))
    last = len(modes) - 1
    partial = _projected(w, factors, modes, skip=last)
    if sweeps:
        (factors, partial), _ = lax.scan(sweep, (factors, jnp.zeros_like(partial)), length=sweeps)
    core = _projected(partial, factors[last:], modes[last:])
    return TuckerFactors(core * largest, factors)


def mode_spectra(w: jax.Array, modes: Sequence[int] | None = None) -> tuple[jax.Array, ...]:
    """Singular values of the unfolding along each mode, in descending order: what the HOSVD keeps and leaves out.

    Args:
        w: float array, finite.
        modes: axes; by default all.

    Example:
        >>> rows, columns = mode_spectra(jnp.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
        >>> rows.tolist(), columns.tolist()
        ([4.0, 3.0], [4.0, 3.0, 0.0])
    """
    w, largest = _scaled(w)
    squares = [jnp.linalg.eigvalsh(_gram(w, mode))[::-1] for mode in (range(w.ndim) if modes is None else modes)]
    return tuple(jnp.sqrt(jnp.maximum(values, 0)) * largest for values in squares)


def _check(shape: tuple[int, ...], modes: tuple[int, ...], ranks: Sequence[int]) -> None:
    if not modes or list(modes) != sorted({*modes}) or not 0 <= modes[0] <= modes[-1] < len(shape):
        raise ValueError(f"modes must be ascending axes of an array of shape {shape}, got {modes}")
    if len(ranks) != len(modes):
        raise ValueError(f"ranks must be one for each of the modes {modes}, got {tuple(ranks)}")
    for mode, rank in zip(modes, ranks, strict=True):
        if not 1 <= rank <= shape[mode]:
            raise ValueError(f"ranks must be from 1 to {shape[mode]} along axis {mode} of {shape}, got {rank}")


def _scaled(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The array at the scale of its largest entry, whose squares neither overflow nor vanish; and that scale."""
    w = w.astype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    largest = jnp.max(jnp.abs(w), initial=0)
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return w / largest, largest


def _gram(tensor: jax.Array, mode: int) -> jax.Array:
    """The unfolding along a mode times its transpose."""
    rest = tuple(axis for axis in range(tensor.ndim) if axis != mode)
    return lax.dot_general(tensor, tensor, ((rest, rest), ((), ())), precision=lax.Precision.HIGHEST)


def _leading_vectors(gram: jax.Array, rank: int) -> jax.Array:
    if worthwhile(gram.shape[-1], rank):
        return leading_eigh(gram, rank)[1]
    return jnp.linalg.eigh(gram)[1][:, ::-1][:, :rank]  # eigh ascends


def _projected(
    tensor: jax.Array, factors: Sequence[jax.Array], modes: Sequence[int], skip: int | None = None
) -> jax.Array:
    """Coefficients in the bases of all modes but one."""
    used = [(mode, factor) for i, (mode, factor) in enumerate(zip(modes, factors, strict=True)) if i != skip]
    of_tensor = tuple(range(tensor.ndim))
    out = tuple(tensor.ndim + axis if axis in dict(used) else axis for axis in of_tensor)
    names = [of_tensor, *((mode, tensor.ndim + mode) for mode, _ in used)]
    highest = functools.partial(contract, precision=lax.Precision.HIGHEST)
    return highest([tensor, *(factor for _, factor in used)], names, out)
