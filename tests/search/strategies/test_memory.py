"""Fingerprints tell candidates apart; the ring forgets the oldest; the tournament is one."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search import Constraint, Fitness, Genes, IntRange, Space, non_dominated_ranks
from jaxcompress.search.strategies.fresh import fresh
from jaxcompress.search.strategies.judgement import FAILED, best_first, judged, nobody, places, tournament
from jaxcompress.search.strategies.memory import empty_memory, fingerprints, remember, repeats, seen
from tests.search.strategies.cases import CELL


def test_all_cells_have_different_fingerprints():
    marks = np.asarray(jax.jit(fingerprints)(CELL.enumerate()))
    assert len(np.unique(marks, axis=0)) == 15625
    halves = [len(np.unique(marks[:, i])) for i in range(2)]
    assert min(halves) > 15610  # of 2^32 (2^31 odd) values each: 0.03 (0.06) collisions are expected


def test_fingerprints_see_places_values_and_rows():
    codes = jnp.array([[1, 2], [2, 1], [1, 2], [1, 2]], jnp.int32)
    values = jnp.array([[0.0], [0.0], [-0.0], [1e-30]], jnp.float32)
    assert repeats(fingerprints(Genes(codes, values))).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(fingerprints(Genes(codes[1], values[1])), fingerprints(Genes(codes, values))[1])


def test_memory_forgets_the_oldest_and_counts_nobody_twice():
    marks = fingerprints(Genes(jnp.arange(8, dtype=jnp.int32)[:, None], jnp.zeros((8, 0))))
    memory = remember(empty_memory(4), marks[:3])
    memory = remember(memory, marks[jnp.array([2, 2, 3])])
    assert int(memory.count) == 4
    assert seen(memory, marks).tolist() == [True] * 4 + [False] * 4
    memory = remember(memory, marks[4:6])
    assert seen(memory, marks).tolist() == [False, False, True, True, True, True, False, False]
    assert seen(remember(empty_memory(2), marks), marks).tolist() == [False] * 6 + [True] * 2


def test_failed_ones_are_behind_infeasible_ones_and_nobody_behind_them():
    objectives = jnp.array([[2.0], [1.0], [-jnp.inf], [jnp.nan], [0.0], [0.0], [1.0], [3.0]])
    violation = jnp.array([0.0, 0.0, 0.0, jnp.inf, 1.0, jnp.inf, -1.0, jnp.nan])
    told = judged(Fitness(objectives, violation))
    assert best_first(told).tolist() == [1, 6, 0, 4, 5, 2, 3, 7]
    assert places(told).tolist() == [1, 0, 4, 4, 2, 3, 0, 4]
    assert (told.violation[jnp.array([2, 3, 7])] == FAILED).all()
    assert (nobody(1, 1).violation > FAILED).all()
    assert non_dominated_ranks(*told).tolist() == [1, 0, 4, 4, 2, 3, 0, 4]


def test_tournament_is_won_with_the_probability_of_the_best_of_several():
    """The place p of n wins with ((n - p)^k - (n - p - 1)^k) / n^k; 20,000 tournaments, 4.5 standard deviations."""
    place, size, n = np.array([3, 0, 1, 2, 4]), 3, 5
    winners = np.asarray(tournament(jax.random.key(0), place, size=size, winners=20_000))
    counts = np.bincount(place[winners], minlength=n) / 20_000
    expected = np.array([((n - p) ** size - (n - p - 1) ** size) / n**size for p in range(n)])
    np.testing.assert_array_less(np.abs(counts - expected), 4.5 * np.sqrt(expected * (1 - expected) / 20_000))


def test_candidates_that_break_constraints_are_proposed_anew():
    """A third of the space is allowed: with 16 attempts hardly one of 32 candidates is not, with none most are not."""
    space = Space({"x": IntRange(0, 2999)}, constraints=[Constraint("x", lambda genome: genome["x"], at_most=999)])

    def broken(attempts):
        sample = lambda key, tried, far: space.sample(key, 32)  # noqa: E731
        genes = fresh(space, jax.random.key(1), empty_memory(64), 32, sample, attempts)
        return int((genes.codes >= 1000).sum())

    assert broken(16) <= 1
    assert broken(0) >= 12
