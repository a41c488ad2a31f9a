"""Rows from spelling: every token is the mean, or the sum, of vectors of its character n-grams."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.cluster.embeddings.ngrams import ngram_places, reach_of, spell
from jaxcompress.cluster.embeddings.table import Fields, Options, Table, dot
from jaxcompress.core.leaf import ArrayOrLeaf, FieldOp, leaf_kind
from jaxcompress.solvers.gathered_rows import gathered_rows, scattered_rows

Combine = Literal["mean", "sum"]
AT_ONCE = 2**22  # most numbers that a lookup gathers at once
BLOCK = 2**18  # most numbers of the table that a head holds at once


@dataclasses.dataclass(frozen=True)
class Grams:
    """How a word is cut into n-grams; see `ngrams.ngram_places`."""

    min_n: int
    max_n: int
    reach: int
    whole: bool
    combine: Combine


@functools.partial(jax.jit, static_argnames=("buckets", "grams", "dtype"))
def mixture(spelling: jax.Array, buckets: int, grams: Grams, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """The buckets that words are made of, and how much of each: ``[n, places]`` both."""
    ids, there = ngram_places(
        spelling, buckets=buckets, min_n=grams.min_n, max_n=grams.max_n, reach=grams.reach, whole=grams.whole
    )
    part = there.astype(dtype)
    if grams.combine == "mean":
        part = part / jnp.maximum(jnp.sum(part, axis=1, keepdims=True), jnp.ones((), dtype))
    return ids, part


def _decode(spelling: jax.Array, table: jax.Array, grams: Grams) -> jax.Array:
    ids, part = mixture(spelling, table.shape[0], grams, table.dtype)
    count = spelling.shape[0]  # may be symbolic
    if isinstance(count, int) and count * ids.shape[1] * table.shape[1] > AT_ONCE:
        return gathered_rows(table, ids, part)
    taken = jnp.take(table, ids, axis=0, mode="clip")
    return jnp.einsum("nk,nkd->nd", part, taken, precision=lax.Precision.HIGHEST)


def _take(fields: Fields, indices: jax.Array, *, grams: Grams) -> jax.Array:
    return _decode(jnp.take(fields["spelling"], indices, axis=0, mode="clip"), fields["table"], grams)


def _head(fields: Fields, x: jax.Array, options: Options, *, grams: Grams) -> jax.Array:
    spelling, table = fields["spelling"], fields["table"]
    rows, dim = spelling.shape[0], table.shape[1]
    blocks = max(1, -(-rows * dim // BLOCK))
    if blocks == 1:
        return dot(x, _decode(spelling, table, grams), options, transposed=True)
    width = -(-rows // blocks)
    cut = jnp.pad(spelling, ((0, blocks * width - rows), (0, 0))).reshape(blocks, width, -1)

    @jax.checkpoint  # backwards a block is decoded again instead of kept
    def scores(words: jax.Array) -> jax.Array:
        return dot(x, _decode(words, table, grams), options, transposed=True)

    out = jnp.moveaxis(lax.map(scores, cut), 0, 1)
    return out.reshape(x.shape[0], blocks * width)[:, :rows]


def _mix(fields: Fields, x: jax.Array, options: Options, *, grams: Grams) -> jax.Array:
    table = fields["table"]
    ids, part = mixture(fields["spelling"], table.shape[0], grams, x.dtype)
    return dot(scattered_rows(x.T, ids, part, table.shape[0]).T, table, options)


@leaf_kind("subword_rows", trainable=("table",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SubwordRows(Table):
    """A table of which row i is the mean (or sum) of ``table[bucket(g)]`` over the n-grams g of token i.

    It holds the spelling of the tokens, which a model needs anyway, and one vector per bucket; the n-grams are cut and
    hashed where rows are taken. Tokens that share parts share vectors, unlike with hashed numbers.

    Attributes:
        spelling: uint8, ``stack + (rows, longest)``, see `ngrams.spell`.
        table: float, ``stack + (buckets, dim)``; an array, or a leaf again (int8 vectors).
        grams: how tokens are cut.
    """

    spelling: jax.Array
    table: ArrayOrLeaf
    min_n: int = dataclasses.field(default=3, metadata={"static": True})
    max_n: int = dataclasses.field(default=6, metadata={"static": True})
    reach: int = dataclasses.field(default=6, metadata={"static": True})
    whole: bool = dataclasses.field(default=True, metadata={"static": True})
    combine: Combine = dataclasses.field(default="mean", metadata={"static": True})

    take = staticmethod(_take)
    head = staticmethod(_head)
    mix = staticmethod(_mix)

    @classmethod
    def create(
        cls,
        words: Sequence[str],
        table: ArrayOrLeaf,
        *,
        min_n: int = 3,
        max_n: int = 6,
        whole: bool = True,
        combine: Combine = "mean",
    ) -> Self:
        """Spells the tokens and checks the table.

        Args:
            words: token of each row.
            table: float, ``stack + (buckets, dim)``; all layers of a stack have the same tokens.
            min_n: shortest n-gram, in characters.
            max_n: longest n-gram.
            whole: the token as a whole counts as one more n-gram.
            combine: ``"mean"`` or ``"sum"``.

        Raises:
            TypeError: if the table is not float.
            ValueError: if the table has no buckets, or a setting is out of range.

        Example:
            >>> leaf = SubwordRows.create(["great", "greatest"], jnp.ones((50, 4)), combine="sum")
            >>> leaf.materialize()[:, 0].tolist()  # n-grams of <great> and of <greatest>, and the words themselves
            [15.0, 27.0]
        """
        if not jnp.issubdtype(table.dtype, jnp.floating):
            raise TypeError(f"table must be float, got {table.dtype}")
        if table.ndim < 2 or not table.shape[-2]:
            raise ValueError(f"table must have the shape stack + (buckets, dim) with a bucket, got {table.shape}")
        spelling = spell(words)
        grams = grams_of(spelling, min_n, max_n, whole, combine)
        stacked = jnp.broadcast_to(jnp.asarray(spelling), (*table.shape[:-2], *spelling.shape))
        return cls(stacked, table, grams.min_n, grams.max_n, grams.reach, grams.whole, grams.combine)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        words: Sequence[str],
        dim: int,
        *,
        buckets: int,
        min_n: int = 3,
        max_n: int = 6,
        whole: bool = True,
        combine: Combine = "mean",
        deviation: float | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Random vectors to train from, scaled so that entries of a row have the variance ``deviation**2`` on average.

        Example:
            >>> leaf = SubwordRows.init(jax.random.key(0), ["one", "two", "three"], 8, buckets=20)
            >>> leaf.shape, leaf.table.shape
            ((3, 8), (20, 8))
        """
        leaf = cls.create(
            words, jnp.zeros((buckets, dim), dtype), min_n=min_n, max_n=max_n, whole=whole, combine=combine
        )
        ids, part = mixture(leaf.spelling, buckets, leaf.grams, jnp.float32)
        square = jnp.mean(jnp.sum(part**2, axis=1))  # variance of a row whose n-grams fall into buckets of their own
        del ids
        spread = float(dim**-0.5 if deviation is None else deviation) / jnp.sqrt(jnp.maximum(square, 1e-6))
        return leaf.replace(table=jax.random.normal(key, (buckets, dim), dtype) * spread.astype(dtype))

    @property
    def grams(self) -> Grams:
        """How tokens are cut."""
        return Grams(self.min_n, self.max_n, self.reach, self.whole, self.combine)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The spelling holds the rows, the table the dimensions."""
        n = self.stack_ndim
        return {"spelling": (*range(n), n, None), "table": (*range(n), None, n + 1)}

    def core_shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return self.spelling.shape[-2], self.table.shape[-1]

    def settings(self) -> dict[str, Any]:
        """How tokens are cut."""
        return {"grams": self.grams}

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Rows too, by their spelling."""
        return self.replace(spelling=fn(self.spelling, axis)) if axis == self.stack_ndim else super().map_axis(axis, fn)


def grams_of(spelling: Any, min_n: int, max_n: int, whole: bool, combine: Combine) -> Grams:
    """The settings of `SubwordRows`, checked, with the reach of the n-grams of these words.

    Raises:
        ValueError: if one is out of range.
    """
    if not 1 <= min_n <= max_n:
        raise ValueError(f"min_n and max_n must be 1 <= min_n <= max_n, got {min_n} and {max_n}")
    if combine not in ("mean", "sum"):
        raise ValueError(f"combine must be 'mean' or 'sum', got {combine!r}")
    return Grams(int(min_n), int(max_n), max(min_n, reach_of(spelling, max_n)), bool(whole), combine)
