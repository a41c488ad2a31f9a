"""A genetic algorithm: generations, parents by tournament, children with genes of both."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import at_most, mutation_settings, whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, best_first, nobody, places, tournament
from jaxcompress.search.strategies.members import Members, no_members, rows, together
from jaxcompress.search.strategies.proposing import Proposing, ProposingState
from jaxcompress.search.strategies.variation import crossed

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneticAlgorithm(Proposing):
    """Generations of codes and numbers: tournaments, uniform crossover, mutation, and some of the best that stay.

    The next population are the best of the children and of the ``elite`` best of the old population. One objective,
    the first.

    Args:
        population: how many live.
        batch: how many children a generation has.
        elite: how many of the best may stay however old they are. ``population``: the best of both generations live
            ("plus" selection); fewer, and the population forgets (``elite + batch`` must reach ``population``).
        tournament: how many are drawn for each parent; the best becomes it.
        crossover: the probability that a child has two parents. Every child is mutated.
        mutation: None: in one gene; else the probability that a gene changes.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
        memory: see `Proposing`.
        attempts: see `Proposing`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> GeneticAlgorithm(population=64, batch=64, elite=4).multi_fidelity
        False

    References:
        Eiben and Smith, 2015: Introduction to Evolutionary Computing, chapters 3-5.
        https://doi.org/10.1007/978-3-662-44874-8
    """

    population: int = 20
    batch: int = 20
    elite: int = 20
    tournament: int = 3
    crossover: float = 0.9
    mutation: float | None = None
    scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, population=self.population, tournament=self.tournament)
        whole(self, least=0, elite=self.elite)
        at_most(self, "elite", self.elite, "population", self.population)
        at_most(self, "population", self.population, "elite + batch", self.elite + self.batch)
        mutation_settings(self, self.mutation, self.scale, crossover=self.crossover)

    def _beginning(self) -> int:
        return self.population

    def _ignorance(self, space: Space, objectives: int) -> Members:
        return no_members(space, self.population, objectives)

    def _propose(self, space: Space, knowledge: Members, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        draw, mix, change = jax.random.split(key, 3)
        parents = tournament(draw, places(knowledge.fitness), size=self.tournament, winners=2 * self.batch)
        chosen = jax.tree.map(lambda row: row[parents], knowledge.genes)
        mixed = crossed(space, mix, chosen, self.crossover)
        mixed = jax.tree.map(lambda row, last: jnp.where(far, last, row), mixed, tried)
        return space.mutate(change, mixed, rate=self.mutation, scale=self.scale)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Members:
        old = rows(state.knowledge, best_first(state.knowledge.fitness))
        stays = jnp.arange(self.population) < jnp.where(self._begun(state), self.elite, self.population)
        objectives = fitness.objectives.shape[1]
        empty = nobody(self.population, objectives)
        kept = jax.tree.map(
            lambda a, b: jnp.where(jnp.expand_dims(stays, tuple(range(1, a.ndim))), a, b), old.fitness, empty
        )
        both = together(Members(genes, fitness), Members(old.genes, kept))
        return rows(both, best_first(both.fitness)[: self.population])
