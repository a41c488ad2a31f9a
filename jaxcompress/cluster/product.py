"""Product and vector quantization: blocks of neighbouring weights become entries of a table of vectors."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.cluster.checks import as_stored, check_integer, require_entries, stored_dtype
from jaxcompress.cluster.cut import Along, Cut, Tables, cut_of
from jaxcompress.cluster.importance import importance_of
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.roles import Roles
from jaxcompress.core.targets import Target, find_targets, over_batch
from jaxcompress.solvers.vector_kmeans import nearest_vectors, vector_kmeans

if TYPE_CHECKING:
    from jaxcompress.core.moments import Statistics
    from jaxcompress.core.sites import Sites

PerPath = int | Mapping[str, int]

_FLOOR = 1e-6  # of the mean importance: what counts for nothing still chooses among equals


def product(
    params: Any,
    stats: Statistics | None = None,
    *,
    block: PerPath,
    bits: PerPath | None = None,
    levels: PerPath | None = None,
    along: Along | None = None,
    tables: Tables = "layer",
    iterations: int | jax.Array = 50,
    codebook_dtype: Any = None,
    weights: Mapping[str, jax.Array] | None = None,
    key: jax.Array | int = 0,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Lets blocks of neighbouring weights share a few vectors, chosen by k-means.

    With ``stats`` the outputs of a layer are what changes little: the error of a block counts in the metric of the
    second moments of the inputs that it meets, in the choice of its code and in the place of the vectors (the layer's
    own objective, of which the moments between blocks are left out). Without, all weights count the same.

    A block lies along the inputs of one output: it fills the window of a convolution first (9 weights are a 3 x 3
    patch, 18 those of two input channels), then the innermost contracted axis. Of a masked leaf the kept weights are
    clustered and the mask stays. Stacked layers get their own tables, and so does each factor of a low-rank leaf. The
    vectors train afterwards: the gradient of each is the sum over its blocks (`jaxcompress.split_trainable`).

    Args:
        params: tree of float arrays or leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``; it knows what the axes mean. For later layers that make
            up for earlier ones: `jaxcompress.sequential`.
        block: number of weights in a block, or a dict from globs over paths to that: the first that fits counts.
        bits: bits per code: ``2 ** bits`` vectors, 1 to 16; or a dict from globs to that: paths that fit none stay as
            they are.
        levels: number of vectors instead, 1 to 65536; exactly one of the two must be given.
        along: ``"inputs"`` or ``"outputs"``: what blocks run along. None: the inputs; of what ``sites`` show to be only
            looked up (embeddings) the outputs, so that a row is a few codes.
        tables: ``"layer"``: all blocks of a layer share a table. ``"position"``: each place along the blocks' axes has
            its own (product quantization of rows: a better fit, more to store).
        iterations: most iterations per table, static or traced.
        codebook_dtype: dtype that the tables are stored in (``"float16"``, say, as in the paper); by default that of
            the array. Codes are chosen for the stored table; what exceeds its range becomes its largest number.
        weights: without ``stats``: how much every weight's squared error counts, by path, as of
            `jaxcompress.cluster.kmeans`. What counts for nothing, here and in ``stats``, goes to the nearest vector.
        key: a `jax.random.key` or an integer seed, for the start. What a leaf gets depends on it and on its path alone.
        where: leaves to cluster: globs over paths or a predicate; by default those with second moments, without
            ``stats`` those that ``sites`` show as contraction weights or embeddings, without either the float leaves of
            two axes or more, read as (in, out).
        sites: what `jaxcompress.sites` found; not needed with ``stats``.

    Returns:
        The tree with `ProductCodebook` leaves.

    Raises:
        ValueError: if not exactly one of ``bits`` and ``levels`` is given, a setting is out of range or does not fit a
            leaf, codes and tables would take as much as the weights (says how many levels save), the axes of a leaf are
            not known, ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded already, holds NaN or
            infinity (seen only outside ``jit``), or ``weights`` and ``stats`` are given both.
        TypeError: if a chosen leaf or ``codebook_dtype`` is not float.

    Example:
        >>> w = jnp.array([[1.0, 5.0, 1.0, 5.0, 1.0, 5.0, 1.0, 5.0], [2.0, 7.0, 2.0, 7.0, 2.0, 7.0, 2.0, 7.0]])
        >>> shared = product({"w": w}, block=2, levels=2)["w"]
        >>> shared.codes.shape, bool(jnp.allclose(shared.materialize(), w, atol=1e-5))
        ((1, 8), True)

    References:
        Stock et al., 2020. And the bit goes down. https://arxiv.org/abs/1907.05686
        Gong et al., 2014 (product quantization of dense layers). https://arxiv.org/abs/1412.6115
    """
    settings = _one_setting(bits, levels)
    check_integer("iterations", iterations, "product")
    if stats is not None and weights is not None:
        raise ValueError("product: give either stats= or weights=: both say how much errors count")
    if along not in (None, "inputs", "outputs") or tables not in ("layer", "position"):
        raise ValueError(
            f"product: along must be 'inputs', 'outputs' or None and tables 'layer' or 'position', got {along!r} and "
            f"{tables!r}"
        )
    found: list[Part | Target]
    if stats is None:
        parts = find_parts(params, where=where, sites=sites, settings=settings, method="product")
        require_finite(parts, "product")
        found = list(parts)
    else:
        found = list(find_targets(params, stats, where=where, settings=settings, method="product"))
        parts = [target.part for target in found if isinstance(target, Target)]
    require_entries(parts, "product")
    leaves = []
    for part, entry in zip(parts, found, strict=True):
        roles = _roles(entry)
        side = along or ("outputs" if _only_looked_up(part, sites) else "inputs")
        length = _setting("block", block, part.path, part.array.size)
        cut = cut_of(part.array.shape, roles, length, along=side, tables=tables, method="product", name=part.name)
        count = (
            _setting("bits", bits, part.path, 16) if levels is None else _setting("levels", levels, part.path, 65536)
        )
        count = min(2**count if levels is None else count, cut.sharing)
        stored = stored_dtype(codebook_dtype, part, "product")
        _check_saving(part, cut, count, stored)
        own = jax.random.key(key) if isinstance(key, int) else key
        codes, table = _fit(
            dense(part.array),
            part.support,
            None if weights is None else importance_of(part, weights, "product"),
            entry.statistic("second_moment") if isinstance(entry, Target) else None,
            jax.random.fold_in(own, zlib.crc32(part.name.encode())),
            iterations,
            cut=cut,
            levels=count,
            stored=stored,
        )
        leaves.append(ProductCodebook(codes, table, cut.block, jnp.dtype(part.array.dtype)))
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class Product:
    """Recipe stage of `product` without statistics, with the same fields but ``weights``, which are arrays."""

    block: PerPath
    bits: PerPath | None = None
    levels: PerPath | None = None
    along: Along | None = None
    tables: Tables = "layer"
    iterations: int = 50
    codebook_dtype: str | None = None
    key: int = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `product`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return product(params, **options, sites=sites)


