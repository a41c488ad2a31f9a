"""How children come from parents: genes of both, then a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def children(
    space: Space, key: jax.Array, parents: Genes, *, crossover: float, mutation: float | None, scale: float
) -> Genes:
    """``[n]`` children of ``parents`` ``[2 n]``: the first half are one parent each, the second half the other.

    Args:
        space: what is searched.
        key: a typed PRNG key.
        parents: ``[2 n]``.
        crossover: the probability that a child has genes of both; else it has all of the first.
        mutation: None: one gene of each child changes then; else the probability that a gene changes.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
    """
    both, mix, change = jax.random.split(key, 3)
    n = len(parents.codes) // 2
    first, second = Genes(*(row[:n] for row in parents)), Genes(*(row[n:] for row in parents))
    crossed = jax.random.bernoulli(both, crossover, (n, 1))
    mixed = jax.tree.map(lambda a, b: jnp.where(crossed, a, b), space.crossover(mix, first, second), first)
    return space.mutate(change, mixed, rate=mutation, scale=scale)
