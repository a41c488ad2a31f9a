"""Compositional embeddings: a row is put together from one for the quotient and one for the remainder of its number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.cluster.embeddings.table import Fields, Options, Table, dot
from jaxcompress.core.leaf import ArrayOrLeaf, leaf_kind

Operation = Literal["multiply", "add", "concat"]
OPERATIONS = ("multiply", "add", "concat")


def _take(fields: Fields, indices: jax.Array, *, rows: int, operation: Operation) -> jax.Array:
    del rows
    count = fields["remainder"].shape[0]
    q = jnp.take(fields["quotient"], indices // count, axis=0, mode="clip")
    r = jnp.take(fields["remainder"], indices % count, axis=0, mode="clip")
    if operation == "concat":
        return jnp.concatenate([q, r], axis=1)
    return q + r if operation == "add" else q * r


def _head(fields: Fields, x: jax.Array, options: Options, *, rows: int, operation: Operation) -> jax.Array:
    quotient, remainder = fields["quotient"], fields["remainder"]
    if operation == "multiply":
        scores = _scores_of_products(quotient, remainder, x, options)
    else:
        cut = quotient.shape[1]
        of_q, of_r = (x[:, :cut], x[:, cut:]) if operation == "concat" else (x, x)
        by_q, by_r = dot(of_q, quotient, options, transposed=True), dot(of_r, remainder, options, transposed=True)
        scores = by_q[:, :, None] + by_r[:, None, :]
    return scores.reshape(x.shape[0], quotient.shape[0] * remainder.shape[0])[:, :rows]


def _scores_of_products(quotient: jax.Array, remainder: jax.Array, x: jax.Array, options: Options) -> jax.Array:
    """``sum_d x[n, d] q[i, d] r[j, d]``, one i at a time: no more than the rows of one quotient are held."""

    @jax.checkpoint
    def scores(row: jax.Array) -> jax.Array:
        return dot(x * row[None, :], remainder, options, transposed=True)

    return jnp.moveaxis(lax.map(scores, quotient), 0, 1)


def _mix(fields: Fields, x: jax.Array, options: Options, *, rows: int, operation: Operation) -> jax.Array:
    quotient, remainder = fields["quotient"], fields["remainder"]
    count = quotient.shape[0], remainder.shape[0]
    grid = jnp.pad(x, ((0, 0), (0, count[0] * count[1] - rows))).reshape(x.shape[0], *count)
    if operation == "multiply":
        by_q = lax.dot_general(
            grid, remainder, (((2,), (0,)), ((), ())), precision=options.precision
        )  # [n, quotients, dim]
        mixed = jnp.sum(by_q * quotient[None], axis=1)
        wanted = options.preferred_element_type
        return mixed if wanted is None else mixed.astype(wanted)
    q, r = dot(jnp.sum(grid, 2), quotient, options), dot(jnp.sum(grid, 1), remainder, options)
    return jnp.concatenate([q, r], axis=1) if operation == "concat" else q + r


@leaf_kind("composed_rows", trainable=("quotient", "remainder"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComposedRows(Table):
    """A table whose row i is ``quotient[i // m] (operation) remainder[i % m]``, m being the rows of ``remainder``.

    Every row has a pair of its own, so that no two rows must be equal, unlike with hashing. The tied head of ``add``
    and ``concat`` is two small products and an outer sum: cheaper than a dense one. That of ``multiply`` costs as much
    as a dense one and holds the rows of one quotient at a time.

    Attributes:
        quotient: float, ``stack + (quotients, dim)``, of ``concat`` the first dimensions only; an array or leaf.
        remainder: float, ``stack + (m, dim)``, of ``concat`` the last dimensions only; likewise.
        rows: how many rows it stands for, at most ``quotients * m``.
        operation: ``"multiply"``, ``"add"`` or ``"concat"``.
    """

    main = "quotient"

    quotient: ArrayOrLeaf
    remainder: ArrayOrLeaf
    rows: int = dataclasses.field(default=1, metadata={"static": True})
    operation: Operation = dataclasses.field(default="multiply", metadata={"static": True})

    take = staticmethod(_take)
    head = staticmethod(_head)
    mix = staticmethod(_mix)

    @classmethod
    def create(
        cls, quotient: ArrayOrLeaf, remainder: ArrayOrLeaf, *, rows: int, operation: Operation = "multiply"
    ) -> Self:
        """Checks the fields.

        Args:
            quotient: float, ``stack + (quotients, dim)``.
            remainder: float of the same dtype, ``stack + (m, dim)``.
            rows: ``(quotients - 1) * m < rows <= quotients * m``, static.
            operation: static. The dimensions may differ for ``"concat"`` alone.

        Raises:
            TypeError: if a field is not float, or the dtypes differ.
            ValueError: if the shapes, the number of rows and the operation do not go together.

        Example:
            >>> leaf = ComposedRows.create(
            ...     jnp.array([[10.0], [20.0]]), jnp.array([[1.0], [2.0]]), rows=3, operation="add"
            ... )
            >>> leaf.materialize().tolist()
            [[11.0], [12.0], [21.0]]
        """
        if operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {OPERATIONS}, got {operation!r}")
        if quotient.dtype != remainder.dtype or not jnp.issubdtype(quotient.dtype, jnp.floating):
            raise TypeError(
                f"quotient and remainder must be of one float dtype, got {quotient.dtype} and {remainder.dtype}"
            )
        same = operation == "concat" or quotient.shape[-1:] == remainder.shape[-1:]
        if min(quotient.ndim, remainder.ndim) < 2 or quotient.shape[:-2] != remainder.shape[:-2] or not same:
            raise ValueError(
                "quotient and remainder must have the shapes stack + (quotients, dim) and stack + (m, dim), got "
                f"{quotient.shape} and {remainder.shape} for operation={operation!r}"
            )
        quotients, m = quotient.shape[-2], remainder.shape[-2]
        if not (quotients - 1) * m < rows <= quotients * m:
            raise ValueError(
                f"rows must be above {(quotients - 1) * m} and at most {quotients * m}, got {rows}: {quotients} "
                f"quotients and {m} remainders number no others"
            )
        return cls(quotient, remainder, int(rows), operation)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        rows: int,
        dim: int,
        *,
        remainders: int,
        operation: Operation = "multiply",
        deviation: float | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Random tables to train from, whose rows have entries of standard deviation ``deviation`` (``dim**-0.5``).

        Of ``multiply`` both tables have the root of that, so that gradients reach both alike; of ``concat`` the
        quotients have half of the dimensions.

        Example:
            >>> leaf = ComposedRows.init(jax.random.key(0), 1000, 8, remainders=32)
            >>> leaf.shape, leaf.quotient.shape
            ((1000, 8), (32, 8))
        """
        spread = float(dim**-0.5 if deviation is None else deviation)
        widths = (dim // 2, dim - dim // 2) if operation == "concat" else (dim, dim)
        part = {"multiply": spread**0.5, "add": spread * 0.5**0.5, "concat": spread}[operation]
        first, second = jax.random.split(key)
        q = jax.random.normal(first, (-(-rows // remainders), widths[0]), dtype) * jnp.asarray(part, dtype)
        r = jax.random.normal(second, (remainders, widths[1]), dtype) * jnp.asarray(part, dtype)
        return cls.create(q, r, rows=rows, operation=operation)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both hold the dimensions, unless each has some of them; none holds the rows."""
        n = self.stack_ndim
        axes = (*range(n), None, None if self.operation == "concat" else n + 1)
        return {"quotient": axes, "remainder": axes}

    def core_shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        q, r = self.quotient.shape[-1], self.remainder.shape[-1]
        return self.rows, (q + r if self.operation == "concat" else max(q, r))

    def settings(self) -> dict[str, Any]:
        """The static fields."""
        return {"rows": self.rows, "operation": self.operation}
