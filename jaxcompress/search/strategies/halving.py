"""What successive halving and Hyperband share: rungs that are climbed by the best."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.checks import whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.fidelity_correlation import FidelityCorrelation, fidelity_correlation
from jaxcompress.search.strategies.fresh import fresh
from jaxcompress.search.strategies.judgement import Judged, best_first, judged, nobody
from jaxcompress.search.strategies.memory import Memory, empty_memory, fingerprints, remember
from jaxcompress.search.strategies.rungs import Bracket, Schedule, schedule
from jaxcompress.search.strategies.seeding import checked_seeds
from jaxcompress.search.strategy import Candidates, Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class HalvingState(NamedTuple):
    """The state of a `Halving` strategy. A job is one candidate on one rung.

    Attributes:
        key: what the next candidates are drawn with.
        step: int32, how often fitness was told.
        genes: ``[jobs]`` of this round; those of later rungs are known once the rung before was told.
        origin: int32 ``[jobs]``: the job on the first rung that each comes from.
        fitness: ``[jobs]`` of this round.
        memory: the samples of first rungs so far.
        losses: float32 ``[record, jobs, levels]``: of the last rounds what each candidate (by its first job) reached at
            each fidelity; NaN where it was not evaluated.
    """

    key: jax.Array
    step: jax.Array
    genes: Genes
    origin: jax.Array
    fitness: Judged
    memory: Memory
    losses: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halving(abc.ABC):
    """Samples of the space get a little effort, the best of them more, the best of these more again.

    ``fidelity`` tells the evaluation the part of the full effort that a candidate gets in all, so far: whether it goes
    on from before or begins anew is the evaluation's matter. Failed candidates and those that break constraints are
    behind all others. One objective, the first. Round after round begins with new samples.

    Questions always hold ``batch`` candidates. Where fewer are to be asked for, the first one of the question is
    repeated at the least fidelity, and what it is told is ignored; `schedule.empty` says how often in a round. Small
    batches leave little empty.

    Attributes:
        batch: how many candidates are asked for at a time.
        memory: how many samples are not sampled again, as in `jaxcompress.search.strategies.Random`.
        attempts: how often a sample that was seen, or breaks the constraints of the space, is drawn anew.
        record: of how many rounds `correlation` tells.
    """

    batch: int = 8
    memory: int = 4096
    attempts: int = 16
    record: int = 8

    def __post_init__(self) -> None:
        whole(self, batch=self.batch, memory=self.memory, record=self.record)
        whole(self, least=0, attempts=self.attempts)

    @property
    @abc.abstractmethod
    def brackets(self) -> tuple[Bracket, ...]:
        """The rungs of one round."""

    @property
    @abc.abstractmethod
    def fidelities(self) -> tuple[float, ...]:
        """All fidelities, rising to 1."""

    @property
    def multi_fidelity(self) -> bool:
        """Most candidates get less than the full effort."""
        return True

    @property
    def schedule(self) -> Schedule:
        """Who is asked for when, in one round."""
        return schedule(self.brackets, self.batch)

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> HalvingState:
        """The state before the first question; see `jaxcompress.search.Strategy`.

        Raises:
            ValueError: if there are more seeds than candidates in a round.
        """
        whole(self, objectives=objectives)
        plan = self.schedule
        key, samples, again = jax.random.split(key, 3)
        memory = empty_memory(int(min(self.memory, space.size)))
        nothing = jax.tree.map(lambda row: jnp.zeros((plan.jobs, *row.shape[1:]), row.dtype), space.sample(samples, 1))
        losses = jnp.full((self.record, plan.jobs, len(self.fidelities)), jnp.nan, jnp.float32)
        origin, fitness = jnp.arange(plan.jobs, dtype=jnp.int32), nobody(plan.jobs, objectives)
        state = HalvingState(key, jnp.int32(0), nothing, origin, fitness, memory, losses)
        return self._sampled(space, state, again, seeds)

    def ask(self, space: Space, state: HalvingState) -> tuple[Candidates, HalvingState]:
        """The next candidates of the rungs that wait, or the first ones of the next round."""
        plan = self.schedule
        key, now = jax.random.split(state.key)
        turn = state.step % len(plan.asks)
        state = lax.cond(
            (turn == 0) & (state.step > 0), lambda: self._sampled(space, state, now, None), lambda: state
        )._replace(key=key)
        jobs = jnp.asarray(plan.asks)[turn]
        fidelities = jnp.asarray(self.fidelities, jnp.float32)
        genes = jax.tree.map(lambda rows: rows[jnp.where(jobs < 0, jobs[0], jobs)], state.genes)
        levels = jnp.where(jobs < 0, 0, jnp.asarray(plan.levels)[jobs])
        return Candidates(genes, fidelities[levels]), state

    def tell(self, space: Space, state: HalvingState, candidates: Candidates, fitness: Fitness) -> HalvingState:
        """The state that knows their fitness, and whom it lets climb."""
        plan = self.schedule
        jobs = jnp.asarray(plan.asks)[state.step % len(plan.asks)]
        slots = jnp.where(jobs < 0, plan.jobs, jobs)  # out of bounds: dropped
        told = judged(fitness)
        known = jax.tree.map(lambda old, new: old.at[slots].set(new, mode="drop"), state.fitness, told)
        at = jnp.where(jobs < 0, plan.jobs, state.origin[jobs])
        here = self._round(state), at, jnp.asarray(plan.levels)[jobs]
        losses = state.losses.at[here].set(told.objectives[:, 0], mode="drop")
        genes, origin = _climbed(plan, state.genes, state.origin, known)
        return state._replace(step=state.step + 1, genes=genes, origin=origin, fitness=known, losses=losses)

    def correlation(self, state: HalvingState) -> FidelityCorrelation:
        """How far little effort foretells what more effort gives: ranks of the same candidates at two fidelities."""
        losses = np.asarray(state.losses).reshape(-1, len(self.fidelities))
        return fidelity_correlation(losses, self.fidelities)

    def _round(self, state: HalvingState) -> jax.Array:
        """The place of this round among the recorded ones."""
        return state.step // len(self.schedule.asks) % self.record

    def _sampled(self, space: Space, state: HalvingState, key: jax.Array, seeds: Genes | None) -> HalvingState:
        """The state at the beginning of a round."""
        first = self.schedule.first
        given = 0 if seeds is None else len(seeds.codes)
        if given > len(first):
            raise ValueError(
                f"{type(self).__name__} begins with {len(first)} candidates in a round and cannot take {given} seeds: "
                "give fewer, or make the round larger"
            )
        memory, n = state.memory, len(first) - given
        if seeds is not None:
            seeds = checked_seeds(space, seeds)
            memory = remember(memory, fingerprints(seeds))
        genes = fresh(space, key, memory, n, lambda key, tried, far: space.sample(key, n), self.attempts)
        memory = remember(memory, fingerprints(genes))
        if seeds is not None:
            genes = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seeds, genes)
        return state._replace(
            genes=jax.tree.map(lambda rows, new: rows.at[first].set(new), state.genes, genes),
            fitness=jax.tree.map(lambda rows: jnp.full_like(rows, jnp.inf), state.fitness),
            memory=memory,
            losses=state.losses.at[self._round(state)].set(jnp.nan),
        )


def _climbed(plan: Schedule, genes: Genes, origin: jax.Array, fitness: Judged) -> tuple[Genes, jax.Array]:
    """Fills every later rung with the best of the rung before; what is not known yet is filled again when it is."""
    for place in plan.places:
        if not place.rung:
            continue
        start, before = place.jobs.start, slice(place.before.start, place.before.stop)
        best = place.before.start + best_first(jax.tree.map(lambda x, at=before: x[at], fitness))[: len(place.jobs)]
        rung = slice(start, start + len(place.jobs))
        genes = jax.tree.map(lambda rows, at=rung, of=best: rows.at[at].set(rows[of]), genes)
        origin = origin.at[rung].set(origin[best])
    return genes, origin
