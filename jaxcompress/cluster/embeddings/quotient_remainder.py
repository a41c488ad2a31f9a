"""Compositional embeddings by quotient and remainder: the fit to a given table, over a tree and as a recipe stage."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.embeddings.composed_rows import OPERATIONS, ComposedRows, Operation
from jaxcompress.cluster.embeddings.tables import TablePart, Weights, find_tables, per_layer
from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import setting_at, with_parts
from jaxcompress.core.paths import Where

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def quotient_remainder(
    params: Any,
    *,
    remainders: int | Mapping[str, int] | None = None,
    operation: Operation = "multiply",
    rounds: int = 20,
    weights: Weights | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Puts the rows of big tables together from one for the quotient and one for the remainder of their number.

    With about ``2 * sqrt(rows)`` rows instead of ``rows`` a given table is met only as far as it has this structure,
    which a trained one hardly has: the fit is a start, training on (or from scratch) does the rest.

    Args:
        params: tree of float arrays or leaves. Not changed.
        remainders: rows of the second table, at least 1; about ``rows / remainders`` are in the first one. None: the
            root of the rows, which takes the least. Or a dict from globs over paths to that: the first glob that fits
            a path counts, paths that fit none stay as they are.
        operation: ``"multiply"``, ``"add"`` or ``"concat"`` (each table holds half of the dimensions).
        rounds: of the alternating fit, from 1, see `fit_quotient_remainder`.
        weights: how much each row counts, by path, see `row_frequencies`. None: all the same.
        where: tables: globs over paths or a predicate; by default those that ``sites`` show as looked up, without
            ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `ComposedRows` leaves.

    Raises:
        ValueError: if a setting is out of range or saves nothing, or a chosen leaf is no table of rows (see
            `tables.find_tables`).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> small = quotient_remainder({"e": jnp.ones((10_000, 8))})
        >>> small["e"].quotient.shape, small["e"].remainder.shape
        ((100, 8), (100, 8))

    References:
        Shi et al., 2020. https://arxiv.org/abs/1909.02107
    """
    method = "quotient_remainder"
    if operation not in OPERATIONS:
        raise ValueError(f"{method}: operation must be one of {OPERATIONS}, got {operation!r}")
    check_integer("rounds", rounds, method, least=1)
    tables = find_tables(params, where=where, sites=sites, settings=remainders, weights=weights, method=method)
    leaves = []
    for table in tables:
        count = _remainders(table, setting_at(remainders, table.part.path))
        numbers = _numbers(table, count, operation)
        table.require_saving(numbers, method, "take remainders= nearer to the root of the rows")
        q, r = _fit(
            table.array, table.weights, rounds, stack_ndim=table.stack_ndim, remainders=count, operation=operation
        )
        leaves.append(ComposedRows(q, r, table.rows, operation))
    return with_parts(params, [table.part for table in tables], leaves)


@dataclasses.dataclass(frozen=True)
class QuotientRemainder:
    """Recipe stage of `quotient_remainder`, with the same fields but ``weights``, which are arrays."""

    remainders: int | Mapping[str, int] | None = None
    operation: Operation = "multiply"
    rounds: int = 20
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `quotient_remainder`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return quotient_remainder(params, **options, sites=sites)


