"""Regularized evolution: the youngest stay, not the fittest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import at_most, mutation_settings, whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, places, tournament
from jaxcompress.search.strategies.members import Members, no_members
from jaxcompress.search.strategies.proposing import Proposing, ProposingState

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgingEvolution(Proposing):
    """Evolution by age: a child of the best of a small sample takes the place of the oldest.

    Since everybody dies, what lives long is what does well whenever it is evaluated anew in its children: noise in an
    evaluation is forgotten, unlike in a population that keeps its best. One objective, the first.

    Args:
        population: how many of the candidates told last are alive.
        sample: how many of them are drawn (with replacement) for each child; the best of these becomes the parent.
        mutation: None: a child differs from its parent in one gene; else the probability that a gene changes.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
        batch: how many children are made of one population, as that many workers at a time would.
        memory: see `Proposing`.
        attempts: see `Proposing`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> AgingEvolution(population=50, sample=10, batch=8).population
        50

    References:
        Real et al., 2019: Regularized Evolution for Image Classifier Architecture Search, algorithm 1.
        https://arxiv.org/abs/1802.01548
        There a child may be one that was asked for before; here, with ``memory=1`` and ``attempts=0``.
    """

    population: int = 20
    sample: int = 5
    mutation: float | None = None
    scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, population=self.population, sample=self.sample)
        at_most(self, "batch", self.batch, "population", self.population)
        mutation_settings(self, self.mutation, self.scale)

    def _beginning(self) -> int:
        return self.population

    def _ignorance(self, space: Space, objectives: int) -> Members:
        return no_members(space, self.population, objectives)

    def _propose(self, space: Space, knowledge: Members, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        draw, change = jax.random.split(key)
        parents = tournament(draw, places(knowledge.fitness), size=self.sample, winners=self.batch)
        chosen = jax.tree.map(lambda row, last: jnp.where(far, last, row[parents]), knowledge.genes, tried)
        return space.mutate(change, chosen, rate=self.mutation, scale=self.scale)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Members:
        oldest = (state.step * self.batch + jnp.arange(self.batch, dtype=jnp.int32)) % self.population
        return jax.tree.map(lambda old, new: old.at[oldest].set(new), state.knowledge, Members(genes, fitness))
