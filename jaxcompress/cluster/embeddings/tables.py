"""What the methods of this folder act on: tables of a tree, with how often each row is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.moments import Statistics
from jaxcompress.core.parts import Part, find_parts, require_finite
from jaxcompress.core.paths import Where

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Weights = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class TablePart:
    """A table ``stack + (rows, dim)`` of a tree.

    Attributes:
        part: where it stands.
        array: the table.
        stack_ndim: number of leading axes that hold separate tables.
        weights: how much each row counts, ``[rows]``; None: all the same.
    """

    part: Part
    array: jax.Array
    stack_ndim: int
    weights: jax.Array | None

    @property
    def rows(self) -> int:
        """Rows of one table."""
        return self.array.shape[-2]

    @property
    def dim(self) -> int:
        """Entries of a row."""
        return self.array.shape[-1]

    def require_saving(self, numbers: int, method: str, cure: str) -> None:
        """Raises ValueError if so many numbers a table are no fewer than it has."""
        entries = self.rows * self.dim
        if numbers >= entries:
            raise ValueError(
                f"{method}: {numbers:,} numbers save nothing in {self.part.name!r}, whose tables have {entries:,}: "
                f"{cure}, or leave it out with where="
            )


def find_tables(
    params: Any,
    *,
    where: Where = None,
    sites: Sites | None = None,
    settings: Any = None,
    weights: Weights | None = None,
    method: str,
) -> list[TablePart]:
    """The tables that a method shall replace, in tree order.

    Args:
        params: tree of float arrays or leaves.
        where: which leaves; by default those that ``sites`` show as looked up, without ``sites`` the float leaves of
            two axes or more.
        sites: what `jaxcompress.sites` found.
        settings: if a dict from globs to settings, only the leaves that fit one of the globs.
        weights: how much each row counts, by path: ``[rows]`` arrays, not negative. Tables without an entry count all
            rows the same, and so do those whose weights are all zero.
        method: name for errors.

    Raises:
        ValueError: if ``where`` or a glob fits nothing, a chosen leaf is no table of rows, is pruned or coded, holds
            NaN or infinity (seen only outside ``jit``), or ``weights`` do not fit.
        TypeError: if a chosen leaf is not float.
    """
    if where is None and sites is not None:
        looked_up = frozenset(site.path for site in sites if site.lookup)
        where = lambda path, leaf: path in looked_up  # noqa: E731
    parts = find_parts(params, where=where, sites=sites, settings=settings, method=method)
    paths = {part.path for part in parts}
    for path in weights or ():
        if path not in paths:
            raise ValueError(f"{method}: weights= names {path!r}, which is none of the chosen tables {sorted(paths)}")
    found = [_table(part, sites, weights, method) for part in parts]
    require_finite(parts, method)
    return found


def row_frequencies(stats: Statistics, *, smoothing: float = 1.0) -> dict[str, jax.Array]:
    """How often each row of each table was taken, as ``weights=`` of the methods.

    Args:
        stats: what `jaxcompress.observe` found; tables that were looked up have counts.
        smoothing: added to every count, so that rows that never came are fitted too.

    Returns:
        Float32 arrays ``[rows]`` by path.

    Raises:
        ValueError: if nothing was looked up.

    Example:
        >>> from jaxcompress.core.observe import observe
        >>> stats = observe(lambda p, i: p["e"][i], {"e": jnp.ones((4, 2))}, [jnp.array([0, 2, 2])])
        >>> row_frequencies(stats, smoothing=0.5)["e"].tolist()
        [1.5, 0.5, 2.5, 0.5]
    """
    found: dict[str, np.ndarray] = {}
    for path in stats:
        for entry in stats[path]:
            if "row_counts" in entry.values:
                counts = np.asarray(entry["row_counts"], np.float64)
                found[path] = found.get(path, 0) + counts.reshape(-1, counts.shape[-1]).sum(0)
    if not found:
        raise ValueError(f"row_frequencies: none of the observed leaves {list(stats)} was looked up")
    return {path: jnp.asarray(counts + smoothing, jnp.float32) for path, counts in found.items()}


def per_layer(fit: Callable[[jax.Array], Any], table: jax.Array, stack_ndim: int) -> Any:
    """``fit`` of every layer of a stack of tables; its results lead with the stack.

    Example:
        >>> per_layer(lambda w: w.sum(), jnp.ones((3, 4, 2)), stack_ndim=1).tolist()
        [8.0, 8.0, 8.0]
    """
    for _ in range(stack_ndim):
        fit = jax.vmap(fit)
    return fit(table)


def _table(part: Part, sites: Sites | None, weights: Weights | None, method: str) -> TablePart:
    array: Any = part.array
    stack = next(n for n in range(len(part.stack) + 1) if n not in part.stack)
    if array.ndim - stack != 2:
        raise ValueError(
            f"{method}: {part.name!r} (shape {array.shape}, stack axes {part.stack}) is no table of rows: leave it out "
            "with where=, or pass sites=jc.sites(fn, params, *inputs) if it is a stack of tables"
        )
    if part.support is not None:
        raise ValueError(f"{method}: {part.name!r} is pruned, and rows that are put together anew would not stay so")
    looked_up = {axis for site in sites or () if site.path == part.path for axis in site.lookup}
    if looked_up and not part.fields and looked_up != {stack}:
        raise ValueError(
            f"{method}: {part.name!r} is looked up along axis {sorted(looked_up)}, and rows must be axis {stack}"
        )
    return TablePart(part, array, stack, _weights(part, array, weights, method))


def _weights(part: Part, array: jax.Array, weights: Weights | None, method: str) -> jax.Array | None:
    if weights is None or part.path not in weights:
        return None
    given = jnp.asarray(weights[part.path])
    if given.shape != array.shape[-2:-1]:
        raise ValueError(
            f"{method}: weights= of {part.path!r} must have the shape {array.shape[-2:-1]}, one for each row, got "
            f"{given.shape}"
        )
    given = given if given.dtype == jnp.float64 else given.astype(jnp.float32)
    bad = ~jnp.all(jnp.isfinite(given) & (given >= 0))
    if not isinstance(bad, Tracer) and bad:
        raise ValueError(f"{method}: weights= of {part.path!r} are negative, NaN or infinite somewhere")
    return jnp.where(jnp.any(given > 0), given, jnp.ones_like(given))
