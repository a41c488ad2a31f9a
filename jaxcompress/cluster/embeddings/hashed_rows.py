"""Rows by hashing: the hashing trick, and hash embeddings with importance weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxcompress.cluster.embeddings.table import Fields, Options, Table, dot
from jaxcompress.cluster.xxhash import bucket_of, sign_of
from jaxcompress.core.leaf import ArrayOrLeaf, leaf_kind


@functools.partial(jax.jit, static_argnames=("buckets", "hashes", "signed", "seed", "dtype"))
def places(
    rows: jax.Array, *, buckets: int, hashes: int, signed: bool, seed: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Which buckets some rows are made of, and the sign of each.

    Args:
        rows: integers ``[n]``, numbers of rows.
        buckets: how many there are, static.
        hashes: how many of them a row takes, static.
        signed: False: all signs are 1, static.
        seed: hash number k has the seed ``seed + k``, static.
        dtype: of the signs.

    Returns:
        ``(buckets, signs)``, int32 and float, both ``[n, hashes]``.

    Example:
        >>> ids, signs = places(jnp.arange(3), buckets=4, hashes=2, signed=True, seed=0, dtype=jnp.float32)
        >>> ids.tolist(), signs.tolist()
        ([[1, 0], [3, 2], [2, 0]], [[-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])
    """
    ids = [bucket_of([rows], buckets, seed + k) for k in range(hashes)]
    ones = jnp.ones(rows.shape, dtype)
    signs = [sign_of([rows], seed + k, dtype) if signed else ones for k in range(hashes)]
    return jnp.stack(ids, axis=1), jnp.stack(signs, axis=1)


def _take(fields: Fields, indices: jax.Array, *, rows: int, hashes: int, signed: bool, seed: int) -> jax.Array:
    del rows
    table = fields["table"]
    ids, coefficients = places(
        indices, buckets=table.shape[0], hashes=hashes, signed=signed, seed=seed, dtype=table.dtype
    )
    if "importance" in fields:
        coefficients = coefficients * jnp.take(fields["importance"], indices, axis=0, mode="clip")
    parts = [jnp.take(table, ids[:, k], axis=0, mode="clip") * coefficients[:, k, None] for k in range(hashes)]
    return sum(parts[1:], start=parts[0])


def _head(
    fields: Fields, x: jax.Array, options: Options, *, rows: int, hashes: int, signed: bool, seed: int
) -> jax.Array:
    scores = dot(x, fields["table"], options, transposed=True)  # [n, buckets]
    ids, coefficients = _all_places(fields, rows, hashes, signed, seed, scores.dtype)
    parts = [jnp.take(scores, ids[:, k], axis=1, mode="clip") * coefficients[None, :, k] for k in range(hashes)]
    return sum(parts[1:], start=parts[0])


def _mix(
    fields: Fields, x: jax.Array, options: Options, *, rows: int, hashes: int, signed: bool, seed: int
) -> jax.Array:
    ids, coefficients = _all_places(fields, rows, hashes, signed, seed, x.dtype)
    pooled = jnp.zeros((x.shape[0], fields["table"].shape[0]), x.dtype)
    for k in range(hashes):
        pooled = pooled.at[:, ids[:, k]].add(x * coefficients[None, :, k])
    return dot(pooled, fields["table"], options)


