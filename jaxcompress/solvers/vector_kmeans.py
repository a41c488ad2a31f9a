"""k-means of vectors, where an error may count by entry, or in a metric of its own at each position.

References:
    Lloyd, 1982. Least squares quantization in PCM.
    Stock et al., 2020, sections 3.2 and 3.3 (the weighted steps). https://arxiv.org/abs/1907.05686
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.kmeans_plus_plus import spread_out

_CHUNK = 8192  # vectors whose distances to all centroids are held at once
_SAMPLE = 64  # vectors for each centroid among which the start is drawn
_RIDGE = 1e-5  # of a metric, towards the plain mean where data say nothing


class VectorKMeans(NamedTuple):
    """Centroids, for each vector the index of the nearest one, and the sum of the (weighted) squared distances."""

    codebook: jax.Array
    codes: jax.Array
    error: jax.Array


class _Chunk(NamedTuple):
    """Vectors that share a metric."""

    x: jax.Array  # [size, d]
    weights: jax.Array  # [size, d]: how much each entry counts, or [size, 1]: the vector; 0 for padding
    metric: jax.Array | None  # [d, d]


def vector_kmeans(
    x: jax.Array,
    *,
    levels: int,
    key: jax.Array,
    weights: jax.Array | None = None,
    metric: jax.Array | None = None,
    iterations: int | jax.Array = 50,
    tolerance: float | jax.Array = 1e-5,
) -> VectorKMeans:
    """Clusters vectors by Lloyd's iteration from a start by k-means++.

    Every vector goes to its nearest centroid, every centroid to the best place for its vectors. The distance of ``v``
    to ``c`` is ``sum_i weights_i (v_i - c_i)^2``, or with a metric ``(v - c)^T metric (v - c)`` over the entries that
    count. A centroid without vectors moves to the vector that is served worst in one of the clusters with the largest
    such error. With fewer distinct vectors than levels some centroids go unused. Memory stays within a few chunks of
    8192 vectors times the levels.

    Args:
        x: finite floats ``[positions, n, d]``, or ``[n, d]``. Computed in float32 (float64 for float64 values).
        levels: number of centroids, static.
        key: for the start: greedy k-means++ on a sample of 64 vectors for each centroid.
        weights: nonnegative, of the shape of ``x``; None: all entries count the same. With a metric, bool: which count.
        metric: symmetric and positive semidefinite, ``[positions, d, d]`` or ``[d, d]``: second moments of the data
            that meet the vectors. None: the identity.
        iterations: most iterations, static or traced.
        tolerance: it stops when an iteration lowers the error by less than this fraction.

    Returns:
        Codebook ``[levels, d]``, int32 codes of the leading shape of ``x``, and the error of that pair.

    Raises:
        ValueError: if ``levels`` is below 1, ``x`` is empty or the shapes do not fit.

    Example:
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [9.0, 8.0]])
        >>> found = vector_kmeans(x, levels=2, key=jax.random.key(0))
        >>> sorted(found.codebook.tolist()), round(float(found.error), 3)
        ([[0.5, 0.0], [9.0, 8.5]], 1.0)
    """
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, got {levels}")
    if x.ndim not in (2, 3) or not x.size:
        raise ValueError(f"x must be [positions, n, d] or [n, d] and not empty, got the shape {x.shape}")
    if weights is not None and weights.shape != x.shape:
        raise ValueError(f"weights must have the shape of x, {x.shape}, got {weights.shape}")
    own = (*x.shape[:-2], x.shape[-1], x.shape[-1])
    if metric is not None and metric.shape != own:
        raise ValueError(f"metric must have the shape {own} for x of shape {x.shape}, got {metric.shape}")
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    values, centre, scale = _normalised(x.astype(dtype), weights)
    chunks = _chunks(values, weights, None if metric is None else metric.astype(dtype))
    start = _start(chunks, levels, key)
    codebook = _lloyd(chunks, start, iterations, tolerance)
    codes, errors = lax.map(lambda chunk: _nearest(chunk, codebook), chunks)
    return VectorKMeans(codebook * scale + centre[None], _cut_back(codes, x.shape), jnp.sum(errors) * scale * scale)


def nearest_vectors(
    x: jax.Array, codebook: jax.Array, *, weights: jax.Array | None = None, metric: jax.Array | None = None
) -> jax.Array:
    """Index of the nearest entry of a codebook ``[levels, d]`` for every vector; distances as of `vector_kmeans`.

    Example:
        >>> nearest_vectors(jnp.array([[0.0, 9.0], [4.0, 0.0]]), jnp.array([[3.0, 0.0], [0.0, 5.0]])).tolist()
        [1, 0]
    """
    values, centre, scale = _normalised(x, weights)
    chunks = _chunks(values, weights, metric)
    codes, _ = lax.map(lambda chunk: _nearest(chunk, (codebook - centre[None]) / scale), chunks)
    return _cut_back(codes, x.shape)


def _cut_back(codes: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Codes of chunks without those of the padding, one for each vector."""
    return codes.reshape(math.prod(shape[:-2]), -1)[:, : shape[-2]].reshape(shape[:-1])


