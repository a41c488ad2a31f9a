"""Simulated annealing: worse is accepted too, less and less of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import between, mutation_settings, positive, whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged, no_worse
from jaxcompress.search.strategies.members import Members, choose, no_members
from jaxcompress.search.strategies.proposing import Proposing, ProposingState

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Chains(NamedTuple):
    """Where the chains of a `SimulatedAnnealing` stand.

    Attributes:
        current: ``[batch]``, a member for each chain.
        count: float32: how many of the first candidates were feasible.
        mean: float32: the mean of their objective.
        squares: float32: the sum of squared differences from it.
    """

    current: Members
    count: jax.Array
    mean: jax.Array
    squares: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedAnnealing(Proposing):
    """Chains of neighbours in which a worse one is accepted with the probability ``exp(-difference / temperature)``.

    The temperature falls geometrically with the steps and is measured in the standard deviation of the objective over
    the first samples, so that no scale of the objective has to be known. One with less violation is always accepted,
    one with more never. One objective, the first.

    Args:
        batch: how many chains run side by side, each with its own candidate.
        start: how many samples to begin with, at least two for each chain; each chain begins with the best of its own.
        temperature: at first, in standard deviations of the objective over these samples.
        final: by which factor it has fallen after ``steps``, and stays.
        steps: after how many steps.
        neighbours: whether ordered codes move to the next value only; else any other value is a neighbour.
        scale: the standard deviation of changes of numbers, a part of the range of a variable.
        memory: see `Proposing`. A chain does not come back to where any chain was.
        attempts: see `Proposing`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> SimulatedAnnealing(steps=500, final=1e-3).start
        10

    References:
        Kirkpatrick, Gelatt and Vecchi, 1983. https://doi.org/10.1126/science.220.4598.671
    """

    start: int = 10
    temperature: float = 0.3
    final: float = 0.01
    steps: int = 200
    neighbours: bool = False
    scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, start=self.start, steps=self.steps)
        if self.start < 2 * self.batch:
            raise ValueError(
                f"SimulatedAnnealing(start={self.start}) must be at least 2 * batch={2 * self.batch}: the temperature "
                "is measured on these samples"
            )
        positive(self, temperature=self.temperature, final=self.final)
        between(self, 0, 1, final=self.final)
        mutation_settings(self, None, self.scale)

    def _beginning(self) -> int:
        return self.start

    def _ignorance(self, space: Space, objectives: int) -> Chains:
        zero = jnp.float32(0)
        return Chains(no_members(space, self.batch, objectives), zero, zero, zero)

    def _propose(self, space: Space, knowledge: Chains, key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        here = jax.tree.map(lambda row, last: jnp.where(far, last, row), knowledge.current.genes, tried)
        return space.mutate(key, here, neighbours=self.neighbours, scale=self.scale)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> Chains:
        begun = self._begun(state)
        current = state.knowledge.current
        temperature = self._temperature(state)
        accepted = no_worse(fitness, current.fitness)
        worse = fitness.objectives[:, 0] - current.fitness.objectives[:, 0]
        chance = jnp.exp(-worse / jnp.where(temperature > 0, temperature, 1))
        lucky = jax.random.uniform(key, (self.batch,), jnp.float32) < jnp.where(temperature > 0, chance, 0)
        equal = fitness.violation == current.fitness.violation
        accepted |= begun & equal & jnp.isfinite(worse) & lucky
        counted = (fitness.violation == 0) & ~begun
        _, count, mean, squares = state.knowledge
        moments = _moments(count, mean, squares, fitness.objectives[:, 0], counted)
        return Chains(choose(accepted, Members(genes, fitness), current), *moments)

    def _temperature(self, state: ProposingState) -> jax.Array:
        """In units of the objective."""
        _, count, _, squares = state.knowledge
        steps = jnp.clip(state.step - self._opening(state), 0, self.steps).astype(jnp.float32)
        spread = jnp.sqrt(squares / jnp.maximum(count - 1, 1))
        return self.temperature * spread * jnp.float32(self.final) ** (steps / self.steps)


def _moments(
    count: jax.Array, mean: jax.Array, squares: jax.Array, values: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count, mean and sum of squared differences with more values (Chan et al., 1983); others are not looked at."""
    n = counted.sum(dtype=jnp.float32)
    values = jnp.where(counted, values, 0)
    center = values.sum() / jnp.maximum(n, 1)
    spread = jnp.where(counted, jnp.square(values - center), 0).sum()
    total = jnp.maximum(count + n, 1)
    apart = center - mean
    return count + n, mean + apart * n / total, squares + spread + jnp.square(apart) * count * n / total
