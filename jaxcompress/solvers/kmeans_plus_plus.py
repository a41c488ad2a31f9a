"""k-means++: starts of k-means that are far from each other.

References:
    Arthur and Vassilvitskii, 2007. k-means++: the advantages of careful seeding.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

_Pair: TypeAlias = "tuple[jax.Array, jax.Array]"


def spread_out(x: jax.Array, counts: jax.Array, *, levels: int, key: jax.Array) -> jax.Array:
    """Indices of vectors that are far from each other, by greedy k-means++.

    Of ``2 + log(levels)`` draws with the squared distance to the nearest one chosen before as their probability, the
    one stays that lowers the sum of these distances most. Indices repeat where there are fewer distinct vectors.

    Args:
        x: ``[n, d]``.
        counts: ``[n]``, nonnegative: how much each counts.
        levels: how many, static.
        key: for the draws.

    Returns:
        int32 ``[levels]``.

    Example:
        >>> x = jnp.array([[0.0], [0.1], [9.0]])
        >>> sorted(x[spread_out(x, jnp.ones(3), levels=2, key=jax.random.key(0))][:, 0].tolist())[1]
        9.0
    """
    first_key, key = jax.random.split(key)
    trials = 2 + int(math.log(levels))
    squares = jnp.sum(x * x, axis=1)

    def to(index: jax.Array) -> jax.Array:
        """Weighted squared distances ``[draws, n]`` to some vectors."""
        products = jnp.matmul(x[index], x.T, precision=lax.Precision.HIGHEST)
        return jnp.maximum(squares[None] - 2 * products + squares[index][:, None], 0) * counts[None]

    def draws(mass: jax.Array, number: int, key: jax.Array) -> jax.Array:
        reached = jnp.cumsum(mass)
        at = jnp.searchsorted(reached, jax.random.uniform(key, (number,), x.dtype) * reached[-1], side="right")
        return jnp.minimum(at, len(x) - 1).astype(jnp.int32)

    def another(
        state: tuple[jax.Array, jax.Array], turn: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        nearest, chosen = state
        number, key = turn
        at = draws(jnp.where(jnp.sum(nearest) > 0, nearest, counts), trials, key)
        left = jnp.minimum(nearest[None], to(at))
        best = jnp.argmin(jnp.sum(left, axis=1))
        return (left[best], chosen.at[number].set(at[best])), None

    first = draws(counts, 1, first_key)
    turns = (jnp.arange(1, levels, dtype=jnp.int32), jax.random.split(key, levels - 1))
    chosen = jnp.broadcast_to(first, (levels,))
    return lax.scan(another, (to(first)[0], chosen), turns)[0][1]
