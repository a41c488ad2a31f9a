"""NSGA-II: several objectives at once, as a front."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import mutation_settings, whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, nobody, tournament
from jaxcompress.search.strategies.members import Members, no_members, rows, together
from jaxcompress.search.strategies.memory import fingerprints, repeats
from jaxcompress.search.strategies.nondominated import crowding_distance, non_dominated_ranks
from jaxcompress.search.strategies.proposing import Proposing, ProposingState
from jaxcompress.search.strategies.variation import crossed

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Front(NamedTuple):
    """The population of `NSGA2`, the best first.

    Attributes:
        members: candidates and their fitness.
        ranks: int32 ``[population]``: the front each is on.
        crowding: float32 ``[population]``: the crowding distance of each on its front.
    """

    members: Members
    ranks: jax.Array
    crowding: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class NSGA2(Proposing):
    """Elitist evolution towards the whole front: by non-dominated rank, then by crowding distance.

    Constraints by constrained domination: feasible candidates before others, these by how little they break. Nobody is
    in the population twice. With one objective it is a genetic algorithm.

    Args:
        population: how many live: about as many points of the front can be held.
        batch: how many children a generation has; None: ``population``.
        crossover: the probability that a child has two parents. Every child is mutated.
        mutation: None: in one gene; else the probability that a gene changes.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
        memory: see `Proposing`.
        attempts: see `Proposing`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> NSGA2(population=128).batch
        128

    References:
        Deb et al., 2002. https://doi.org/10.1109/4235.996017
    """

    population: int = 64
    batch: int = None  # pyright: ignore[reportAssignmentType]  # the population, once made
    crossover: float = 0.9
    mutation: float | None = None
    scale: float = 0.1

    def __post_init__(self) -> None:
        whole(self, population=self.population)
        if self.batch is None:
            object.__setattr__(self, "batch", self.population)
        super().__post_init__()
        mutation_settings(self, self.mutation, self.scale, crossover=self.crossover)

    def _beginning(self) -> int:
        return self.population

    def _ignorance(self, space: Space, objectives: int) -> Front:
        members = no_members(space, self.population, objectives)
        return Front(members, jnp.zeros(self.population, jnp.int32), jnp.zeros(self.population, jnp.float32))

    def _propose(self, space: Space, knowledge: Front, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        draw, mix, change = jax.random.split(key, 3)
        order = jnp.lexsort((-knowledge.crowding, knowledge.ranks))
        ranks, crowding = knowledge.ranks[order], knowledge.crowding[order]
        other = (ranks[1:] != ranks[:-1]) | (crowding[1:] != crowding[:-1])
        place = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(other, dtype=jnp.int32)])
        parents = order[tournament(draw, place, size=2, winners=2 * self.batch)]
        chosen = jax.tree.map(lambda row: row[parents], knowledge.members.genes)
        mixed = crossed(space, mix, chosen, self.crossover)
        mixed = jax.tree.map(lambda row, last: jnp.where(far, last, row), mixed, tried)
        return space.mutate(change, mixed, rate=self.mutation, scale=self.scale)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Front:
        both = together(state.knowledge.members, Members(genes, fitness))
        return survivors(both, self.population)


def survivors(members: Members, population: int) -> Front:
    """The first ``population`` by rank and crowding distance; who repeats an earlier one comes last."""
    n, objectives = members.fitness.objectives.shape
    taken = jnp.isfinite(members.fitness.violation)
    marks = fingerprints(members.genes)
    marks = jnp.where(taken[:, None], marks, jnp.uint32(0))  # nobody's genes are no one's twin
    double = repeats(marks) & taken
    members = members._replace(
        fitness=jax.tree.map(
            lambda a, b: jnp.where(jnp.expand_dims(double, tuple(range(1, a.ndim))), a, b),
            nobody(n, objectives),
            members.fitness,
        )
    )
    ranks = non_dominated_ranks(*members.fitness)
    crowding = crowding_distance(members.fitness.objectives, ranks)
    order = jnp.lexsort((-crowding, ranks))[:population]
    return Front(rows(members, order), ranks[order], crowding[order])
