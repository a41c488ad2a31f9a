"""Low-rank factorization by truncated SVD: the best approximation of a given rank in the weights themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.solvers.lowrank import Method, break_even_rank, rank_for_energy, truncated_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Rank = int | float | Mapping[str, int | float]


def svd_factors(w: jax.Array, *, rank: int, method: Method = "gram") -> tuple[jax.Array, jax.Array]:
    """The best product of two factors of a given rank, in the Frobenius norm.

    The singular values are shared evenly, so that both factors have the same scale.

    Args:
        w: float array ``[..., m, n]``, finite.
        rank: 1 to ``min(m, n)``, static.
        method: see `jaxcompress.solvers.lowrank.truncated_svd`.

    Returns:
        ``(u, v)`` of shapes ``[..., m, rank]`` and ``[..., rank, n]``, in the dtype of ``w``.

    Raises:
        ValueError: if ``rank`` is out of range or ``method`` unknown.

    Example:
        >>> u, v = svd_factors(jnp.outer(jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0, 4.0])), rank=1)
        >>> jnp.round(u @ v, 4).tolist()
        [[3.0, 0.0, 4.0], [6.0, 0.0, 8.0]]
    """
    u, s, vt = truncated_svd(w, rank=rank, method=method)
    root = jnp.sqrt(s)
    return (u * root[..., None, :]).astype(w.dtype), (root[..., :, None] * vt).astype(w.dtype)


def svd(
    params: Any,
    *,
    rank: Rank,
    method: Method = "gram",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by two thin factors each.

    A weight is read as a matrix from its contracted to its output axes: the kernel of a convolution has the rows
    (height, width, in), that of a projection to heads the columns (heads, width). Layers of a stack are factorized one
    by one, at one rank. Of a masked leaf the values are factorized and the mask stays.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rank: an integer; or a fraction in ``(0, 1)``: the least rank that holds this part of the sum of squared
            singular values in every layer (needs concrete arrays); or a dict from globs over paths to either: the first
            glob that fits a path counts, paths that fit none stay as they are.
        method: see `jaxcompress.solvers.lowrank.truncated_svd`.
        where: leaves to factorize: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `LowRank` leaves.

    Raises:
        ValueError: if the rank of a leaf saves nothing (the break-even is named), is out of range, the axes of a leaf
            are not known or cannot be split into rows and columns, ``where`` or a glob fits nothing, a leaf is coded or
            factorized already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float, or a fraction is asked for under ``jit``.

    Example:
        >>> thin = svd({"w": jnp.ones((6, 4))}, rank=1)
        >>> thin["w"].u.shape, thin["w"].v.shape
        ((6, 1), (1, 4))

    References:
        Eckart and Young, 1936. The approximation of one matrix by another of lower rank.
    """
    parts = find_parts(params, where=where, sites=sites, settings=rank, method="svd")
    matrices = [_matrix(part) for part in parts]
    for part in parts:
        _check_rank(part.name, setting_at(rank, part.path))
    require_finite(parts, "svd")
    groups: dict[Any, list[int]] = {}
    for i, (part, matrix) in enumerate(zip(parts, matrices, strict=True)):
        groups.setdefault((part.array.dtype, matrix, setting_at(rank, part.path)), []).append(i)
    leaves: dict[int, LowRank] = {}
    for (_, matrix, asked), members in groups.items():
        arrays: list[Any] = [parts[i].array for i in members]
        ranks = [asked] * len(members) if isinstance(asked, int) else _ranks(arrays, asked, matrix=matrix)
        for i, count in zip(members, ranks, strict=True):
            _check_saving(parts[i].name, count, asked, matrix)
        for count in sorted(set(ranks)):
            same = [i for i, own in zip(members, ranks, strict=True) if own == count]
            factors = _factorize([parts[i].array for i in same], matrix=matrix, rank=count, method=method)
            leaves.update((i, LowRank(u, v, *matrix.axes)) for i, (u, v) in zip(same, factors, strict=True))
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class SVD:
    """Recipe stage of `svd`, with the same fields."""

    rank: Rank
    method: Method = "gram"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `svd`."""
        return svd(params, rank=self.rank, method=self.method, where=self.where, sites=sites)


def _matrix(part: Part) -> Matrix:
    if part.fields[-1:] in (("u",), ("v",)):
        raise ValueError(f"svd: {part.path!r} is factorized already: materialize it first (jc.materialize)")
    return matrix_of(part, "svd")


def _check_rank(name: str, rank: Any) -> None:
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if not whole and not (isinstance(rank, float) and 0 < rank < 1):
        raise ValueError(f"svd: rank must be a positive integer or a fraction in (0, 1), got {rank!r} for {name!r}")


def _check_saving(name: str, count: int, asked: int | float, matrix: Matrix) -> None:
    m, n = matrix.shape
    if count >= break_even_rank(m, n):
        reason = "" if isinstance(asked, int) else f", which {asked:g} of the energy takes,"
        raise ValueError(
            f"svd: rank {count}{reason} saves nothing in {name!r}: two factors of {m} x {n} break even at rank "
            f"{break_even_rank(m, n):.4g}. Ask for less, or leave the leaf out of where="
        )


def _ranks(arrays: Sequence[jax.Array], energy: float, *, matrix: Matrix) -> list[int]:
    if any(isinstance(array, Tracer) for array in arrays):
        raise TypeError("svd: a fraction as rank= decides shapes and needs concrete arrays: call svd outside jit")
    return [int(rank) for rank in _needed(list(arrays), energy, matrix=matrix)]


@functools.partial(jax.jit, static_argnames="matrix")
def _needed(arrays: Sequence[jax.Array], energy: float, *, matrix: Matrix) -> jax.Array:
    stacked = _as_matrices(arrays, matrix)
    needed = rank_for_energy(truncated_svd(stacked, rank=min(matrix.shape)).s, energy)
    return needed.reshape(len(arrays), -1).max(axis=1)


@functools.partial(jax.jit, static_argnames=("matrix", "rank", "method"))
def _factorize(
    arrays: Sequence[jax.Array], *, matrix: Matrix, rank: int, method: Method
) -> list[tuple[jax.Array, jax.Array]]:
    u, v = svd_factors(_as_matrices(arrays, matrix), rank=rank, method=method)
    u = u.reshape(len(arrays), *matrix.stack, *matrix.rows, rank)
    v = v.reshape(len(arrays), *matrix.stack, rank, *matrix.cols)
    return [(u[i], v[i]) for i in range(len(arrays))]


def _as_matrices(arrays: Sequence[jax.Array], matrix: Matrix) -> jax.Array:
    return jnp.stack(arrays).reshape(len(arrays), *matrix.stack, *matrix.shape)
