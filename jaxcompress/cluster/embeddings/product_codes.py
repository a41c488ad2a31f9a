"""Product codes for tables: every row is a few codes, each of which names a run of its entries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.embeddings.tables import TablePart, Weights, find_tables, per_layer
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.solvers.vector_kmeans import nearest_vectors, vector_kmeans

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def product_codes(
    params: Any,
    *,
    runs: int,
    levels: int = 256,
    iterations: int = 50,
    seed: int = 0,
    weights: Weights | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Cuts the rows of big tables into runs of entries, and lets each run share its values among a few by k-means.

    A row costs ``runs * log2(levels)`` bits; every run has a table of its own (product quantization), whose entries
    train on. The codes are those of the discrete compositional codes of Shu and Nakayama and of DPQ with k-means in
    the place of their training.

    Args:
        params: tree of float arrays or leaves. Not changed.
        runs: into how many runs of neighbouring entries a row is cut; divides the entries of a row.
        levels: number of values that a run may take, 2 to 65536.
        iterations: most of k-means, static or traced.
        seed: of its start.
        weights: how much each row counts, by path, see `row_frequencies`. None: all the same.
        where: tables: globs over paths or a predicate; by default those that ``sites`` show as looked up, without
            ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `jaxcompress.cluster.ProductCodebook` leaves.

    Raises:
        ValueError: if a setting is out of range or saves nothing, or a chosen leaf is no table of rows (see
            `tables.find_tables`).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> table = jnp.sin(jnp.arange(800.0)).reshape(100, 8)
        >>> small = product_codes({"e": table}, runs=2, levels=16)
        >>> small["e"].codes.shape, small["e"].codebook.shape
        ((100, 2), (1, 2, 16, 4))

    References:
        Jegou et al., 2011. Product Quantization for Nearest Neighbor Search. Shu and Nakayama, 2018.
        https://arxiv.org/abs/1711.01068; Chen et al., 2020 (DPQ). https://arxiv.org/abs/1908.09756
    """
    method = "product_codes"
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= 65536:
        raise ValueError(f"{method}: levels must be an integer from 2 to 65536, got {levels!r}")
    check_integer("iterations", iterations, method)
    tables = find_tables(params, where=where, sites=sites, weights=weights, method=method)
    leaves = []
    for table in tables:
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1 or table.dim % runs:
            raise ValueError(
                f"{method}: runs must divide the {table.dim} entries of a row of {table.part.name!r}, got {runs!r}"
            )
        table.require_saving(_numbers(table, runs, levels), method, "ask for fewer runs= or levels=")
        codes, codebook = _fit(
            table.array, table.weights, iterations, seed, stack_ndim=table.stack_ndim, runs=runs, levels=levels
        )
        leaves.append(ProductCodebook(codes, codebook, (1, table.dim // runs), jnp.dtype(table.array.dtype)))
    return with_parts(params, [table.part for table in tables], leaves)


@dataclasses.dataclass(frozen=True)
class ProductCodes:
    """Recipe stage of `product_codes`, with the same fields but ``weights``, which are arrays."""

    runs: int
    levels: int = 256
    iterations: int = 50
    seed: int = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `product_codes`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return product_codes(params, **options, sites=sites)


@functools.partial(jax.jit, static_argnames=("stack_ndim", "runs", "levels"))
def _fit(
    table: jax.Array,
    weights: jax.Array | None,
    iterations: int,
    seed: int,
    *,
    stack_ndim: int,
    runs: int,
    levels: int,
) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), runs)

    def of_run(given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, key = given
        mass = None if weights is None else jnp.broadcast_to(weights[:, None], x.shape).astype(x.dtype)
        fitted = vector_kmeans(x, levels=levels, key=key, weights=mass, iterations=iterations)
        found = fitted.codebook.astype(table.dtype)
        return nearest_vectors(x, found.astype(x.dtype)), found  # of rows that count for nothing too

    def fit(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = w.astype(wider(w.dtype, jnp.float32))
        cut = jnp.moveaxis(wide.reshape(w.shape[0], runs, w.shape[1] // runs), 1, 0)
        codes, codebook = lax.map(of_run, (cut, keys))
        narrow = jnp.uint8 if levels <= 256 else jnp.uint16
        return codes.T.astype(narrow), codebook[None]

    return per_layer(fit, table, stack_ndim)


def _numbers(table: TablePart, runs: int, levels: int) -> int:
    """What codes and tables take, in numbers of the table's dtype."""
    bits = table.rows * runs * (levels - 1).bit_length()
    return levels * table.dim + -(-bits // (8 * table.array.dtype.itemsize))
