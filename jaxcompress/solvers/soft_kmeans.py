"""k-means whose assignment is an attention: every vector belongs a little to every centroid, and all is differentiable.

References:
    Cho et al., 2022. DKM: differentiable k-means clustering layer. https://arxiv.org/abs/2108.12659
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

_Pair: TypeAlias = "tuple[jax.Array, jax.Array]"

_AT_ONCE = 2**20  # attention weights that exist side by side


def soft_kmeans(
    x: jax.Array, start: jax.Array, *, temperature: jax.Array, iterations: int, weights: jax.Array | None = None
) -> jax.Array:
    """Centroids after some steps of soft assignment: each is the mean of all vectors, by their attention to it.

    The attention of a vector to the centroids is ``softmax(-|x - c|^2 / temperature)`` (the paper leaves the distance
    open; its square makes small temperatures k-means and has a derivative everywhere). Gradients reach the vectors
    through every step, and the start. Memory for either direction is that of the vectors: attention exists for a chunk
    of them at a time, and is computed anew in the gradient.

    Args:
        x: ``[n, d]``.
        start: ``[levels, d]``.
        temperature: positive scalar, in units of squared distances.
        iterations: number of steps, static.
        weights: how much each entry counts, ``[n, d]``; None: all the same.

    Returns:
        ``[levels, d]``. A centroid that nothing attends to stays where it is.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [10.0]])
        >>> soft_kmeans(x, jnp.array([[0.0], [8.0]]), temperature=jnp.array(1e-3), iterations=3).tolist()
        [[0.5], [10.0]]
    """
    chunks = _chunks(x, weights, len(start))
    tiny = jnp.finfo(x.dtype).tiny

    @jax.checkpoint
    def of_chunk(centroids: jax.Array, chunk: _Pair) -> _Pair:
        part, counts = chunk
        attention = _attention(part, counts, centroids, temperature)
        return _dot(attention.T, counts * part), _dot(attention.T, counts)

    def step(centroids: jax.Array, _: None) -> tuple[jax.Array, None]:
        def add(sums: _Pair, chunk: _Pair) -> tuple[_Pair, None]:
            total, mass = of_chunk(centroids, chunk)
            return (sums[0] + total, sums[1] + mass), None

        none = jnp.zeros_like(centroids), jnp.zeros((len(centroids), chunks[1].shape[-1]), x.dtype)
        (total, mass), _ = lax.scan(add, none, chunks)
        held = mass > tiny
        return jnp.where(held, total / jnp.where(held, mass, 1), centroids), None

    return lax.scan(step, start, None, length=iterations)[0]


def soft_values(
    x: jax.Array, centroids: jax.Array, *, temperature: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """The vectors as mixtures of the centroids, by their attention to them: ``[n, d]``.

    Example:
        >>> soft_values(jnp.array([[5.0], [9.0]]), jnp.array([[0.0], [10.0]]), temperature=jnp.array(1.0)).tolist()
        [[5.0], [10.0]]
    """
    chunks = _chunks(x, weights, len(centroids))

    @jax.checkpoint
    def of_chunk(chunk: _Pair) -> jax.Array:
        part, counts = chunk
        return _dot(_attention(part, counts, centroids, temperature), centroids)

    return lax.map(of_chunk, chunks).reshape(-1, x.shape[1])[: len(x)]


def nearest_error(x: jax.Array, centroids: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """The mean squared distance of the vectors to their nearest centroid: what temperatures are measured in.

    Example:
        >>> nearest_error(jnp.array([[1.0], [5.0]]), jnp.array([[0.0], [8.0]])).tolist()
        5.0
    """
    chunks = _chunks(x, weights, len(centroids))

    def of_chunk(chunk: _Pair) -> jax.Array:
        part, counts = chunk
        own = jnp.sum(counts * part * part, axis=1)
        return jnp.sum(jnp.maximum(own + jnp.min(_scores(part, counts, centroids), axis=1), 0))

    met = jnp.sum((chunks[1] > 0).any(axis=-1), dtype=x.dtype)
    return jnp.sum(lax.map(of_chunk, chunks)) / jnp.maximum(met, 1)


def _attention(x: jax.Array, counts: jax.Array, centroids: jax.Array, temperature: jax.Array) -> jax.Array:
    return jax.nn.softmax(-_scores(x, counts, centroids) / temperature, axis=1)


def _scores(x: jax.Array, counts: jax.Array, centroids: jax.Array) -> jax.Array:
    """Squared distances ``[n, levels]`` less what is the same for all centroids."""
    squares = jnp.square(centroids)
    squares = squares if counts.shape[1] == squares.shape[1] else jnp.sum(squares, axis=1, keepdims=True)
    return _dot(counts, squares.T) - 2 * _dot(counts * x, centroids.T)


def _chunks(x: jax.Array, weights: jax.Array | None, levels: int) -> _Pair:
    """Vectors and what they count in chunks of one size, padded by vectors that do not count."""
    n = len(x)
    parts = -(-n // max(1, _AT_ONCE // levels))
    size = -(-n // parts)
    counts = jnp.ones((n, 1), x.dtype) if weights is None else weights.astype(x.dtype)
    pad = lambda array: jnp.pad(array, ((0, parts * size - n), (0, 0))).reshape(parts, size, -1)  # noqa: E731
    return pad(x), pad(counts)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
