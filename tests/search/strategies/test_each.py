"""What each strategy of one objective is, apart from the laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search import (
    NSGA2,
    AgingEvolution,
    Candidates,
    Evosax,
    Fitness,
    Genes,
    GeneticAlgorithm,
    IntRange,
    LocalSearch,
    RandomSearch,
    SimulatedAnnealing,
    Space,
    default_strategy,
)
from jaxcompress.search.strategies.members import no_genes
from jaxcompress.search.strategies.memory import empty_memory
from jaxcompress.search.strategies.proposing import Proposing, ProposingState
from tests.search.strategies.cases import CELL, search

LINE = Space({"x": IntRange(0, 9999)})  # whose candidates are told apart by one number
KEY = jax.random.key(0)


def told(strategy, codes, objectives, violation=None, state=None):
    """The state of a strategy on `LINE` after these batches, whatever it would have asked for."""
    if state is None:
        start = no_genes(LINE, -(-strategy._beginning() // strategy.batch) * strategy.batch)
        state = ProposingState(KEY, jnp.int32(0), start, empty_memory(1), strategy._ignorance(LINE, 1))
    for row, values in zip(codes, objectives, strict=True):
        genes = Genes(jnp.asarray(row, jnp.int32)[:, None], jnp.zeros((len(row), 0)))
        broken = jnp.zeros(len(row)) if violation is None else jnp.asarray(violation, jnp.float32)
        fitness = Fitness(jnp.asarray(values, jnp.float32)[:, None], broken)
        state = tell(strategy, state, Candidates(genes, jnp.ones(len(row))), fitness)
    return state


@functools.partial(jax.jit, static_argnums=0)
def tell(strategy, state, candidates, fitness):
    return strategy.tell(LINE, state, candidates, fitness)


def test_the_oldest_die_however_good_they_were():
    strategy = AgingEvolution(population=4, sample=2, batch=2)
    state = told(strategy, [[0, 1], [2, 3], [4, 5]], [[0, 0], [9, 9], [9, 9]])
    alive = state.knowledge
    assert sorted(alive.genes.codes[:, 0].tolist()) == [2, 3, 4, 5]
    assert alive.fitness.objectives[:, 0].tolist() == [9, 9, 9, 9]


def test_parents_are_the_best_of_the_sample():
    """With samples as large as anything all children are mutations of the best, in one gene."""
    strategy = AgingEvolution(population=8, sample=64, batch=8)
    _, (candidates, fitness) = jax.jit(lambda key: search(CELL, strategy, key, 2))(KEY)
    codes, best = np.asarray(candidates.genes.codes), np.asarray(fitness.objectives)[0, :, 0].argmin()
    assert (codes[1] != codes[0, best][None]).sum(-1).tolist() == [1] * 8


@pytest.mark.parametrize(("elite", "alive"), [(4, [0, 1, 4, 5]), (1, [0, 4, 5, 6])])
def test_elites_stay_and_others_make_room(elite, alive):
    strategy = GeneticAlgorithm(population=4, batch=4, elite=elite)
    state = told(strategy, [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 8, 9], [2, 3, 10, 11]])
    assert sorted(state.knowledge.genes.codes[:, 0].tolist()) == alive


def test_all_of_the_beginning_stay_until_the_population_is_there():
    strategy = GeneticAlgorithm(population=4, batch=2, elite=2)
    state = told(strategy, [[0, 1], [2, 3]], [[0, 1], [2, 3]])
    assert sorted(state.knowledge.genes.codes[:, 0].tolist()) == [0, 1, 2, 3]


def test_local_search_goes_to_better_neighbours_and_begins_anew():
    strategy = LocalSearch(patience=4, batch=2, start=2)
    state = told(strategy, [[10, 20]], [[5, 7]])
    assert state.knowledge.current.genes.codes.tolist() == [[10]]
    state = told(strategy, [[11, 12]], [[6, 4]], state=state)
    assert state.knowledge.current.genes.codes.tolist() == [[12]]
    state = told(strategy, [[13, 14], [15, 16]], [[4, 5], [4, 9]], state=state)
    assert bool(state.knowledge.lost)
    state = told(strategy, [[17, 18]], [[100, 99]], state=state)
    assert state.knowledge.current.genes.codes.tolist() == [[18]]
    assert not bool(state.knowledge.lost)


def test_local_search_climbs_a_separable_hill():
    """At most 24 steps up, each among at most 24 neighbours, on average far fewer: 120 queries are enough."""
    found = jax.jit(jax.vmap(lambda key: search(CELL, LocalSearch(), key, 120)[1][1].objectives.min()))
    assert (np.asarray(found(jax.random.split(KEY, 8))) == 0).sum() >= 6


def test_annealing_accepts_as_often_as_the_temperature_says():
    """A step up of one temperature: exp(-1) of 4,000 chains, within 4.5 standard deviations; a step down always."""
    n = 4000
    strategy = SimulatedAnnealing(batch=n, start=2 * n, temperature=0.5, final=0.1, steps=4)
    values = np.tile([0.0, 2.0], n // 2)
    state = told(strategy, [np.arange(n), np.arange(n)], [values, values])
    spread = np.std(np.tile(values, 2), ddof=1)
    np.testing.assert_allclose(strategy._temperature(state), 0.5 * spread, rtol=1e-5)
    after = told(strategy, [np.full(n, 7000)], [values + 0.5 * spread], state=state)
    accepted = (after.knowledge.current.genes.codes[:, 0] == 7000).mean()
    assert abs(accepted - np.exp(-1)) < 4.5 * np.sqrt(np.exp(-1) * (1 - np.exp(-1)) / n)
    np.testing.assert_allclose(strategy._temperature(after), 0.5 * spread * 0.1**0.25, rtol=1e-5)
    better = told(strategy, [np.full(n, 7000)], [values - 1], state=state)
    assert (better.knowledge.current.genes.codes == 7000).all()
    broken = told(strategy, [np.full(n, 7000)], [values - 1], np.full(n, 0.1), state=state)
    assert not (broken.knowledge.current.genes.codes == 7000).any()


def test_default_strategy_fits_the_number_of_objectives():
    assert isinstance(default_strategy(), AgingEvolution)
    assert isinstance(default_strategy(3), NSGA2)
    with pytest.raises(ValueError, match="objectives must be at least 1, got 0"):
        default_strategy(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(batch=0), r"RandomSearch\(batch=\) must be an integer of at least 1, got 0"),
        (lambda: RandomSearch(memory=1.5), r"RandomSearch\(memory=\).*got 1.5"),
        (lambda: RandomSearch(attempts=-1), r"RandomSearch\(attempts=\) must be an integer of at least 0, got -1"),
        (lambda: AgingEvolution(batch=30), r"AgingEvolution\(batch=30\) must not be above population=20: lower batch"),
        (lambda: AgingEvolution(mutation=1.5), r"AgingEvolution\(mutation=\) must be a number in \[0, 1\], got 1.5"),
        (lambda: AgingEvolution(scale=0), r"AgingEvolution\(scale=\) must be a finite number above 0, got 0"),
        (lambda: GeneticAlgorithm(elite=21), r"GeneticAlgorithm\(elite=21\) must not be above population=20"),
        (lambda: GeneticAlgorithm(elite=1, batch=5), r"\(population=20\) must not be above elite \+ batch=6"),
        (lambda: GeneticAlgorithm(crossover=float("nan")), r"GeneticAlgorithm\(crossover=\).*got nan"),
        (lambda: NSGA2(population=True), r"NSGA2\(population=\) must be an integer of at least 1, got True"),
        (lambda: LocalSearch(patience=0), r"LocalSearch\(patience=\) must be an integer of at least 1, got 0"),
        (lambda: SimulatedAnnealing(batch=8), r"SimulatedAnnealing\(start=10\) must be at least 2 \* batch=16"),
        (lambda: SimulatedAnnealing(final=2.0), r"SimulatedAnnealing\(final=\) must be a number in \[0, 1\], got 2.0"),
        (lambda: Evosax(algorithm="SNAKES"), r"Evosax\(algorithm='SNAKES'\): evosax has .*SNES"),
        (lambda: Evosax(params={"nonsense": 1}).init(CELL, KEY), r"Evosax\(params=\): SNES has no 'nonsense'.*weights"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_strategy_of_ones_own_needs_four_methods():
    with pytest.raises(TypeError, match="abstract"):
        Proposing()
