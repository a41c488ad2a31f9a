"""Subword embeddings: vectors of n-grams fitted to a given table, over a tree and as a recipe stage."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.embeddings.ngrams import spell
from jaxcompress.cluster.embeddings.subword_rows import Combine, Grams, SubwordRows, grams_of, mixture
from jaxcompress.cluster.embeddings.tables import Weights, find_tables, per_layer
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.solvers.gathered_rows import GatheredFit, fit_gathered_rows

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def subword_embedding(
    params: Any,
    *,
    words: Sequence[str],
    buckets: int,
    min_n: int = 3,
    max_n: int = 6,
    whole: bool = True,
    combine: Combine = "mean",
    ridge: float = 1e-3,
    iterations: int = 50,
    weights: Weights | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces a big table by vectors of character n-grams, of which the row of a token is the mean.

    The vectors are those of the least (weighted) squared error, found by conjugate gradients.

    Args:
        params: tree of float arrays or leaves. Not changed.
        words: token of each row, as the vocabulary spells it; all chosen tables have the same.
        buckets: number of vectors that the n-grams are hashed to.
        min_n: shortest n-gram, in characters of ``<token>``.
        max_n: longest n-gram.
        whole: the token as a whole counts as one more n-gram.
        combine: ``"mean"`` or ``"sum"`` of the vectors.
        ridge: weight of the squared norm of the vectors, relative to how often a bucket counts on average. Keeps those
            small that little depends on.
        iterations: most conjugate gradient steps. Few steps are a regularization too.
        weights: how much each row counts, by path, see `row_frequencies`. None: all the same.
        where: tables: globs over paths or a predicate; by default those that ``sites`` show as looked up, without
            ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `SubwordRows` leaves.

    Raises:
        ValueError: if there are not as many words as rows, a setting is out of range or saves nothing (the spelling
            counts too), or a chosen leaf is no table of rows (see `tables.find_tables`).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> words = [f"{stem}{end}" for stem in ("walk", "talk", "jump") for end in ("", "s", "ed", "ing")]
        >>> small = subword_embedding({"e": jnp.ones((12, 16))}, words=words, buckets=6)
        >>> small["e"].table.shape, bool(jnp.allclose(small["e"].materialize(), 1, atol=0.05))
        ((6, 16), True)

    References:
        Bojanowski et al., 2017. Enriching Word Vectors with Subword Information. https://arxiv.org/abs/1607.04606; Zhao
        et al., 2018, for the fit to given vectors. https://arxiv.org/abs/1809.04259
    """
    method = "subword_embedding"
    check_integer("buckets", buckets, method, least=1)
    check_integer("iterations", iterations, method)
    if not isinstance(ridge, jax.Array) and not 0 <= ridge < math.inf:
        raise ValueError(f"{method}: ridge must be finite and not negative, got {ridge!r}")
    spelling = spell(words)
    grams = grams_of(spelling, min_n, max_n, whole, combine)
    tables = find_tables(params, where=where, sites=sites, weights=weights, method=method)
    leaves = []
    for table in tables:
        if table.rows != len(words):
            raise ValueError(
                f"{method}: words must name the {table.rows} rows of {table.part.name!r}, got {len(words)}"
            )
        letters = -(-spelling.size // table.array.dtype.itemsize)
        table.require_saving(buckets * table.dim + letters, method, "ask for fewer buckets=")
        given = jnp.asarray(spelling)
        vectors = _fit(
            table.array,
            given,
            table.weights,
            ridge,
            iterations,
            stack_ndim=table.stack_ndim,
            buckets=buckets,
            grams=grams,
        )
        stacked = jnp.broadcast_to(given, (*table.array.shape[:-2], *given.shape))
        leaves.append(SubwordRows(stacked, vectors, **dataclasses.asdict(grams)))
    return with_parts(params, [table.part for table in tables], leaves)


@dataclasses.dataclass(frozen=True)
class SubwordEmbedding:
    """Recipe stage of `subword_embedding`, with the same fields but ``weights``, which are arrays."""

    words: Sequence[str]
    buckets: int
    min_n: int = 3
    max_n: int = 6
    whole: bool = True
    combine: Combine = "mean"
    ridge: float = 1e-3
    iterations: int = 50
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `subword_embedding`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return subword_embedding(params, **options, sites=sites)


def fit_subword_rows(
    table: jax.Array,
    spelling: jax.Array,
    weights: jax.Array | None = None,
    *,
    buckets: int,
    grams: Grams,
    ridge: float | jax.Array = 1e-3,
    iterations: int | jax.Array = 50,
) -> GatheredFit:
    """The vectors whose n-gram mixtures are nearest to a given table in the (weighted) squared error.

    Args:
        table: float ``[rows, dim]``.
        spelling: uint8 ``[rows, length]``.
        weights: how much each row counts, ``[rows]``; None: all the same.
        buckets: static.
        grams: static.
        ridge: see `subword_embedding`.
        iterations: most conjugate gradient steps.
    """
    ids, part = mixture(spelling, buckets, grams, jnp.float32)
    return fit_gathered_rows(
        table, ids, part, buckets=buckets, weights=weights, ridge=ridge, iterations=iterations, tolerance=1e-4
    )


@functools.partial(jax.jit, static_argnames=("stack_ndim", "buckets", "grams"))
def _fit(
    table: jax.Array,
    spelling: jax.Array,
    weights: jax.Array | None,
    ridge: float,
    iterations: int,
    *,
    stack_ndim: int,
    buckets: int,
    grams: Grams,
) -> jax.Array:
    def fit(w: jax.Array) -> jax.Array:
        found = fit_subword_rows(w, spelling, weights, buckets=buckets, grams=grams, ridge=ridge, iterations=iterations)
        return found.table.astype(w.dtype)

    return per_layer(fit, table, stack_ndim)