@functools.partial(jax.jit, static_argnames=("cut", "levels", "stored"))
def _fit(
    array: jax.Array,
    support: jax.Array | None,
    weights: jax.Array | None,
    moment: jax.Array | None,
    key: jax.Array,
    iterations: int | jax.Array,
    *,
    cut: Cut,
    levels: int,
    stored: Any,
) -> tuple[jax.Array, jax.Array]:
    """Codes and tables of one leaf, a table at a time on a CPU."""
    wide = array.astype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)
    metric = None
    if moment is not None and cut.along == "inputs":
        metric = _floored_metric(cut.metric(moment.astype(wide.dtype)))
    elif moment is not None:
        weights = cut.importance(moment.astype(wide.dtype))
    counts = None if support is None else cut.split(support.astype(wide.dtype))
    if weights is not None:
        counts = _floored_importance(cut.split(weights.astype(wide.dtype)), counts)
    problems = (
        cut.split(wide),
        counts,
        metric,
        jax.random.split(key, cut.table_count),
    )

    def of_table(problem: Any) -> tuple[jax.Array, jax.Array]:
        x, counts, own, own_key = problem
        fitted = vector_kmeans(x, levels=levels, key=own_key, weights=counts, metric=own, iterations=iterations)
        found = as_stored(fitted.codebook, stored)
        return nearest_vectors(x, found.astype(x.dtype), weights=counts, metric=own), found

    codes, tables = over_batch(of_table, problems)
    codes = codes.astype(jnp.uint8 if levels <= 256 else jnp.uint16)
    return cut.join(codes), cut.join_tables(tables)


