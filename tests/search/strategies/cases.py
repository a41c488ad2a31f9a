"""Small spaces and problems that every strategy goes through."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search import (
    NSGA2,
    AgingEvolution,
    Choice,
    Conditional,
    Evosax,
    Fitness,
    Float,
    GeneticAlgorithm,
    IntRange,
    LocalSearch,
    RandomSearch,
    Repeated,
    SimulatedAnnealing,
    Space,
)

CELL = Space({"operations": Repeated(Choice(("none", "skip", "1x1", "3x3", "pool")), times=6)})
MIXED = Space({
    "kind": Choice(("a", "b", "c")),
    "depth": IntRange(1, 6),
    "rate": Float(0.0, 1.0),
    "momentum": Conditional(Float(0.0, 1.0), on="kind", equals="b"),
})  # fmt: skip
TINY = Space({"x": IntRange(0, 3), "y": IntRange(0, 2)})

DEDUPLICATED = {
    "random": RandomSearch(batch=4),
    "aging": AgingEvolution(population=8, sample=4, batch=4),
    "genetic": GeneticAlgorithm(population=8, batch=4, elite=8),
    "nsga2": NSGA2(population=8, batch=4),
    "local": LocalSearch(batch=4, start=4),
    "annealing": SimulatedAnnealing(batch=4, start=8, steps=20),
}
STRATEGIES = DEDUPLICATED | {"evosax": Evosax(algorithm="SNES", population=4)}


def error(space, genes):
    """How far from one candidate: 0 at the last code of all variables and at 0.7."""
    far = (np.array(space.cardinalities, np.int32)[None] - 1 - genes.codes).astype(jnp.float32)
    return far.sum(-1) + jnp.abs(genes.values - 0.7).sum(-1)


def search(space, strategy, key, generations, *, objectives=1, seeds=None, fitness=None):
    """The last state and the genes and fitness of every generation; ``fitness(genes)`` or the first `error`."""

    def told(genes):
        if fitness is not None:
            return fitness(genes)
        values = error(space, genes)[:, None]
        return Fitness(jnp.concatenate([values, -values], 1)[:, :objectives], jnp.zeros(len(values)))

    def generation(state, _):
        candidates, state = strategy.ask(space, state)
        now = told(candidates.genes)
        return strategy.tell(space, state, candidates, now), (candidates, now)

    state = strategy.init(space, key, objectives=objectives, seeds=seeds)
    return jax.lax.scan(generation, state, None, length=generations)


def rows_of(genes):
    """Each candidate as a row of numbers, NumPy ``[candidates, genes]``."""
    codes, values = (np.asarray(part).reshape(-1, part.shape[-1]) for part in genes)
    return np.concatenate([codes.astype(np.float64), values.astype(np.float64)], 1)
