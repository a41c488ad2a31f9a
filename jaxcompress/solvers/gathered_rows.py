"""Least squares for tables whose rows are sums of a few rows of a smaller table."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider


class GatheredFit(NamedTuple):
    """What `fit_gathered_rows` found.

    Attributes:
        table: ``[buckets, dim]``.
        iterations: how many were made.
        residual: norm of the gradient of each column over that at the start, ``[dim]``.
    """

    table: jax.Array
    iterations: jax.Array
    residual: jax.Array


def gathered_rows(table: jax.Array, ids: jax.Array, coefficients: jax.Array) -> jax.Array:
    """``sum_k coefficients[:, k] * table[ids[:, k]]``, one k at a time: never more than two tables of the result.

    Example:
        >>> gathered_rows(jnp.eye(3), jnp.array([[0, 2], [1, 1]]), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [[1.0, 0.0, 2.0], [0.0, 7.0, 0.0]]
    """
    start = jnp.zeros((ids.shape[0], table.shape[1]), table.dtype)
    return lax.scan(lambda total, at: (total + at[1][:, None] * table[at[0]], None), start, (ids.T, coefficients.T))[0]


def scattered_rows(rows: jax.Array, ids: jax.Array, coefficients: jax.Array, buckets: int) -> jax.Array:
    """The transpose of `gathered_rows`: every row is added to the buckets it is made of.

    Example:
        >>> scattered_rows(jnp.array([[1.0], [10.0]]), jnp.array([[0, 1], [1, 2]]), jnp.ones((2, 2)), 3).tolist()
        [[1.0], [11.0], [10.0]]
    """
    start = jnp.zeros((buckets, rows.shape[1]), rows.dtype)
    return lax.scan(
        lambda total, at: (total.at[at[0]].add(at[1][:, None] * rows), None), start, (ids.T, coefficients.T)
    )[0]


def fit_gathered_rows(
    target: jax.Array,
    ids: jax.Array,
    coefficients: jax.Array,
    *,
    buckets: int,
    weights: jax.Array | None = None,
    start: jax.Array | None = None,
    ridge: float | jax.Array = 0.0,
    iterations: int | jax.Array = 200,
    tolerance: float | jax.Array = 1e-5,
) -> GatheredFit:
    """The table that makes ``sum_i weights[i] * |gathered_rows(table, ids, coefficients)[i] - target[i]|**2`` least.

    Conjugate gradients on the normal equations, preconditioned by their diagonal, each column with steps of its own;
    the matrix is never formed. Where every row has one bucket, the diagonal is the matrix, and one iteration is exact.
    Buckets that no row (of weight) is made of stay as they start.

    Args:
        target: float ``[rows, dim]``.
        ids: integers ``[rows, k]`` in ``[0, buckets)``.
        coefficients: float ``[rows, k]``.
        buckets: rows of the table, static.
        weights: how much each row counts, ``[rows]``, not negative; None: all the same.
        start: ``[buckets, dim]`` to start from; None: zeros, which leads to a solution of least (weighted) norm.
        ridge: weight of ``|table|**2``, relative to the mean of the diagonal.
        iterations: most of them.
        tolerance: stops where the gradient of every column has fallen to this part of that at zero.

    Returns:
        A `GatheredFit`, computed in float32 or wider.

    Example:
        >>> ids, ones = jnp.array([[0, 1], [1, 2], [0, 2]]), jnp.ones((3, 2))
        >>> found = fit_gathered_rows(jnp.array([[3.0], [5.0], [4.0]]), ids, ones, buckets=3)
        >>> found.table.round().astype(int).tolist()
        [[1], [2], [3]]

    References:
        Hestenes and Stiefel, 1952. Methods of conjugate gradients for solving linear systems.
    """
    work = wider(target.dtype, jnp.float32)
    target, coefficients = target.astype(work), coefficients.astype(work)
    mass = jnp.ones((target.shape[0],), work) if weights is None else weights.astype(work)
    mass = mass / jnp.maximum(jnp.max(mass), jnp.finfo(work).tiny)
    diagonal = scattered_rows(mass[:, None], ids, coefficients**2, buckets)
    # A bucket that occurs twice in a row has the square of the sum there: the diagonal is only a preconditioner.
    damping = jnp.asarray(ridge, work) * jnp.mean(diagonal)
    inverse = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal + damping, 1), 0)

    def transposed(rows: jax.Array) -> jax.Array:
        return scattered_rows(rows * mass[:, None], ids, coefficients, buckets)

    def normal(table: jax.Array) -> jax.Array:
        return transposed(gathered_rows(table, ids, coefficients)) + damping * table

    right = transposed(target)
    table = jnp.zeros_like(right) if start is None else start.astype(work)
    rest = right if start is None else right - normal(table)
    scale = _norms(right)

    def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
        number, _, rest, _, _ = state
        return (number < iterations) & jnp.any(_norms(rest) > jnp.asarray(tolerance, work) * scale)

    def step(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        number, table, rest, way, energy = state
        image = normal(way)
        length = _ratio(energy, _inner(way, image))
        table, rest = table + length * way, rest - length * image
        scaled = inverse * rest
        now = _inner(rest, scaled)
        return number + 1, table, rest, scaled + _ratio(now, energy) * way, now

    first = inverse * rest
    begin = (jnp.zeros((), jnp.int32), table, rest, first, _inner(rest, first))
    number, table, rest, _, _ = lax.while_loop(unfinished, step, begin)
    return GatheredFit(table, number, _ratio(_norms(rest), scale))


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=0, keepdims=True)


def _norms(a: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(a**2, axis=0))


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a / b``, 0 where a column is solved."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
