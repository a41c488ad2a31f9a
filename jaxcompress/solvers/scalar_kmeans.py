"""k-means of scalars: Lloyd's iteration on sorted values.

Sorted, a cluster is an interval, and an iteration costs what the sums over intervals cost (see `sorted_sums`) instead
of (values x levels).

References:
    Lloyd, 1982. Least squares quantization in PCM.
    Han et al., 2016, section 3. https://arxiv.org/abs/1510.00149
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.intervals import best_intervals
from jaxcompress.solvers.sorted_sums import SortedSums, interval_moments, quantiles, sorted_sums
from jaxcompress.solvers.units import unit_of

Init: TypeAlias = Literal["linear", "density", "quantile", "optimal"]

_ITEMS = 512  # that the dynamic programme of "optimal" cuts


class ScalarKMeans(NamedTuple):
    """Centroids in ascending order, and for each value the index of the nearest one."""

    codebook: jax.Array
    codes: jax.Array


def scalar_kmeans(
    x: jax.Array,
    weights: jax.Array | None = None,
    *,
    levels: int,
    init: Init = "linear",
    iterations: int | jax.Array = 50,
) -> ScalarKMeans:
    """Clusters scalars by Lloyd's iteration: every value goes to its nearest centroid, every centroid to its mean.

    Besides, centroids that would hardly be missed (those of empty clusters first) move into clusters that gain more by
    being split. It stops when nothing changes any more, or after ``iterations``, with the best centroids it met: a
    local optimum. With fewer distinct values than levels every value is met exactly, and some levels coincide or go
    unused. All entries are finite whatever happens.

    Args:
        x: finite floats of any shape, below 2^31 entries. Computed in float32 (float64 for float64 values).
        weights: nonnegative, of the same shape, or bool; entries of weight 0 do not count, but get a code all the same.
        levels: number of centroids, static.
        init: ``"linear"``: evenly spaced from the least to the greatest value. ``"density"``: at even steps of the
            cumulative distribution, both ends included (Han et al.). ``"quantile"``: at the medians of ``levels`` parts
            of equal weight. ``"optimal"``: where dynamic programming puts them, exactly for up to 512 values, else
            on 512 runs of neighbouring values; costs ``levels * 512^2`` more.
        iterations: most iterations, static or traced.

    Returns:
        Codebook of shape ``(levels,)`` and int32 codes of the shape of ``x``.

    Raises:
        ValueError: if ``levels`` is below 1, or ``init`` is unknown, or ``x`` is empty or too large.

    Example:
        >>> scalar_kmeans(jnp.array([1.0, 9.0, 2.0, 10.0, 3.0]), levels=2)
        ScalarKMeans(codebook=Array([2. , 9.5], dtype=float32), codes=Array([0, 1, 0, 1, 0], dtype=int32))
    """
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, got {levels}")
    if not 0 < x.size < 2**31:
        raise ValueError(f"x must hold 1 to 2^31 - 1 values, got {x.size}")
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    given, mass = x.astype(dtype).reshape(-1), None if weights is None else weights.reshape(-1)
    unit = unit_of(given if mass is None else jnp.where(mass > jnp.zeros((), mass.dtype), given, 0))
    values = jnp.clip(given / unit, -8, 8)  # what does not count may be anything, and gets the code of an end
    sums = sorted_sums(values, mass)
    start = _optimal_centroids(sums, levels) if init == "optimal" else _start(sums, levels, init)
    centroids = _lloyd(sums, start, iterations)
    return ScalarKMeans(centroids * unit, nearest(values, centroids).reshape(x.shape))


def initial_centroids(x: jax.Array, weights: jax.Array, *, levels: int, init: Init) -> jax.Array:
    """Where the centroids start, with ``"linear"``, ``"density"`` or ``"quantile"``; see `scalar_kmeans`.

    Zeros if all weights are zero.

    Example:
        >>> x = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 8.0])
        >>> [initial_centroids(x, jnp.ones(6), levels=3, init=i).tolist() for i in ("linear", "density", "quantile")]
        [[0.0, 4.0, 8.0], [0.0, 2.0, 8.0], [0.0, 2.0, 4.0]]
    """
    return _start(sorted_sums(x, weights), levels, init)


def _start(sums: SortedSums, levels: int, init: Init) -> jax.Array:
    dtype = sums.values.dtype
    infinity = jnp.asarray(jnp.inf, dtype)
    counts = sums.weights > jnp.zeros((), dtype)
    low = jnp.min(jnp.where(counts, sums.values, infinity))
    high = jnp.max(jnp.where(counts, sums.values, -infinity))
    steps = jnp.arange(levels, dtype=dtype)
    if init == "linear":
        fraction = steps / jnp.asarray(max(levels - 1, 1), dtype) if levels > 1 else jnp.full_like(steps, 0.5)
        start = low * (1 - fraction) + high * fraction
    elif init in ("density", "quantile"):
        ends = init == "density" and levels > 1
        fraction = steps / jnp.asarray(levels - 1, dtype) if ends else (steps + 0.5) / jnp.asarray(levels, dtype)
        start = quantiles(sums, fraction)
    else:
        raise ValueError(f"init must be 'linear', 'density', 'quantile' or 'optimal', got {init!r}")
    return jnp.where(counts.any(), jnp.clip(start, low, high), jnp.zeros_like(start))


def nearest(x: jax.Array, codebook: jax.Array) -> jax.Array:
    """Index of the nearest entry of an ascending codebook, the lower one if two are as near.

    Example:
        >>> nearest(jnp.array([-5.0, 1.4, 1.5, 1.6]), jnp.array([0.0, 1.0, 2.0])).tolist()
        [0, 1, 1, 2]
    """
    return jnp.searchsorted(_borders(codebook), x, method="scan_unrolled").astype(jnp.int32)


def _optimal_centroids(sums: SortedSums, levels: int) -> jax.Array:
    """The means of the best intervals of runs of values: half of the runs of equal width, half of equal weight."""
    values, size = sums.values, sums.values.size
    if size <= _ITEMS:
        ends = jnp.arange(size + 1, dtype=jnp.int32)
    else:
        fraction = jnp.arange(1, _ITEMS // 2 + 1, dtype=values.dtype) / jnp.asarray(_ITEMS // 2, values.dtype)
        reached = jnp.cumsum(sums.weights)
        wide = jnp.searchsorted(values, values[0] + (values[-1] - values[0]) * fraction)
        heavy = jnp.searchsorted(reached, reached[-1] * fraction)
        ends = jnp.sort(jnp.concatenate([wide, heavy]).astype(jnp.int32)).at[-1].set(size)
        ends = jnp.pad(ends, (1, 0))
    mean = _ratio(jnp.sum(sums.weights * sums.values), jnp.sum(sums.weights))
    moments = interval_moments(sums, jnp.full(ends.shape[0] - 1, mean), ends[:-1], ends[1:])
    borders = ends[best_intervals(*moments, levels=levels)]
    here = values[jnp.minimum(borders[:-1], size - 1)]  # of an empty interval: where it lies
    weight, first, _ = interval_moments(sums, here, borders[:-1], borders[1:])
    return jnp.sort(here + _ratio(first, weight))


def _lloyd(sums: SortedSums, centroids: jax.Array, iterations: int | jax.Array) -> jax.Array:
    """The best centroids met in the iteration."""

    def unsettled(state: _State) -> jax.Array:
        return (state.step < iterations) & (state.still < 3)

    def improve(state: _State) -> _State:
        clusters = _clusters(sums, state.centroids, state.edges)
        error = jnp.sum(clusters.error)
        better = error < state.error
        moved = _relocated(clusters, state.step)
        edges = _edges(sums, moved)
        return _State(
            step=state.step + 1,
            centroids=moved,
            edges=edges,
            still=jnp.where((edges == state.edges).all(), state.still + 1, 0),
            error=jnp.where(better, error, state.error),
            best=jnp.where(better, clusters.means, state.best),
        )

    error = jnp.asarray(jnp.inf, centroids.dtype)
    start = _State(jnp.int32(0), centroids, _edges(sums, centroids), jnp.int32(0), error, centroids)
    return jnp.sort(lax.while_loop(unsettled, improve, start).best)


class _State(NamedTuple):
    step: jax.Array
    centroids: jax.Array  # [levels], ascending
    edges: jax.Array  # [levels + 1], of the clusters of these centroids
    still: jax.Array  # how many steps in a row changed nothing; after one of each turn nothing will
    error: jax.Array  # least sum of squared errors so far
    best: jax.Array  # the centroids that had it


class _Clusters(NamedTuple):
    """What an iteration knows of each cluster; all ``[levels]``, finite, zero for empty clusters."""

    weight: jax.Array
    means: jax.Array  # of an empty cluster: where its centroid was
    error: jax.Array  # sum of squared distances from the mean
    low: jax.Array  # means of the part below the centroid and of the part above
    high: jax.Array
    gain: jax.Array  # what the error falls by when the two parts become clusters


def _borders(centroids: jax.Array) -> jax.Array:
    return 0.5 * centroids[1:] + 0.5 * centroids[:-1]


def _edges(sums: SortedSums, centroids: jax.Array) -> jax.Array:
    """The cluster of each centroid as an interval of sorted positions: ``[edges[i], edges[i + 1])``."""
    inner = jnp.searchsorted(sums.values, _borders(centroids), side="right").astype(jnp.int32)
    ends = jnp.array([0, sums.values.size], jnp.int32)
    return jnp.concatenate([ends[:1], inner, ends[1:]])


def _clusters(sums: SortedSums, centroids: jax.Array, edges: jax.Array) -> _Clusters:
    middle = jnp.searchsorted(sums.values, centroids).astype(jnp.int32)
    middle = jnp.clip(middle, edges[:-1], edges[1:])
    start = jnp.stack([edges[:-1], middle], axis=1).reshape(-1)  # [2 levels]: the parts below and above each centroid
    end = jnp.stack([middle, edges[1:]], axis=1).reshape(-1)
    zeroth, first, second = interval_moments(sums, jnp.repeat(centroids, 2), start, end)
    weights, offsets = zeroth.reshape(-1, 2), _ratio(first, zeroth).reshape(-1, 2)
    weight = weights.sum(axis=1)
    shift = _ratio(first.reshape(-1, 2).sum(axis=1), weight)
    error = second.reshape(-1, 2).sum(axis=1) - weight * shift * shift
    low, high = (jnp.where(weights[:, i] > 0, offsets[:, i], shift) for i in (0, 1))
    gain = _ratio(weights[:, 0] * weights[:, 1], weight) * jnp.square(high - low)
    return _Clusters(weight, centroids + shift, jnp.maximum(error, 0), centroids + low, centroids + high, gain)


def _relocated(clusters: _Clusters, step: jax.Array) -> jax.Array:
    """The means, after centroids that are hardly missed have moved to where one more is worth it.

    The centroid that is missed least helps where splitting gains most, the next one likewise, while that lowers the
    error. So that no two neighbours leave at once, and none that is to be split, only centroids of even index leave in
    one step, those of odd index in the next, and the least missed of all, alone, in the third.
    """
    weight, means = clusters.weight, clusters.means
    infinity = jnp.asarray(jnp.inf, means.dtype)
    joined = _ratio(weight[:-1] * weight[1:], weight[:-1] + weight[1:]) * jnp.square(means[1:] - means[:-1])
    joined = jnp.where((weight[:-1] > 0) & (weight[1:] > 0), joined, infinity)
    ends = jnp.full((1,), infinity)
    missed = jnp.minimum(jnp.concatenate([ends, joined]), jnp.concatenate([joined, ends]))
    missed = jnp.where(weight > 0, missed, 0)
    index, turn = jnp.arange(means.shape[0], dtype=jnp.int32), step % 3
    leaves = jnp.where(turn == 2, index == jnp.argmin(missed).astype(jnp.int32), index % 2 == turn)
    missed = jnp.where(leaves, missed, infinity)
    gain = jnp.where(leaves, 0, clusters.gain)
    going, split = jnp.argsort(missed), jnp.argsort(-gain)
    pays = gain[split] > missed[going]
    moved = means.at[going].set(jnp.where(pays, clusters.high[split], means[going]))
    return jnp.sort(moved.at[split].set(jnp.where(pays, clusters.low[split], moved[split])))


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a / b``, 0 where ``b`` is 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
