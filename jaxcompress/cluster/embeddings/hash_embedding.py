"""The hashing trick and hash embeddings: the fit to a given table, over a tree and as a recipe stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.embeddings.hashed_rows import HashedRows, places
from jaxcompress.cluster.embeddings.tables import TablePart, Weights, find_tables, per_layer
from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.solvers.gathered_rows import fit_gathered_rows

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def hash_embedding(
    params: Any,
    *,
    buckets: int | Mapping[str, int],
    hashes: int = 1,
    importance: bool = False,
    signed: bool = True,
    seed: int = 0,
    rounds: int = 10,
    weights: Weights | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Lets the rows of big tables share a few rows, chosen by hashes of their number.

    With one hash it is the hashing trick, with several and ``importance`` the hash embeddings of Svenstrup et al.: two
    rows that share all of their buckets still differ by their weights. The rows are grouped at random: the fit is a
    start, training on (or from scratch, `HashedRows.init`) does the rest.

    Args:
        params: tree of float arrays or leaves. Not changed.
        buckets: rows of the shared table; or a dict from globs over paths to that: the first glob that fits a path
            counts, paths that fit none stay as they are.
        hashes: how many buckets a row is the sum of.
        importance: gives every row a weight for each of its buckets: ``rows * hashes`` numbers more.
        signed: gives every row and bucket a random sign, so that what collides does not add up.
        seed: of the hashes, ``0 <= seed < 2**32 - hashes``.
        rounds: with ``importance``, of the alternation between the table and the weights.
        weights: how much each row counts, by path, see `row_frequencies`. None: all the same.
        where: tables: globs over paths or a predicate; by default those that ``sites`` show as looked up, without
            ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `HashedRows` leaves.

    Raises:
        ValueError: if a setting is out of range or saves nothing, or a chosen leaf is no table of rows (see
            `tables.find_tables`).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> small = hash_embedding({"e": jnp.ones((1000, 8))}, buckets=50, hashes=2, importance=True)
        >>> small["e"].table.shape, small["e"].importance.shape
        ((50, 8), (1000, 2))

    References:
        Weinberger et al., 2009. Feature Hashing. https://arxiv.org/abs/0902.2206; Svenstrup et al., 2017. Hash
        Embeddings for Efficient Word Representations, section 2. https://arxiv.org/abs/1709.03933
    """
    method = "hash_embedding"
    check_integer("hashes", hashes, method, least=1)
    check_integer("seed", seed, method, below=2**32 - hashes)
    check_integer("rounds", rounds, method)
    tables = find_tables(params, where=where, sites=sites, settings=buckets, weights=weights, method=method)
    leaves = []
    for table in tables:
        count = _buckets(table, setting_at(buckets, table.part.path))
        numbers = count * table.dim + importance * hashes * table.rows
        table.require_saving(numbers, method, "ask for fewer buckets=")
        small, own = _fit(
            table.array,
            table.weights,
            rounds,
            stack_ndim=table.stack_ndim,
            buckets=count,
            hashes=hashes,
            importance=importance,
            signed=signed,
            seed=seed,
        )
        leaves.append(HashedRows(small, own, table.rows, hashes, signed, seed))
    return with_parts(params, [table.part for table in tables], leaves)


@dataclasses.dataclass(frozen=True)
class HashEmbedding:
    """Recipe stage of `hash_embedding`, with the same fields but ``weights``, which are arrays."""

    buckets: int | Mapping[str, int]
    hashes: int = 1
    importance: bool = False
    signed: bool = True
    seed: int = 0
    rounds: int = 10
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `hash_embedding`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return hash_embedding(params, **options, sites=sites)


def fit_hashed_rows(
    table: jax.Array,
    weights: jax.Array | None = None,
    *,
    buckets: int,
    hashes: int = 1,
    importance: bool = False,
    signed: bool = True,
    seed: int = 0,
    rounds: int | jax.Array = 10,
) -> tuple[jax.Array, jax.Array | None]:
    """The fields of the `HashedRows` near a given table in the (weighted) squared error.

    Without importance the problem is linear and the result its optimum: for one hash the signed weighted mean of the
    rows of each bucket, for several by conjugate gradients. With importance it is bilinear: the weights given the table
    (a small system per row) and the table given the weights are solved in turn, from weights of 1 on.

    Args:
        table: float ``[rows, dim]``.
        weights: how much each row counts, ``[rows]``, not negative; None: all the same.
        buckets: rows of the shared table, static.
        hashes: static.
        importance: static.
        signed: static.
        seed: static.
        rounds: of the alternation.

    Returns:
        ``(table [buckets, dim], importance [rows, hashes] or None)`` in the dtype of ``table``.
    """
    rows = table.shape[0]
    work = wider(table.dtype, jnp.float32)
    target = table.astype(work)
    ids, signs = places(jnp.arange(rows), buckets=buckets, hashes=hashes, signed=signed, seed=seed, dtype=work)

    def shared(coefficients: jax.Array, start: jax.Array | None, iterations: int) -> jax.Array:
        return fit_gathered_rows(
            target, ids, coefficients, buckets=buckets, weights=weights, start=start, iterations=iterations
        ).table

    first = shared(signs, None, 200)
    if not importance:
        return first.astype(table.dtype), None

    def both(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own = _importance(target, state[0], ids, signs)
        return shared(signs * own, state[0], 10), own

    found, own = lax.fori_loop(0, rounds, both, (first, jnp.ones_like(signs)))
    return found.astype(table.dtype), own.astype(table.dtype)


def _importance(target: jax.Array, table: jax.Array, ids: jax.Array, signs: jax.Array) -> jax.Array:
    """The weights of each row's buckets that bring their sum nearest to it: a system of ``hashes`` equations each."""
    parts = table[ids] * signs[:, :, None]  # [rows, hashes, dim]
    gram = jnp.einsum("rkd,rld->rkl", parts, parts)
    size = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
    ridge = 1e-6 * size + jnp.asarray(jnp.finfo(gram.dtype).tiny, gram.dtype)
    eye = jnp.eye(ids.shape[1], dtype=gram.dtype)[None]
    right = jnp.einsum("rkd,rd->rk", parts, target)
    return jnp.linalg.solve(gram + ridge * eye, right[:, :, None])[:, :, 0]


@functools.partial(jax.jit, static_argnames=("stack_ndim", "buckets", "hashes", "importance", "signed", "seed"))
def _fit(
    table: jax.Array, weights: jax.Array | None, rounds: int, *, stack_ndim: int, **settings: Any
) -> tuple[jax.Array, jax.Array | None]:
    return per_layer(lambda w: fit_hashed_rows(w, weights, rounds=rounds, **settings), table, stack_ndim)


def _buckets(table: TablePart, setting: Any) -> int:
    if isinstance(setting, bool) or not isinstance(setting, int) or setting < 1:
        raise ValueError(f"hash_embedding: buckets must be a positive integer, got {setting!r} for {table.part.name!r}")
    return setting
