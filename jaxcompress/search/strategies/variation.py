"""How a child has genes of two parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def crossed(space: Space, key: jax.Array, parents: Genes, chance: float) -> Genes:
    """``[n]`` children of ``parents`` ``[2 n]``: the first half are one parent each, the second half the other.

    Args:
        space: what is searched.
        key: a typed PRNG key.
        parents: ``[2 n]``.
        chance: the probability that a child has genes of both; else it has all of the first.
    """
    both, mix = jax.random.split(key)
    n = len(parents.codes) // 2
    first, second = Genes(*(row[:n] for row in parents)), Genes(*(row[n:] for row in parents))
    twofold = jax.random.bernoulli(both, chance, (n, 1))
    return jax.tree.map(lambda a, b: jnp.where(twofold, a, b), space.crossover(mix, first, second), first)