def _floored_importance(weights: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Importance ``[tables, ...]`` in units of its mean, a little of it for all that is kept; 1 where all have none."""
    held = weights if kept is None else weights * kept
    axes = tuple(range(1, held.ndim))
    held = held / jnp.maximum(jnp.max(held, axis=axes, keepdims=True), jnp.finfo(held.dtype).tiny)
    floored = held + _FLOOR * jnp.mean(held, axis=axes, keepdims=True)
    floored = jnp.where(jnp.any(held > 0, axis=axes, keepdims=True), floored, jnp.ones_like(held))
    return floored if kept is None else floored * kept


def _floored_metric(metric: jax.Array) -> jax.Array:
    """Metrics ``[tables, positions, d, d]`` with a little of their mean along the diagonal; 1 where all are zero."""
    d = metric.shape[-1]
    mean = jnp.mean(jnp.trace(metric, axis1=-2, axis2=-1), axis=1) / d
    ridge = jnp.where(mean > 0, _FLOOR * mean, jnp.ones_like(mean))
    return metric + ridge[:, None, None, None] * jnp.eye(d, dtype=metric.dtype)[None, None]


def _roles(entry: Part | Target) -> Roles:
    if isinstance(entry, Part):
        return entry.known_roles("product")
    if entry.layout.groups > 1:
        raise ValueError(
            f"product: {entry.path!r} is the kernel of a grouped convolution, whose outputs meet different inputs: "
            "call product without stats, with sites=, or leave it out of where="
        )
    return entry.layout.roles


def _only_looked_up(part: Part, sites: Sites | None) -> bool:
    met = [] if sites is None or part.fields else [site for site in sites if site.path == part.path]
    return any(site.lookup for site in met) and not any(site.contracting for site in met)


def _one_setting(bits: PerPath | None, levels: PerPath | None) -> PerPath:
    if bits is not None and levels is None:
        return bits
    if levels is not None and bits is None:
        return levels
    raise ValueError(f"product: give either bits= or levels=, got bits={bits!r} and levels={levels!r}")


def _setting(name: str, given: Any, path: str, most: int) -> int:
    try:
        value = setting_at(given, path)
    except StopIteration:
        raise ValueError(f"product: no glob of {name}={given!r} fits {path!r}") from None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"product: {name} must be an integer from 1 to {most}, got {value!r} for {path!r}")
    return value


def _check_saving(part: Part, cut: Cut, levels: int, stored: Any) -> None:
    """Refuses codes and tables that take as much as the weights."""
    blocks, entries = math.prod(cut.codes_shape), math.prod(cut.lengths) * cut.table_count * bit_width(stored)
    whole = part.array.size * bit_width(part.array.dtype)

    def takes(count: int) -> int:
        return blocks * (count - 1).bit_length() + entries * count

    if takes(levels) >= whole:
        most = max((n for bits in range(17) for n in (2**bits, (whole - 1 - blocks * bits) // entries)
                    if 1 <= n <= 2**bits and takes(n) < whole), default=0)  # fmt: skip
        raise ValueError(
            f"product: {levels} vectors of {math.prod(cut.lengths)} in {cut.table_count} tables save nothing in "
            f"{part.name!r} ({blocks} blocks): at most {most} levels would. Ask for fewer, for tables='layer', or "
            "leave the leaf out of where="
        )
