"""Streaming statistics of what meets a leaf: computed from one call, merged over calls, devices and loop steps.

Rows of data are ``[stack..., rows, features]``. Sums stay sums until the end, so that merging is addition.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HALF_BINS = 2048  # histogram bins on either side of zero; a power of two
LEAST_EXPONENT = -120  # bins no narrower than 2**LEAST_EXPONENT, so that an all-zero batch has a width
SAMPLED_ROWS = 512  # of a batch, at most


@dataclasses.dataclass(frozen=True)
class Statistic:
    """How one statistic comes about.

    Attributes:
        compute: ``(x, out) -> arrays`` with ``x`` and ``out`` as ``[stack..., rows, features]``.
        merge: ``"sum"``, ``"max"``, ``"min"``, ``"histogram"``, ``"batches"`` or ``"rows"``.
    """

    compute: Callable[[jax.Array, jax.Array], Any]
    merge: str


def second_moment(x: jax.Array) -> jax.Array:
    """Sum over rows of the outer products, ``[stack..., features, features]``, in float32."""
    x = x.astype(jnp.float32)
    return jnp.einsum("...nk,...nl->...kl", x, x, precision=lax.Precision.HIGHEST)


def histogram(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Counts in `2 * HALF_BINS` bins of width ``2**exponent`` around zero: ``(counts, exponent)``.

    Widths are powers of two, so that merging histograms of different range only adds neighbouring bins and is exact.
    """
    stack = x.shape[:-2]
    flat = x.astype(jnp.float32).reshape(*stack, -1)
    _, above = jnp.frexp(jnp.max(jnp.abs(flat), axis=-1))  # absmax < 2**above
    exponent = jnp.maximum(above.astype(jnp.int32) - HALF_BINS.bit_length() + 1, LEAST_EXPONENT)
    width = jnp.ldexp(jnp.float32(1), exponent)
    index = jnp.floor(flat / width[..., None]).astype(jnp.int32)
    index = jnp.where(flat < 0, jnp.minimum(index, -1), index)  # a quotient that underflows to zero keeps its side
    index = jnp.clip(index + HALF_BINS, 0, 2 * HALF_BINS - 1)
    count = lambda row: jnp.zeros(2 * HALF_BINS, jnp.int32).at[row].add(1)  # noqa: E731  # mapped over the stack
    for _ in stack:
        count = jax.vmap(count)
    return count(index), exponent


def extent(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest entry, each ``[stack...]``: of one batch, over all its rows, loop steps and devices.

    On the host they get a leading axis of batches, along which later batches are appended in their order.
    """
    x = x.astype(jnp.float32)
    return jnp.min(x, axis=(-2, -1), initial=jnp.inf), jnp.max(x, axis=(-2, -1), initial=-jnp.inf)


def sample(x: jax.Array) -> jax.Array:
    """Some rows, always the same ones of arrays of one shape, ``[stack..., rows, features]``: of one batch.

    On the host those of later batches are appended. Of a loop that meets a leaf several times the last step counts, of
    several devices the first.
    """
    rows = x.shape[-2]
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(rows, SAMPLED_ROWS), replace=False))
    return jnp.take(x, chosen, axis=-2).astype(jnp.float32)


STATISTICS: dict[str, Statistic] = {
    "mean": Statistic(lambda x, out: jnp.sum(x.astype(jnp.float32), axis=-2), "sum"),
    "mean_abs": Statistic(lambda x, out: jnp.sum(jnp.abs(x.astype(jnp.float32)), axis=-2), "sum"),
    "second_moment": Statistic(lambda x, out: second_moment(x), "sum"),
    "output_second_moment": Statistic(lambda x, out: second_moment(out), "sum"),
    "absmax": Statistic(lambda x, out: jnp.max(jnp.abs(x), axis=-2).astype(jnp.float32), "max"),
    "min": Statistic(lambda x, out: jnp.min(x, axis=-2).astype(jnp.float32), "min"),
    "max": Statistic(lambda x, out: jnp.max(x, axis=-2).astype(jnp.float32), "max"),
    "histogram": Statistic(lambda x, out: histogram(x), "histogram"),
    "batch_ranges": Statistic(lambda x, out: extent(x), "batches"),
    "output_rows": Statistic(lambda x, out: sample(out), "rows"),
}
MERGES = {name: statistic.merge for name, statistic in STATISTICS.items()} | {
    "count": "sum",
    "nonfinite": "sum",
    "row_counts": "sum",
}


def collect(what: tuple[str, ...], x: jax.Array, out: jax.Array) -> dict[str, Any]:
    """The statistics of one call at one site."""
    found: dict[str, Any] = {name: STATISTICS[name].compute(x, out) for name in what}
    # Counted from the data rather than from its shape: under shard_map it then varies over devices as the data does.
    found["count"] = jnp.sum(jnp.isfinite(x[..., 0]) | True, axis=-1, dtype=jnp.int32)
    found["nonfinite"] = jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)
    return found


def combine(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Merges two results of `collect` of one site (on device, or on the host after `to_host`)."""
    return {name: _merge(MERGES[name], a[name], b[name]) for name in a}


def empty(like: dict[str, Any]) -> dict[str, Any]:
    """What leaves every other result unchanged when combined with it; ``like`` may be abstract."""
    return {name: _neutral(MERGES[name], value) for name, value in like.items()}


def across(statistics: dict[str, Any], axes: tuple[str, ...]) -> dict[str, Any]:
    """Merges over the devices of manual mesh axes."""
    if not axes:
        return statistics
    return {name: _across(MERGES[name], value, axes) for name, value in statistics.items()}


def to_host(statistics: dict[str, Any]) -> dict[str, Any]:
    """Counts as 64-bit NumPy integers, so that they stay exact over any number of batches; batches along an axis."""
    exact = ("count", "nonfinite", "row_counts")
    out = {name: np.asarray(value, np.int64) if name in exact else value for name, value in statistics.items()}
    if "histogram" in out:
        counts, exponent = out["histogram"]
        out["histogram"] = np.asarray(counts, np.int64), np.asarray(exponent)
    if "batch_ranges" in out and not isinstance(out["batch_ranges"][0], np.ndarray):
        out["batch_ranges"] = tuple(np.asarray(end)[None] for end in out["batch_ranges"])
    if "output_rows" in out:
        out["output_rows"] = np.asarray(out["output_rows"])
    return out


def _merge(how: str, a: Any, b: Any) -> Any:
    if how == "histogram":
        (counts_a, exp_a), (counts_b, exp_b) = a, b
        numpy = isinstance(counts_a, np.ndarray)
        exponent = np.maximum(exp_a, exp_b) if numpy else jnp.maximum(exp_a, exp_b)
        coarse = _coarsen_host if numpy else _coarsen
        return coarse(counts_a, exponent - exp_a) + coarse(counts_b, exponent - exp_b), exponent
    if how == "batches":
        if isinstance(a[0], np.ndarray):
            return tuple(np.concatenate(pair) for pair in zip(a, b, strict=True))
        return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])
    if how == "rows":
        return np.concatenate([a, b], -2) if isinstance(a, np.ndarray) else jnp.where(jnp.isnan(b), a, b)
    return {"sum": lambda: a + b, "max": lambda: jnp.maximum(a, b), "min": lambda: jnp.minimum(a, b)}[how]()