def _normalised(x: jax.Array, weights: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vectors about their mean and within one, so that expanded squares neither cancel nor overflow."""
    axes = tuple(range(x.ndim - 1))
    counts = jnp.ones_like(x) if weights is None else (weights > jnp.zeros((), weights.dtype)).astype(x.dtype)
    total = jnp.maximum(jnp.sum(counts, axis=axes), 1)
    largest = jnp.max(jnp.abs(jnp.where(counts > 0, x, 0)))
    scale = jnp.where(largest > 0, largest, 1)
    scaled = jnp.where(counts > 0, x / scale, 0)  # what does not count may be anything
    centre = jnp.sum(scaled, axis=axes) / total
    apart = scaled - centre.reshape(*(1,) * len(axes), -1)
    return jnp.where(counts > 0, apart, 0), centre * scale, scale


def _chunks(x: jax.Array, weights: jax.Array | None, metric: jax.Array | None) -> _Chunk:
    """Vectors in chunks of one size and one metric each, padded by vectors that do not count."""
    *lead, n, d = x.shape
    mass = jnp.isfinite(x[..., :1]).astype(x.dtype) if weights is None else weights.astype(x.dtype)
    size = -(-n // -(-n // _CHUNK))
    parts = -(-n // size)

    def cut(array: jax.Array) -> jax.Array:
        flat = array.reshape(math.prod(lead), n, array.shape[-1])
        return jnp.pad(flat, ((0, 0), (0, parts * size - n), (0, 0))).reshape(-1, size, array.shape[-1])

    of_chunks = None if metric is None else jnp.repeat(metric.reshape(-1, d, d), parts, axis=0)
    return _Chunk(cut(x), cut(mass), of_chunks)


def _distances(chunk: _Chunk, codebook: jax.Array) -> jax.Array:
    """``[size, levels]``, by expanding the squares."""
    x, w = chunk.x, chunk.weights
    moved = w * (x if chunk.metric is None else _dot(w * x, chunk.metric))
    own = jnp.sum(moved * x, axis=1, keepdims=True)
    if chunk.metric is None:
        ends = _dot(w, _as_wide(jnp.square(codebook), w).T)
    elif w.shape[1] == 1:
        ends = w * jnp.sum(_dot(codebook, chunk.metric) * codebook, axis=1)[None]
    else:
        pairs = (codebook[:, :, None] * codebook[:, None, :]).reshape(len(codebook), -1)
        ends = _dot(_own_metrics(chunk.metric, w), pairs.T)
    return jnp.maximum(own - 2 * _dot(moved, codebook.T) + ends, 0)


def _as_wide(squares: jax.Array, w: jax.Array) -> jax.Array:
    """Summed over the entries where these have no weights of their own."""
    return squares if w.shape[1] == squares.shape[1] else jnp.sum(squares, axis=1, keepdims=True)


def _own_metrics(metric: jax.Array, w: jax.Array) -> jax.Array:
    """``[size, d * d]``: the metric of each vector over the entries that count."""
    return (w[:, :, None] * metric[None] * w[:, None, :]).reshape(len(w), -1)


def _nearest(chunk: _Chunk, codebook: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Codes of a chunk, and the sum of its errors."""
    distances = _distances(chunk, codebook)
    return jnp.argmin(distances, axis=1).astype(jnp.int32), jnp.sum(jnp.min(distances, axis=1))


class _Sums(NamedTuple):
    """What a step gathers over the chunks."""

    error: jax.Array
    weight: jax.Array  # [levels, d] or [levels, 1]: how much the entries of a cluster count
    total: jax.Array  # [levels, d]
    metric: jax.Array  # [levels, d, d] and
    moved: jax.Array  # [levels, d]: the normal equations; without a metric [levels, 0, 0] and [levels, 0]
    worst: jax.Array  # [levels]: the largest error of a vector in the cluster,
    farthest: jax.Array  # [levels, d]: and that vector


def _lloyd(chunks: _Chunk, start: jax.Array, iterations: int | jax.Array, tolerance: float | jax.Array) -> jax.Array:
    """The best centroids met."""

    def unsettled(state: tuple[jax.Array, ...]) -> jax.Array:
        step, _, _, _, settled = state
        return (step < iterations) & ~settled

    def improve(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, codebook, best, least, _ = state
        sums = _gathered(chunks, codebook)
        moved, empty = _moved(sums, codebook)
        better = sums.error < least
        settled = (least - sums.error <= tolerance * least) & ~empty & (step > 0)
        return step + 1, moved, jnp.where(better, codebook, best), jnp.where(better, sums.error, least), settled

    infinity = jnp.asarray(jnp.inf, start.dtype)
    state = (jnp.int32(0), start, start, infinity, jnp.asarray(False))
    _, last, best, least, _ = lax.while_loop(unsettled, improve, state)
    _, errors = lax.map(lambda chunk: _nearest(chunk, last), chunks)
    return jnp.where(jnp.sum(errors) <= least, last, best)


def _gathered(chunks: _Chunk, codebook: jax.Array) -> _Sums:
    levels, d = codebook.shape
    dense = 0 if chunks.metric is None else d

    def add(sums: _Sums, chunk: _Chunk) -> tuple[_Sums, None]:
        distances = _distances(chunk, codebook)
        code, error = jnp.argmin(distances, axis=1), jnp.min(distances, axis=1)
        member = jax.nn.one_hot(code, levels, dtype=codebook.dtype).T  # [levels, size]
        errors = member * error[None]
        worst, at = jnp.max(errors, axis=1), jnp.argmax(errors, axis=1)
        found = worst > sums.worst
        metric, moved = sums.metric, sums.moved
        if chunk.metric is not None:
            w = chunk.weights
            own = _own_metrics(chunk.metric, w) if w.shape[1] > 1 else w * chunk.metric.reshape(1, -1)
            metric = metric + _dot(member, own).reshape(levels, d, d)
            moved = moved + _dot(member, w * _dot(w * chunk.x, chunk.metric))
        return _Sums(
            sums.error + jnp.sum(error),
            sums.weight + _dot(member, chunk.weights),
            sums.total + _dot(member, chunk.weights * chunk.x),
            metric,
            moved,
            jnp.where(found, worst, sums.worst),
            jnp.where(found[:, None], chunk.x[at], sums.farthest),
        ), None

    zeros = lambda *shape: jnp.zeros(shape, codebook.dtype)  # noqa: E731
    none = _Sums(
        error=zeros(),
        weight=zeros(levels, chunks.weights.shape[-1]),
        total=zeros(levels, d),
        metric=zeros(levels, dense, dense),
        moved=zeros(levels, dense),
        worst=zeros(levels),
        farthest=zeros(levels, d),
    )
    return lax.scan(add, none, chunks)[0]


def _moved(sums: _Sums, codebook: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best centroids of the clusters, those without vectors where the worst errors are; and if one was moved so."""
    held = sums.weight > 0
    held = jnp.broadcast_to(held, codebook.shape)
    means = jnp.where(held, sums.total / jnp.where(sums.weight > 0, sums.weight, 1), codebook)
    if sums.metric.size:
        d = codebook.shape[1]
        ridge = _RIDGE * jnp.trace(sums.metric, axis1=1, axis2=2) / d + jnp.finfo(codebook.dtype).tiny
        matrix = sums.metric + ridge[:, None, None] * jnp.eye(d, dtype=codebook.dtype)[None]
        solved = jnp.linalg.solve(matrix, (sums.moved + ridge[:, None] * means)[..., None])[..., 0]
        means = jnp.where(held & jnp.isfinite(solved).all(axis=1, keepdims=True), solved, means)
    empty = ~held.any(axis=1)
    donors = jnp.argsort(-sums.worst)
    turn = jnp.cumsum(empty.astype(jnp.int32)) - 1  # the first empty one takes the worst, the next the second worst
    donor = donors[jnp.maximum(turn, 0)]
    taken = empty & (sums.worst[donor] > 0)
    return jnp.where(taken[:, None], sums.farthest[donor], means), taken.any()


def _start(chunks: _Chunk, levels: int, key: jax.Array) -> jax.Array:
    """k-means++ on a sample, under the mean of the metrics."""
    x = chunks.x.reshape(-1, chunks.x.shape[-1])
    counts = (chunks.weights > 0).any(axis=-1).reshape(-1).astype(x.dtype)
    sample_key, key = jax.random.split(key)
    size = min(len(x), _SAMPLE * levels)
    if size < len(x):
        chosen = jax.random.choice(sample_key, len(x), (size,), p=counts / jnp.maximum(jnp.sum(counts), 1))
        x, counts = x[chosen], counts[chosen]
    seen = x if chunks.metric is None else _dot(x, _root(jnp.mean(chunks.metric, axis=0)))
    return x[spread_out(seen, counts, levels=levels, key=key)]


def _root(metric: jax.Array) -> jax.Array:
    """A matrix whose product with its transpose is the metric."""
    values, vectors = jnp.linalg.eigh(metric)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
