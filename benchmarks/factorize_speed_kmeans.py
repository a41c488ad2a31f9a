"""k-means of scalars: sorted values against the distances of all values to all levels, and against scikit-learn.

All start at the same evenly spaced levels and take the same number of iterations. Ours also moves levels that are
hardly missed to where one more is worth it; the ``inertia`` rows (sum of squared errors, in float64) show what each
reached. Every time is from the values to levels and codes.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.cluster import KMeans

from benchmarks.results import interleaved_ms, row
from jaxcompress.solvers.scalar_kmeans import scalar_kmeans

ITERATIONS = 20


def rows(quick: bool) -> list[dict[str, Any]]:
    """Times, their ratios, and the inertias."""
    size, levels = (100_000, 64) if quick else (1_000_000, 256)
    x = jax.random.normal(jax.random.key(0), (size,))
    start = jnp.linspace(jnp.min(x), jnp.max(x), levels)
    column = np.asarray(x)[:, None]
    peer = KMeans(levels, init=np.asarray(start)[:, None], n_init=1, max_iter=ITERATIONS, tol=0)
    ours = functools.partial(jax.jit(scalar_kmeans, static_argnames="levels"), x, levels=levels, iterations=ITERATIONS)
    theirs = functools.partial(jax.jit(_nxk), x, start)
    rivals = {
        "ours": lambda: jax.block_until_ready(ours()),
        "nxk": lambda: jax.block_until_ready(theirs()),
        "sklearn": lambda: _fitted(peer, column),
    }
    ms = interleaved_ms(rivals, rounds=2 if quick else 3)
    inertia = {
        "ours": _inertia(x, ours().codebook),
        "nxk": _inertia(x, theirs()[0]),
        "sklearn": _inertia(x, _fitted(peer, column)),
    }
    names = {"nxk": "values x levels, jit", "sklearn": "scikit-learn"}
    what = f"{size:,} weights, {levels} levels"
    return [
        line
        for rival, name in names.items()
        for line in (
            row(f"kmeans {what}, time", ms["ours"], "ms", name, ms[rival]),
            row(f"kmeans over {rival}", ms[rival] / ms["ours"], "x", name, 1.0),
            row(f"kmeans {what}, inertia", inertia["ours"], "sum", name, inertia[rival]),
        )
    ]


def _nxk(x: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lloyd's iteration as one writes it: distances of all values to all levels, sums by segment."""

    def codes_of(levels: jax.Array) -> jax.Array:
        return jnp.argmin(jnp.square(x[:, None] - levels[None, :]), axis=1)

    def improve(levels: jax.Array, _: None) -> tuple[jax.Array, None]:
        codes = codes_of(levels)
        count = jax.ops.segment_sum(jnp.ones_like(x), codes, levels.size)
        total = jax.ops.segment_sum(x, codes, levels.size)
        return jnp.where(count > 0, total / jnp.maximum(count, 1), levels), None

    levels, _ = lax.scan(improve, start, None, length=ITERATIONS)
    return levels, codes_of(levels)


def _fitted(peer: KMeans, column: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it has not converged after so few iterations
        return peer.fit(column).cluster_centers_[:, 0]


def _inertia(x: jax.Array, levels: Any) -> float:
    """The sum of squared distances to the nearest level, in float64."""
    values, table = np.asarray(x, np.float64), np.sort(np.asarray(levels, np.float64))
    at = np.searchsorted((table[1:] + table[:-1]) / 2, values)
    return float(np.sum(np.square(values - table[at])))
