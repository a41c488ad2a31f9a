"""What strategies share: candidates to begin with, and none that was asked for before."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.checks import whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.fresh import fresh
from jaxcompress.search.strategies.judgement import Judged, judged
from jaxcompress.search.strategies.members import no_genes
from jaxcompress.search.strategies.memory import Memory, empty_memory, fingerprints, remember
from jaxcompress.search.strategies.seeding import checked_seeds
from jaxcompress.search.strategy import Candidates, Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class ProposingState(NamedTuple):
    """The state of a `Proposing` strategy.

    Attributes:
        key: what the next candidates are drawn with.
        step: int32, how often fitness was told.
        start: the first candidates, a multiple of the batch: seeds, then samples.
        memory: what was asked.
        knowledge: what the strategy itself has learned.
    """

    key: jax.Array
    step: jax.Array
    start: Genes
    memory: Memory
    knowledge: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposing(abc.ABC):
    """A strategy that begins with seeds and samples and then proposes candidates from what it was told.

    A subclass says how many candidates it begins with (`_beginning`), what it knows before (`_ignorance`), what it
    proposes (`_propose`) and how it learns (`_learn`).

    Attributes:
        batch: how many candidates are asked for at a time.
        memory: how many of the candidates asked last are not asked for again. One that was is proposed anew, then
            mutated until it is new; in a space of up to 1,024 candidates one that is left is always found.
        attempts: how often at most. Candidates that break the constraints of the space are proposed anew too.
    """

    batch: int = 1
    memory: int = 4096
    attempts: int = 16

    def __post_init__(self) -> None:
        whole(self, batch=self.batch, memory=self.memory)
        whole(self, least=0, attempts=self.attempts)

    @property
    def multi_fidelity(self) -> bool:
        """Every candidate gets the full effort."""
        return False

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> ProposingState:
        """The state before the first question.

        Args:
            space: what is searched.
            key: a typed PRNG key; all that is drawn later comes from it.
            objectives: how many are minimised.
            seeds: canonical candidates ``[n]`` that are asked for first, as they are. None: samples alone.
        """
        whole(self, objectives=objectives)
        start = no_genes(space, 0) if seeds is None else checked_seeds(space, seeds)
        given = len(start.codes)
        n = -(-max(self._beginning(), given, 1) // self.batch) * self.batch - given
        key, samples = jax.random.split(key)
        memory = remember(empty_memory(self._capacity(space)), fingerprints(start))
        if n:
            drawn = fresh(space, samples, memory, n, lambda key, tried, far: space.sample(key, n), self.attempts)
            memory = remember(memory, fingerprints(drawn))
            start = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), start, drawn)
        return ProposingState(key, jnp.int32(0), start, memory, self._ignorance(space, objectives))

    def ask(self, space: Space, state: ProposingState) -> tuple[Candidates, ProposingState]:
        """The next candidates: those to begin with, then what the strategy proposes."""
        key, now = jax.random.split(state.key)
        steps = self._opening(state)

        def begin() -> tuple[Genes, Memory]:
            at = jnp.minimum(state.step, steps - 1) * self.batch
            return jax.tree.map(lambda rows: lax.dynamic_slice_in_dim(rows, at, self.batch), state.start), state.memory

        def proceed() -> tuple[Genes, Memory]:
            propose = functools.partial(self._propose, space, state.knowledge)
            genes = fresh(space, now, state.memory, self.batch, propose, self.attempts)
            return genes, remember(state.memory, fingerprints(genes))

        genes, memory = lax.cond(state.step < steps, begin, proceed)
        return Candidates(genes, jnp.ones(self.batch, jnp.float32)), state._replace(key=key, memory=memory)

    def tell(self, space: Space, state: ProposingState, candidates: Candidates, fitness: Fitness) -> ProposingState:
        """The state that knows the fitness of what was asked for last."""
        key, now = jax.random.split(state.key)
        knowledge = self._learn(space, state, candidates.genes, judged(fitness), now)
        return state._replace(key=key, step=state.step + 1, knowledge=knowledge)

    def _opening(self, state: ProposingState) -> int:
        """How many steps it takes to ask for all candidates to begin with."""
        return len(state.start.codes) // self.batch

    def _begun(self, state: ProposingState) -> jax.Array:
        """Whether the candidates that are told now were proposed; before, they are those to begin with."""
        return state.step >= self._opening(state)

    def _capacity(self, space: Space) -> int:
        return int(min(self.memory, space.size))

    @abc.abstractmethod
    def _beginning(self) -> int:
        """How many candidates are asked for before the first proposal."""

    @abc.abstractmethod
    def _ignorance(self, space: Space, objectives: int) -> Any:
        """Knowledge before anything was told."""

    @abc.abstractmethod
    def _propose(self, space: Space, knowledge: Any, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        """``batch`` candidates, canonical; where ``far``, near what was ``tried`` and is of no use (see `fresh`)."""

    @abc.abstractmethod
    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Any:
        """Knowledge after ``batch`` candidates were told."""
