"""Weight sharing by k-means: a layer, a channel or a group gets a table of values and every weight a code into it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.cluster.checks import as_stored, check_integer, require_entries, stored_dtype
from jaxcompress.cluster.codebook import Codebook
from jaxcompress.cluster.importance import importance_of
from jaxcompress.core.fields import bit_width
from jaxcompress.core.granularity import Granularity, scale_shape
from jaxcompress.core.parts import Part, Roles, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.solvers.rows import by_batches, from_rows, rows_of
from jaxcompress.solvers.scalar_kmeans import Init, nearest, scalar_kmeans
from jaxcompress.solvers.units import unit_of

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

PerPath = int | Mapping[str, int]

_AT_ONCE = 2**24  # numbers that the tables fitted side by side may work with
_NUMBERS_PER_LEVEL = 1024  # about twice what a sum over an interval reads


def kmeans(
    params: Any,
    *,
    bits: PerPath | None = None,
    levels: PerPath | None = None,
    granularity: Granularity = "tensor",
    group_size: int | None = None,
    init: Init = "linear",
    iterations: int | jax.Array = 100,
    keep_zero: bool = False,
    codebook_dtype: Any = None,
    weights: Mapping[str, jax.Array] | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Lets the weights of every layer share a few values, chosen by k-means.

    Of a masked leaf the kept weights are clustered and the mask stays; dropped entries have code 0. Of a low-rank leaf
    each factor gets its own. If ``sites`` show that axes of a leaf are a stack (scanned layers, experts), each layer
    gets its own. A table never has more levels than weights; where these have fewer distinct values than levels, they
    are met exactly.

    Args:
        params: tree of float arrays or leaves. Not changed.
        bits: bits per code: ``2 ** bits`` levels. 1 to 16, or a dict from globs over paths to that: the first glob that
            fits a path counts, paths that fit none stay as they are.
        levels: number of levels instead, 1 to 65536; exactly one of the two must be given.
        granularity: ``"tensor"``: a table for each layer; ``"channel"``: one for each output channel (SqueezeLLM),
            which needs to know the axes: kernels of two are read as (in, out), others need ``sites``.
        group_size: with ``"channel"``: number of weights of one output channel that share a table; None: all of them.
        init: where the centroids start, see `jaxcompress.solvers.scalar_kmeans.scalar_kmeans`.
        iterations: most iterations per table, static or traced.
        keep_zero: keep a level that is exactly 0 for the entries that are exactly 0, and cluster the others into the
            remaining levels. For plain arrays with pruned weights; masked leaves need no such level. Fine-tuning moves
            it like any other.
        codebook_dtype: dtype that the tables are stored in (``"bfloat16"``, say); by default that of the array. Codes
            are chosen for the stored table; what exceeds its range becomes its largest number.
        weights: how much every weight's squared error counts, by path: arrays of the leaves' shapes, not negative
            (`jaxcompress.quantize.fisher` gives such, as in SqueezeLLM). A layer that has no importance at all is
            clustered as if all of its weights counted the same. None: they do.
        where: leaves to cluster: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `Codebook` leaves.

    Raises:
        ValueError: if not exactly one of ``bits`` and ``levels`` is given or it is out of range, ``where`` or a glob
            fits nothing, a chosen leaf is coded already, holds NaN or infinity (seen only outside ``jit``), or has no
            ``weights`` of its shape where some are given; if ``granularity`` is unknown, ``group_size`` does not fit,
            the axes of a leaf are not known, or tables for its channels or groups would take what they save (the
            break-even is named).
        TypeError: if a chosen leaf or ``codebook_dtype`` is not float.

    Example:
        >>> shared = kmeans({"w": jnp.array([[0.9, -2.0], [1.1, -2.5]])}, bits=1)
        >>> shared["w"].codes.tolist(), shared["w"].codebook.tolist()
        ([[1, 0], [1, 0]], [-2.25, 1.0])

    References:
        Han et al., 2016. https://arxiv.org/abs/1510.00149; Kim et al., 2024 (SqueezeLLM), equation 5, for ``weights``.
        https://arxiv.org/abs/2306.07629
    """
    if (bits is None) == (levels is None):
        raise ValueError(f"kmeans: give either bits= or levels=, got bits={bits!r} and levels={levels!r}")
    check_integer("iterations", iterations, "kmeans")
    settings = levels if bits is None else bits
    parts = find_parts(params, where=where, sites=sites, settings=settings, method="kmeans")
    require_entries(parts, "kmeans")
    require_finite(parts, "kmeans")
    groups: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        given = setting_at(settings, part.path)
        count = _checked("levels", given, 65536) if bits is None else 2 ** _checked("bits", given, 16)
        tables = _table_sizes(part, granularity, group_size)
        sharing = part.array.size // max(1, math.prod(tables))
        count = max(min(count, sharing), 1 + keep_zero)
        stored = stored_dtype(codebook_dtype, part, "kmeans")
        if granularity != "tensor":
            _check_saving(part, count, sharing, stored)
        kind = (
            part.array.shape,
            part.array.dtype,
            part.support is None,
            tables,
            _kept_sizes(part, tables),
            count,
            stored,
        )
        groups.setdefault(kind, []).append(i)
    leaves: dict[int, Codebook] = {}
    for (_, dtype, _, tables, kept, count, stored), members in groups.items():
        chosen = _cluster(
            [parts[i].array for i in members],
            [parts[i].support for i in members],
            None if weights is None else [importance_of(parts[i], weights, "kmeans") for i in members],
            iterations,
            tables=tables,
            levels=count,
            init=init,
            keep_zero=keep_zero,
            codebook_dtype=stored,
        )
        for i, (codes, table) in zip(members, chosen, strict=True):
            leaves[i] = Codebook(codes, table.reshape(*kept, count), dtype)
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class KMeans:
    """Recipe stage of `kmeans`, with the same fields but ``weights``, which are arrays."""

    bits: PerPath | None = None
    levels: PerPath | None = None
    granularity: Granularity = "tensor"
    group_size: int | None = None
    init: Init = "linear"
    iterations: int = 100
    keep_zero: bool = False
    codebook_dtype: str | None = None
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `kmeans`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return kmeans(params, **options, sites=sites)


