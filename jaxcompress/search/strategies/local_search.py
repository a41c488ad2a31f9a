"""Local search: to a better neighbour for as long as there is one, then anew from somewhere else."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import mutation_settings, whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, best_first, no_worse
from jaxcompress.search.strategies.members import Members, choose, no_members, rows
from jaxcompress.search.strategies.proposing import Proposing, ProposingState

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Climb(NamedTuple):
    """Where a local search stands.

    Attributes:
        current: one member.
        failures: int32: how many of its neighbours were no better.
        lost: bool: whether the next candidates are samples.
    """

    current: Members
    failures: jax.Array
    lost: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSearch(Proposing):
    """Hill climbing with restarts: neighbours are tried until one is better, and that is where the search goes on.

    Of a batch of neighbours the best counts: with ``batch=1`` the first improvement, with many the steepest. One
    objective, the first.

    Args:
        start: how many samples to begin with; the best is where the search begins.
        patience: after how many neighbours that are no better the search begins anew with a batch of samples. None: as
            many as a candidate has neighbours, counting 4 for each number.
        neighbours: whether ordered codes move to the next value only; else any other value is a neighbour.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
        batch: how many neighbours are tried at a time.
        memory: see `Proposing`.
        attempts: see `Proposing`. Where a neighbour that is new is not found, candidates further away are tried.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> LocalSearch(patience=24).batch
        1

    References:
        White et al., 2021: Exploring the Loss Landscape in Neural Architecture Search.
        https://arxiv.org/abs/2005.02960
    """

    start: int = 1
    patience: int | None = None
    neighbours: bool = False
    scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, start=self.start)
        if self.patience is not None:
            whole(self, patience=self.patience)
        mutation_settings(self, None, self.scale)

    def _beginning(self) -> int:
        return self.start

    def _ignorance(self, space: Space, objectives: int) -> Climb:
        return Climb(no_members(space, 1, objectives), jnp.int32(0), jnp.zeros((), bool))

    def _propose(self, space: Space, knowledge: Climb, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        change, anew = jax.random.split(key)
        here = jax.tree.map(lambda row, last: jnp.where(far, last, row), knowledge.current.genes, tried)
        beside = space.mutate(change, here, neighbours=self.neighbours, scale=self.scale)
        return jax.tree.map(lambda a, b: jnp.where(knowledge.lost, a, b), space.sample(anew, self.batch), beside)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Climb:
        current, failures, lost = state.knowledge
        best = rows(Members(genes, fitness), best_first(fitness)[:1])
        moves = lost | ~no_worse(current.fitness, best.fitness)[0]
        failures = jnp.where(moves | ~self._begun(state), 0, failures + self.batch)
        patience = neighbours_in(space) if self.patience is None else self.patience
        return Climb(choose(moves[None], best, current), failures, failures >= patience)


def neighbours_in(space: Space) -> int:
    """How many candidates differ from one in a single gene, counting 4 for each number."""
    discrete = sum(cardinality - 1 for cardinality in space.cardinalities)
    return max(1, discrete + 4 * (space.dimensions - len(space.cardinalities)))
