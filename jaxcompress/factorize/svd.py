"""Low-rank factorization by truncated SVD: the best approximation of a given rank in the weights themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.factorize.rank.ranks import Rank as Rank
from jaxcompress.factorize.rank.ranks import checked, ranks_of
from jaxcompress.factorize.rank.spectra import as_matrices, candidate_of, weight_spectra
from jaxcompress.solvers.lowrank import Accumulate, Method, TruncatedSVD, masked_svd, truncated_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def svd_factors(
    w: jax.Array,
    *,
    rank: int,
    method: Method = "gram",
    key: jax.Array | None = None,
    accumulate: Accumulate = None,
) -> tuple[jax.Array, jax.Array]:
    """The best product of two factors of a given rank, in the Frobenius norm.

    The singular values are shared evenly, so that both factors have the same scale.

    Args:
        w: float array ``[..., m, n]``, finite.
        rank: 1 to ``min(m, n)``, static. For a traced rank see `masked_factors`.
        method: see `jaxcompress.solvers.lowrank.truncated_svd`.
        key: likewise.
        accumulate: likewise.

    Returns:
        ``(u, v)`` of shapes ``[..., m, rank]`` and ``[..., rank, n]``, in the dtype of ``w``.

    Raises:
        ValueError: if ``rank`` is out of range, ``method`` or ``accumulate`` unknown, or ``key`` is missing.
        TypeError: if float64 is asked for where JAX allows none.

    Example:
        >>> u, v = svd_factors(jnp.outer(jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0, 4.0])), rank=1)
        >>> jnp.round(u @ v, 4).tolist()
        [[3.0, 0.0, 4.0], [6.0, 0.0, 8.0]]
    """
    return _shared(truncated_svd(w, rank=rank, method=method, key=key, accumulate=accumulate), w.dtype)


def masked_factors(
    w: jax.Array, rank: ArrayLike, *, method: Literal["gram", "full"] = "gram"
) -> tuple[jax.Array, jax.Array]:
    """`svd_factors` of a rank that may be traced: both factors have ``min(m, n)`` columns and rows, zero from it on.

    Args:
        w: float array ``[..., m, n]``, finite.
        rank: integers that broadcast to ``[...]``; may be traced.
        method: ``"gram"`` or ``"full"``.

    Returns:
        ``(u, v)`` of shapes ``[..., m, k]`` and ``[..., k, n]``, ``k = min(m, n)``, in the dtype of ``w``.

    Example:
        >>> w = jnp.diag(jnp.array([4.0, 9.0, 1.0]))
        >>> errors = jax.vmap(lambda rank: jnp.square(w - jnp.matmul(*masked_factors(w, rank))).sum())(jnp.arange(4))
        >>> [round(float(error), 2) for error in errors]
        [98.0, 17.0, 1.0, 0.0]
    """
    return _shared(masked_svd(w, rank, method=method), w.dtype)


def svd(
    params: Any,
    *,
    rank: Rank,
    method: Method = "gram",
    key: jax.Array | None = None,
    accumulate: Accumulate = None,
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
            singular values in every layer; or a rule: `energy`, `explained_variance`, `evbmf`, `budget` (rules and
            fractions need concrete arrays); or a dict from globs over paths to any of these: the first glob that fits
            a path counts, paths that fit none stay as they are.
        method: see `jaxcompress.solvers.lowrank.truncated_svd`.
        key: from `jax.random.key`, for ``method="randomized"``; every shape gets a part of its own.
        accumulate: ``"float64"``: see `jaxcompress.solvers.lowrank.truncated_svd`.
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
    candidates = [candidate_of(part, matrix, sites) for part, matrix in zip(parts, matrices, strict=True)]
    for candidate in candidates:
        checked(setting_at(rank, candidate.path), candidate.name, "svd")
    require_finite(parts, "svd")
    spectra = functools.partial(weight_spectra, parts, matrices)
    ranks = ranks_of(rank, candidates, spectra, method="svd")
    groups: dict[Any, list[int]] = {}
    for i, (part, matrix, own) in enumerate(zip(parts, matrices, ranks, strict=True)):
        if own is not None:
            groups.setdefault((part.array.dtype, matrix, own), []).append(i)
    keys = [None] * len(groups) if key is None else list(jax.random.split(key, len(groups)))
    leaves: dict[int, Any] = {i: part.array for i, part in enumerate(parts)}
    for ((_, matrix, count), members), own in zip(groups.items(), keys, strict=True):
        factors = (_compiled if accumulate is None else _factorize)(  # float64 compiles inside: see truncated_svd
            [parts[i].array for i in members],
            own,
            matrix=matrix,
            rank=count,
            method=method,
            accumulate=accumulate,
        )
        leaves.update((i, LowRank(u, v, *matrix.axes)) for i, (u, v) in zip(members, factors, strict=True))
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class SVD:
    """Recipe stage of `svd`, with the same fields; ``seed`` makes the key of ``method="randomized"``."""

    rank: Rank
    method: Method = "gram"
    where: str | Sequence[str] | None = None
    seed: int | None = None
    accumulate: Accumulate = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `svd`."""
        key = None if self.seed is None else jax.random.key(self.seed)
        options = {"method": self.method, "key": key, "accumulate": self.accumulate, "where": self.where}
        return svd(params, rank=self.rank, sites=sites, **options)


def _shared(triples: TruncatedSVD, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Two factors that share the singular values evenly."""
    u, s, vt = triples
    some = s > 0
    root = jnp.where(some, jnp.sqrt(jnp.where(some, s, 1)), 0)  # of zeros the derivative is zero
    return (u * root[..., None, :]).astype(dtype), (root[..., :, None] * vt).astype(dtype)


def _matrix(part: Part) -> Matrix:
    if part.fields[-1:] in (("u",), ("v",)):
        raise ValueError(f"svd: {part.path!r} is factorized already: materialize it first (jc.materialize)")
    return matrix_of(part, "svd")


def _factorize(
    arrays: Sequence[Any],
    key: jax.Array | None,
    *,
    matrix: Matrix,
    rank: int,
    method: Method,
    accumulate: Accumulate,
) -> list[tuple[jax.Array, jax.Array]]:
    stacked = as_matrices(arrays, matrix)
    u, v = svd_factors(stacked, rank=rank, method=method, key=key, accumulate=accumulate)
    u = u.reshape(len(arrays), *matrix.stack, *matrix.rows, rank)
    v = v.reshape(len(arrays), *matrix.stack, rank, *matrix.cols)
    return [(u[i], v[i]) for i in range(len(arrays))]


_compiled = jax.jit(_factorize, static_argnames=("matrix", "rank", "method", "accumulate"))