@functools.partial(jax.jit, static_argnames=("tables", "levels", "init", "keep_zero", "codebook_dtype"))
def _cluster(
    arrays: Sequence[jax.Array],
    supports: Sequence[jax.Array | None],
    weights: Sequence[jax.Array] | None,
    iterations: int | jax.Array,
    *,
    tables: tuple[int, ...],
    levels: int,
    init: Init,
    keep_zero: bool,
    codebook_dtype: Any,
) -> list[tuple[jax.Array, jax.Array]]:
    """Codes and ``[*tables, levels]`` of arrays of one shape, all tables of all arrays in one batch."""
    shape, sizes = arrays[0].shape, (len(arrays), *tables)
    known = [support for support in supports if support is not None]

    def rows(given: Sequence[jax.Array] | None) -> jax.Array | None:
        return rows_of(jnp.stack(given), sizes) if given else None

    fit = functools.partial(
        _shared_values, levels=levels, init=init, keep_zero=keep_zero, codebook_dtype=codebook_dtype
    )
    of_row = (rows(arrays), rows(known), rows(weights))
    numbers = math.prod(shape) // max(1, math.prod(tables)) + _NUMBERS_PER_LEVEL * levels  # that a row works with
    codes, fitted = by_batches(
        lambda batch: jax.vmap(lambda row: fit(row[0], row[1], row[2], iterations))(batch),
        of_row,
        size=_AT_ONCE // numbers,
    )
    codes = from_rows(codes.astype(jnp.uint8 if levels <= 256 else jnp.uint16), (len(arrays), *shape), sizes)
    return list(zip(codes, fitted.reshape(*sizes, levels), strict=True))


def _shared_values(
    row: jax.Array,
    kept: jax.Array | None,
    weights: jax.Array | None,
    iterations: int | jax.Array,
    *,
    levels: int,
    init: Init,
    keep_zero: bool,
    codebook_dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    zero = row == jnp.zeros((), row.dtype)
    counted = (~zero if kept is None else kept & ~zero) if keep_zero else kept
    counted = counted if weights is None else _mass(weights, counted)
    fitted = scalar_kmeans(row, counted, levels=levels - keep_zero, init=init, iterations=iterations).codebook
    table = as_stored(fitted, codebook_dtype)
    codes = nearest(row.astype(fitted.dtype), table.astype(fitted.dtype))
    if keep_zero:
        table = jnp.concatenate([jnp.zeros((1,), table.dtype), table])
        codes = jnp.where(zero, 0, codes + 1)
    return codes if kept is None else jnp.where(kept, codes, 0), table


def _mass(weights: jax.Array, counted: jax.Array | None) -> jax.Array:
    """The importance of what counts, one on average; all the same where it has none."""
    mass = weights if counted is None else jnp.where(counted, weights, jnp.zeros_like(weights))
    alike = jnp.ones_like(weights) if counted is None else counted.astype(weights.dtype)
    mass = mass / unit_of(mass)
    total = jnp.sum(mass)
    some = total > jnp.zeros((), mass.dtype)
    return jnp.where(some, mass * (jnp.sum(alike) / jnp.where(some, total, jnp.ones_like(total))), alike)


def _table_sizes(part: Part, granularity: Granularity, group_size: int | None) -> tuple[int, ...]:
    """How many tables lie along each axis."""
    roles = part.roles or Roles((), (), ())
    return scale_shape(
        part.array.shape,
        roles if granularity == "tensor" else part.known_roles("kmeans"),
        granularity=granularity,
        group_size=group_size,
        method="kmeans",
        name=part.name,
    )


def _kept_sizes(part: Part, tables: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that a codebook keeps of them: the stack's alone where these lead and a layer has one table."""
    stack = part.stack == tuple(range(len(part.stack)))
    one = all(size == 1 for axis, size in enumerate(tables) if axis not in part.stack)
    return tables[: len(part.stack)] if stack and one else tables


def _check_saving(part: Part, levels: int, sharing: int, stored: Any) -> None:
    """Refuses tables that take as much as the codes save."""
    dense, code, entry = bit_width(part.array.dtype), (levels - 1).bit_length(), bit_width(stored)
    if code * sharing + entry * levels >= dense * sharing:
        even = entry * levels / (dense - code) if dense > code else math.inf
        raise ValueError(
            f"kmeans: tables of {levels} levels for {sharing} weights each save nothing in {part.name!r}: they break "
            f"even at {even:.4g} weights. Ask for fewer levels or larger groups, or leave the leaf out of where="
        )


def _checked(name: str, value: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"kmeans: {name} must be an integer from 1 to {most}, got {value!r}")
    return value