def _all_places(
    fields: Fields, rows: int, hashes: int, signed: bool, seed: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    ids, signs = places(
        jnp.arange(rows), buckets=fields["table"].shape[0], hashes=hashes, signed=signed, seed=seed, dtype=dtype
    )
    if "importance" in fields:
        signs = signs * jnp.asarray(fields["importance"]).astype(dtype)
    return ids, signs


@leaf_kind("hashed_rows", trainable=("table", "importance"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HashedRows(Table):
    """A table whose row i is ``sum_k importance[i, k] * sign_k(i) * table[bucket_k(i)]``.

    Without importance and with one hash it is the hashing trick, with several it is that of a Bloom filter. A tied head
    multiplies with the small table and gathers.

    Attributes:
        table: float, ``stack + (buckets, dim)``; an array, or a leaf again (int8 rows).
        importance: float, ``stack + (rows, hashes)``, or None: all ones.
        rows: how many rows it stands for.
        hashes: how many buckets a row is made of.
        signed: whether each hash has a sign of its own.
        seed: of the hashes.
    """

    table: ArrayOrLeaf
    importance: ArrayOrLeaf | None = None
    rows: int = dataclasses.field(default=1, metadata={"static": True})
    hashes: int = dataclasses.field(default=1, metadata={"static": True})
    signed: bool = dataclasses.field(default=True, metadata={"static": True})
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    take = staticmethod(_take)
    head = staticmethod(_head)
    mix = staticmethod(_mix)

    @classmethod
    def create(
        cls,
        table: ArrayOrLeaf,
        importance: ArrayOrLeaf | None = None,
        *,
        rows: int,
        hashes: int = 1,
        signed: bool = True,
        seed: int = 0,
    ) -> Self:
        """Checks the fields.

        Args:
            table: float, ``stack + (buckets, dim)``.
            importance: float of the same dtype, ``stack + (rows, hashes)``, or None.
            rows: how many rows it stands for, static.
            hashes: how many buckets a row is made of, static.
            signed: whether each hash has a sign of its own, static.
            seed: ``0 <= seed < 2**32 - hashes``, static.

        Raises:
            TypeError: if a field is not float, or the dtypes differ.
            ValueError: if the shapes do not fit, or a setting is out of range.

        Example:
            >>> leaf = HashedRows.create(jnp.array([[1.0, 2.0], [3.0, 4.0]]), rows=5)
            >>> leaf.shape, leaf.materialize()[:2].tolist()
            ((5, 2), [[-3.0, -4.0], [-3.0, -4.0]])
        """
        if not jnp.issubdtype(table.dtype, jnp.floating):
            raise TypeError(f"table must be float, got {table.dtype}")
        if table.ndim < 2 or not table.shape[-2]:
            raise ValueError(f"table must have the shape stack + (buckets, dim) with a bucket, got {table.shape}")
        if rows < 1 or hashes < 1 or not 0 <= seed < 2**32 - hashes:
            raise ValueError(
                f"rows and hashes must be positive and 0 <= seed < 2**32 - hashes; got rows={rows}, hashes={hashes}, "
                f"seed={seed}"
            )
        if importance is not None:
            if importance.dtype != table.dtype:
                raise TypeError(f"importance must be {table.dtype} as the table is, got {importance.dtype}")
            if importance.shape != (*table.shape[:-2], rows, hashes):
                raise ValueError(
                    f"importance must have the shape stack + (rows, hashes), {(*table.shape[:-2], rows, hashes)}, got "
                    f"{importance.shape}"
                )
        return cls(table, importance, int(rows), int(hashes), bool(signed), int(seed))

    @classmethod
    def init(
        cls,
        key: jax.Array,
        rows: int,
        dim: int,
        *,
        buckets: int,
        hashes: int = 1,
        importance: bool = False,
        signed: bool = True,
        seed: int = 0,
        deviation: float | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """A random table to train from, whose rows have entries of standard deviation ``deviation`` (``dim**-0.5``).

        Example:
            >>> HashedRows.init(jax.random.key(0), 1000, 8, buckets=50, hashes=2, importance=True).shape
            (1000, 8)
        """
        deviation = dim**-0.5 if deviation is None else deviation
        table = jax.random.normal(key, (buckets, dim), dtype) * jnp.asarray(deviation * hashes**-0.5, dtype)
        ones = jnp.ones((rows, hashes), dtype) if importance else None
        return cls.create(table, ones, rows=rows, hashes=hashes, signed=signed, seed=seed)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The table holds the dimensions, the importance the rows; buckets and hashes are their own."""
        n = self.stack_ndim
        held: dict[str, tuple[int | None, ...]] = {"table": (*range(n), None, n + 1)}
        return held if self.importance is None else {**held, "importance": (*range(n), n, None)}

    def core_shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return self.rows, self.table.shape[-1]

    def settings(self) -> dict[str, Any]:
        """The static fields."""
        return {"rows": self.rows, "hashes": self.hashes, "signed": self.signed, "seed": self.seed}