@functools.partial(jax.jit, static_argnames=("stack_ndim", "remainders", "operation"))
def _fit(
    table: jax.Array, weights: jax.Array | None, rounds: int, *, stack_ndim: int, remainders: int, operation: Operation
) -> tuple[jax.Array, jax.Array]:
    def fit(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return fit_quotient_remainder(w, weights, remainders=remainders, operation=operation, rounds=rounds)

    return per_layer(fit, table, stack_ndim)


def _numbers(table: TablePart, remainders: int, operation: Operation) -> int:
    quotients = -(-table.rows // remainders)
    half = table.dim // 2
    if operation == "concat":
        return quotients * half + remainders * (table.dim - half)
    return (quotients + remainders) * table.dim


def _remainders(table: TablePart, setting: Any) -> int:
    if setting is None:
        return math.isqrt(table.rows - 1) + 1
    if isinstance(setting, bool) or not isinstance(setting, int) or not 1 <= setting <= table.rows:
        raise ValueError(
            f"quotient_remainder: remainders must be an integer from 1 to the {table.rows} rows, got {setting!r} for "
            f"{table.part.name!r}"
        )
    return setting


def fit_quotient_remainder(
    table: jax.Array,
    weights: jax.Array | None = None,
    *,
    remainders: int,
    operation: Operation = "multiply",
    rounds: int | jax.Array = 20,
) -> tuple[jax.Array, jax.Array]:
    """The two tables nearest to a given one in the (weighted) squared error.

    For ``add`` and ``concat`` the problem is linear. Alternating exact minimizations over the quotients and over the
    remainders solve ``add`` (where the rows fill the grid and all count the same, in one round), of ``concat`` the
    parts do not meet and are weighted means. For ``multiply`` each dimension is a matrix (quotients, remainders) that
    is fitted by one of rank 1: alternating least squares from one of the rows.

    Args:
        table: float ``[rows, dim]``.
        weights: how much each row counts, ``[rows]``, not negative; None: all the same.
        remainders: rows of the second table, static.
        operation: static.
        rounds: of the alternation.

    Returns:
        ``(quotient, remainder)`` in the dtype of ``table``, computed in float32 or wider.

    Example:
        >>> grid = jnp.array([[11.0], [12.0], [21.0], [22.0]])
        >>> q, r = fit_quotient_remainder(grid, remainders=2, operation="add")
        >>> (q[:, None] + r[None]).reshape(4, 1).tolist()
        [[11.0], [12.0], [21.0], [22.0]]

    References:
        Shi et al., 2020. Compositional Embeddings Using Complementary Partitions, section 3. They train the tables;
        the fit to a given one is ours. https://arxiv.org/abs/1909.02107
    """
    rows, dim = table.shape
    work = wider(table.dtype, jnp.float32)
    quotients = -(-rows // remainders)
    missing = ((0, quotients * remainders - rows), (0, 0))
    mass = jnp.ones((rows, 1), work) if weights is None else weights.astype(work)[:, None]
    mass = mass / jnp.maximum(jnp.max(mass), jnp.finfo(work).tiny)
    w = jnp.pad(table.astype(work), missing).reshape(quotients, remainders, dim)
    m = jnp.pad(mass, missing).reshape(quotients, remainders, 1)
    q, r = _FITS[operation](w, m, rounds)
    return q.astype(table.dtype), r.astype(table.dtype)


def _concat(w: jax.Array, m: jax.Array, rounds: Any) -> tuple[jax.Array, jax.Array]:
    del rounds
    cut = w.shape[2] // 2
    return _mean(w[:, :, :cut], m, 1), _mean(w[:, :, cut:], m, 0)


def _add(w: jax.Array, m: jax.Array, rounds: Any) -> tuple[jax.Array, jax.Array]:
    def both(_: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q = _mean(w - parts[1][None], m, 1)
        return q, _mean(w - q[:, None], m, 0)

    return lax.fori_loop(0, rounds, both, (_mean(w, m, 1), jnp.zeros_like(w[0])))


def _multiply(w: jax.Array, m: jax.Array, rounds: Any) -> tuple[jax.Array, jax.Array]:
    def both(_: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        r = parts[1]
        q = _quotient(jnp.sum(m * w * r[None], 1), jnp.sum(m * r[None] ** 2, 1))
        return q, _quotient(jnp.sum(m * w * q[:, None], 0), jnp.sum(m * q[:, None] ** 2, 0))

    # The remainders of the quotient that has most of the energy in its dimension: never orthogonal to the best one.
    energy = jnp.sum(m * w**2, axis=1)
    first = jnp.take_along_axis(w, jnp.argmax(energy, axis=0)[None, None, :], axis=0)[0]
    return lax.fori_loop(0, rounds, both, (jnp.zeros_like(w[:, 0]), first))


def _mean(w: jax.Array, m: jax.Array, axis: int) -> jax.Array:
    return _quotient(jnp.sum(m * w, axis), jnp.broadcast_to(jnp.sum(m, axis), jnp.sum(w, axis).shape))


def _quotient(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


_FITS = {"concat": _concat, "add": _add, "multiply": _multiply}
