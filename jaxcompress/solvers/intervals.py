"""The best way to cut a sequence of ordered items into intervals, by dynamic programming.

References:
    Wang and Song, 2011. Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def best_intervals(weight: jax.Array, first: jax.Array, second: jax.Array, *, levels: int) -> jax.Array:
    """Cuts ordered items so that the squared distances from the intervals' means add up to the least.

    Takes time ``levels * n^2`` and memory ``n^2``. An interval may be empty where fewer would do.

    Args:
        weight: weights of the items, ``[n]``.
        first: their first moments, about one point for all (near their mean, for precision).
        second: their second moments.
        levels: number of intervals, static.

    Returns:
        Borders, int32 ``[levels + 1]``: interval ``i`` holds the items ``borders[i]`` to ``borders[i + 1] - 1``.

    Example:
        >>> x = jnp.array([-3.0, -2.9, 0.0, 0.2, 5.0])
        >>> best_intervals(jnp.ones(5), x, x * x, levels=3).tolist()
        [0, 2, 4, 5]
    """
    size = weight.shape[0]
    w, s, q = (jnp.pad(jnp.cumsum(moment), (1, 0)) for moment in (weight, first, second))
    w, s, q = (total[None, :] - total[:, None] for total in (w, s, q))  # [from, to]
    cost = jnp.maximum(q - s * s / jnp.where(w > 0, w, 1), 0)
    index = jnp.arange(size + 1, dtype=jnp.int32)
    cost = jnp.where(index[:, None] <= index[None, :], cost, jnp.asarray(jnp.inf, cost.dtype))

    def one_more(least: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        """From the least cost of cutting each beginning to that with one interval more, and where that one begins."""
        total = least[:, None] + cost
        return jnp.min(total, axis=0), jnp.argmin(total, axis=0).astype(jnp.int32)

    nothing = jnp.where(index == 0, jnp.zeros((), cost.dtype), jnp.asarray(jnp.inf, cost.dtype))
    _, begins = lax.scan(one_more, nothing, None, length=levels)  # [levels, size + 1]
    end = jnp.full((), size, jnp.int32)
    borders = lax.scan(lambda at, begin: (begin[at], begin[at]), end, begins, reverse=True)[1]
    return jnp.concatenate([borders, end[None]])