def _neutral(how: str, like: Any) -> Any:
    if how == "histogram":
        counts, exponent = like
        return jnp.zeros(counts.shape, counts.dtype), jnp.full(exponent.shape, LEAST_EXPONENT, exponent.dtype)
    if how == "batches":
        return _neutral("min", like[0]), _neutral("max", like[1])
    start = {"sum": 0, "max": -jnp.inf, "min": jnp.inf, "rows": jnp.nan}[how]
    return jnp.full(like.shape, start, like.dtype)


def _across(how: str, value: Any, axes: tuple[str, ...]) -> Any:
    if how == "histogram":
        counts, exponent = value
        widest = lax.pmax(exponent, axes)
        return lax.psum(_coarsen(counts, widest - exponent), axes), widest
    if how == "batches":
        return lax.pmin(value[0], axes), lax.pmax(value[1], axes)
    if how == "rows":
        first = functools.reduce(jnp.logical_and, [lax.axis_index(axis) == 0 for axis in axes])
        return lax.psum(jnp.where(first, value, jnp.zeros_like(value)), axes)
    return {"sum": lax.psum, "max": lax.pmax, "min": lax.pmin}[how](value, axes)


def _coarsen(counts: jax.Array, shift: jax.Array) -> jax.Array:
    """Joins ``2**shift`` neighbouring bins, keeping zero an edge."""

    def one(row: jax.Array, by: jax.Array) -> jax.Array:
        target = jnp.right_shift(jnp.arange(-HALF_BINS, HALF_BINS, dtype=by.dtype), jnp.minimum(by, 31)) + HALF_BINS
        return jnp.zeros_like(row).at[target].add(row)

    for _ in range(counts.ndim - 1):
        one = jax.vmap(one)
    return one(counts, shift)


def _coarsen_host(counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
    out = np.zeros_like(counts)
    for at in np.ndindex(counts.shape[:-1]):
        target = ((np.arange(2 * HALF_BINS) - HALF_BINS) >> min(int(shift[at]), 31)) + HALF_BINS
        np.add.at(out[at], target, counts[at])
    return out


def bin_edges(exponent: np.ndarray) -> np.ndarray:
    """Edges of the bins, ``[stack..., 2 * HALF_BINS + 1]``."""
    return (np.arange(2 * HALF_BINS + 1) - HALF_BINS) * np.ldexp(1.0, np.asarray(exponent))[..., None]
