"""Adaptive embeddings: bands by frequency fitted to a given table, over a tree and as a recipe stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.embeddings.banded_rows import BandedRows, band_sizes
from jaxcompress.cluster.embeddings.tables import TablePart, Weights, find_tables, per_layer
from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.solvers.lowrank import truncated_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def adaptive_embedding(
    params: Any,
    *,
    cutoffs: Sequence[int],
    factor: int = 4,
    widths: Sequence[int] | None = None,
    weights: Weights | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Gives frequent rows of big tables their full width and rarer ones less: bands of rows, each of low rank.

    Each band is the best approximation of its rows by that width, in the squared error weighted by frequency.

    Args:
        params: tree of float arrays or leaves. Not changed.
        cutoffs: where the second band and the later ones begin, counted from the most frequent row: ``(2000, 10000)``
            makes three bands. At most six.
        factor: band b has the width ``dim // factor**b``, at least 1.
        widths: of the bands instead.
        weights: how often each row is taken, by path, see `row_frequencies`: rows are sorted by it (the order is
            stored) and count as much. Without it a table counts as sorted, most frequent row first, and all rows of a
            band count the same.
        where: tables: globs over paths or a predicate; by default those that ``sites`` show as looked up, without
            ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `BandedRows` leaves.

    Raises:
        ValueError: if the cutoffs or widths do not fit a table or save nothing, or a chosen leaf is no table of rows
            (see `tables.find_tables`).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> small = adaptive_embedding({"e": jnp.ones((1000, 16))}, cutoffs=(100, 400))
        >>> small["e"].band0.shape, small["e"].band1.shape, small["e"].band2.shape
        ((100, 16), (300, 4), (600, 1))

    References:
        Baevski and Auli, 2019. Adaptive Input Representations, section 3. https://arxiv.org/abs/1809.10853; Grave et
        al., 2017. https://arxiv.org/abs/1609.04309; Chen et al., 2018 (GroupReduce) for the weighted fit to a trained
        table. https://arxiv.org/abs/1806.06950
    """
    method = "adaptive_embedding"
    check_integer("factor", factor, method, least=1)
    for name, given in (("cutoffs", cutoffs), ("widths", () if widths is None else widths)):
        if not isinstance(given, Sequence):
            raise ValueError(f"{method}: {name} must be a sequence of integers, got {given!r}")
        for entry in given:
            check_integer(f"every entry of {name}", entry, method, least=1)
    tables = find_tables(params, where=where, sites=sites, weights=weights, method=method)
    leaves = []
    for table in tables:
        own = widths if widths is not None else [max(1, table.dim // factor**b) for b in range(len(cutoffs) + 1)]
        try:
            sizes = band_sizes(table.rows, table.dim, cutoffs, own)
        except ValueError as error:
            raise ValueError(f"{method}: {table.part.name!r}: {error}") from None
        numbers = _numbers(table, sizes, own)
        table.require_saving(numbers, method, "take smaller widths= or cutoffs=")
        bands, slot = _fit(
            table.array, table.weights, stack_ndim=table.stack_ndim, sizes=tuple(sizes), widths=tuple(own)
        )
        leaves.append(BandedRows.create(bands, slot))
    return with_parts(params, [table.part for table in tables], leaves)


@dataclasses.dataclass(frozen=True)
class AdaptiveEmbedding:
    """Recipe stage of `adaptive_embedding`, with the same fields but ``weights``, which are arrays."""

    cutoffs: Sequence[int]
    factor: int = 4
    widths: Sequence[int] | None = None
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `adaptive_embedding`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return adaptive_embedding(params, **options, sites=sites)


def _numbers(table: TablePart, sizes: Sequence[int], widths: Sequence[int]) -> int:
    slots = 0 if table.weights is None else table.rows
    bands = zip(sizes, widths, strict=True)
    return slots + sum(size * width + (width * table.dim if width < table.dim else 0) for size, width in bands)


def fit_banded_rows(
    table: jax.Array, weights: jax.Array | None = None, *, sizes: Sequence[int], widths: Sequence[int]
) -> tuple[list[tuple[jax.Array, jax.Array | None]], jax.Array | None]:
    """The bands and slots of the `BandedRows` nearest to a given table, in the (weighted) squared error.

    Of each band the projection holds the leading right singular vectors of its rows times the root of their weights,
    and the rows are their coordinates there: the optimum (Eckart and Young), for any weights.

    Args:
        table: float ``[rows, dim]``.
        weights: how often each row is taken, ``[rows]``, not negative: sorts the rows. None: they are sorted, and count
            all the same.
        sizes: rows of each band, static.
        widths: of each band, static; those of full width get no projection.

    Returns:
        ``(bands, slot)`` as `BandedRows.create` takes them, in the dtype of ``table``.
    """
    dim = table.shape[1]
    work = wider(table.dtype, jnp.float32)
    slot = None
    if weights is not None:
        order = jnp.argsort(weights, descending=True, stable=True)
        slot = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
        table, weights = table[order], weights[order]
    bands, start = [], 0
    for size, width in zip(sizes, widths, strict=True):
        rows = table[start : start + size]
        mass = None if weights is None else weights[start : start + size].astype(work)
        bands.append((rows, None) if width == dim else _thin(rows.astype(work), mass, width, table.dtype))
        start += size
    return bands, slot


def _thin(rows: jax.Array, mass: jax.Array | None, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    size = rows.shape[0]
    if width >= size:  # fewer rows than dimensions to choose: any basis that holds them
        rows = jnp.pad(rows, ((0, width + 1 - size), (0, 0)))
        mass = None if mass is None else jnp.pad(mass, (0, width + 1 - size))
    scaled = rows if mass is None else rows * jnp.sqrt(mass)[:, None]
    projection = truncated_svd(scaled, rank=width).vt
    thin = jnp.matmul(rows, projection.T, precision=jax.lax.Precision.HIGHEST)
    return thin[:size].astype(dtype), projection.astype(dtype)


@functools.partial(jax.jit, static_argnames=("stack_ndim", "sizes", "widths"))
def _fit(
    table: jax.Array,
    weights: jax.Array | None,
    *,
    stack_ndim: int,
    sizes: tuple[int, ...],
    widths: tuple[int, ...],
) -> tuple[list[tuple[jax.Array, jax.Array | None]], jax.Array | None]:
    return per_layer(lambda w: fit_banded_rows(w, weights, sizes=sizes, widths=widths), table, stack_ndim)
