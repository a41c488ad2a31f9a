"""Candidates together with what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, join, nobody

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Members(NamedTuple):
    """Candidates ``[n]`` and their fitness."""

    genes: Genes
    fitness: Judged


def no_members(space: Space, n: int, objectives: int) -> Members:
    """Places for ``n`` that nobody has taken."""
    return Members(no_genes(space, n), nobody(n, objectives))


def no_genes(space: Space, n: int) -> Genes:
    """Zeros for ``n``."""
    discrete = len(space.cardinalities)
    return Genes(jnp.zeros((n, discrete), jnp.int32), jnp.zeros((n, space.dimensions - discrete), jnp.float32))


def rows(members: Members, index: jax.Array) -> Members:
    """The members at these places."""
    return jax.tree.map(lambda row: row[index], members)


def together(first: Members, second: Members) -> Members:
    """One after the other."""
    genes = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first.genes, second.genes)
    return Members(genes, join(first.fitness, second.fitness))


def choose(choice: jax.Array, first: Members, second: Members) -> Members:
    """Row by row the first where ``choice`` ``[n]``, the second elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(choice, tuple(range(1, a.ndim))), a, b), first, second)
