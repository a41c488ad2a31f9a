"""NSGA-II against pymoo's: who survives, how far the front gets, and that nobody lives twice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.operators.survival.rank_and_crowding.classes import RankAndCrowding
from pymoo.optimize import minimize

from jaxcompress.search import NSGA2, Fitness, Genes
from jaxcompress.search.spaces import NasBench201
from jaxcompress.search.strategies.judgement import Judged
from jaxcompress.search.strategies.members import Members
from jaxcompress.search.strategies.nsga2 import survivors
from tests.search.strategies.cases import CELL, search

BENCH = NasBench201()
survive = jax.jit(survivors, static_argnums=1)


def members(objectives, violation, codes=None):
    n = len(objectives)
    codes = np.arange(n)[:, None] if codes is None else codes
    genes = Genes(jnp.asarray(codes, jnp.int32), jnp.zeros((n, 0)))
    return Members(genes, Judged(jnp.asarray(objectives, jnp.float32), jnp.asarray(violation, jnp.float32)))


@pytest.mark.filterwarnings("ignore:`row_stack`:DeprecationWarning")
@pytest.mark.parametrize("infeasible", [0, 40])
def test_survivors_are_pymoo_s(infeasible):
    """66 of 96, a cut between different crowding distances; with many infeasible, these by their violation."""
    rng = np.random.default_rng(infeasible)
    objectives = rng.normal(size=(96, 2)).astype(np.float32)
    violation = np.where(np.arange(96) < infeasible, rng.random(96), 0).astype(np.float32)
    front = survive(members(objectives, violation), 66)
    population = Population.new(F=objectives.astype(float), G=violation[:, None].astype(float))
    population.set("CV", violation[:, None])
    problem = Problem(n_var=1, n_obj=2, n_ieq_constr=1)
    kept = RankAndCrowding().do(problem, population, n_survive=66)
    assert {tuple(row) for row in np.asarray(front.members.fitness.objectives)} == {
        tuple(row) for row in kept.get("F").astype(np.float32)
    }
    feasible = front.members.fitness.violation == 0
    assert (np.diff(np.asarray(front.ranks)) >= 0).all()
    assert feasible.sum() == min(66, 96 - infeasible)


def test_twins_do_not_survive():
    """Eight different candidates, each twelve times: each is there once before anybody is there twice."""
    codes = np.arange(96)[:, None] % 8
    objectives = np.concatenate([codes, 8.0 - codes], 1)
    front = survive(members(objectives, np.zeros(96), codes), 66)
    assert sorted(np.asarray(front.members.genes.codes)[:8, 0].tolist()) == list(range(8))
    assert np.isinf(np.asarray(front.members.fitness.violation)[8:]).all()


def test_feasible_candidates_come_first():
    """The front of the whole space is not feasible: the population is found where it is."""
    strategy = NSGA2(population=16)

    def fitness(genes):
        codes = genes.codes.astype(jnp.float32)
        objectives = jnp.stack([codes.sum(-1), codes[:, :3].sum(-1) - codes[:, 3:].sum(-1)], 1)
        return Fitness(objectives, jnp.maximum(12 - codes.sum(-1), 0))

    state, _ = jax.jit(lambda key: search(CELL, strategy, key, 12, objectives=2, fitness=fitness))(jax.random.key(0))
    alive = state.knowledge.members
    assert (np.asarray(alive.fitness.violation) == 0).all()
    assert len(np.unique(np.asarray(alive.genes.codes), axis=0)) == 16
    assert np.asarray(alive.fitness.objectives)[:, 0].min() == 12


@pytest.fixture(scope="module")
def table(data_folder):
    """Error in percent and latency in milliseconds of all cells, CIFAR-10, float64 ``[15625, 2]``."""
    with np.load(data_folder / "nb201.npz") as arrays:
        error = 100 - np.nanmean(arrays["cifar10_val"].astype(np.float64), 1)
        return np.stack([error, 1e3 * arrays["cifar10_lat"].astype(np.float64)], 1)


def found_by_us(table, keys, *, population, generations):
    """The populations ``[keys, population, 6]`` after so many generations, the first of them included."""
    known, space = jnp.asarray(table, jnp.float32), BENCH.space()

    def fitness(genes):
        objectives = known[BENCH.row(space.decode(genes))]
        return Fitness(objectives, jnp.zeros(len(objectives)))

    one = functools.partial(search, space, NSGA2(population=population), generations=generations, objectives=2)
    state, _ = jax.jit(jax.vmap(lambda key: one(key=key, fitness=fitness)))(keys)
    return np.asarray(state.knowledge.members.genes.codes)


class Cells(Problem):
    """The same table as a pymoo problem."""

    def __init__(self, table):
        super().__init__(n_var=6, n_obj=2, xl=0, xu=4, vtype=int)
        self.table = table

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = self.table[x.astype(int) @ 5 ** np.arange(5, -1, -1)]


class OtherOperation(Mutation):
    """One gene of each becomes another one, as in `Space.mutate`."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def _do(self, problem, x, **kwargs):
        changes = np.zeros_like(x)
        changes[np.arange(len(x)), self.rng.integers(0, 6, len(x))] = self.rng.integers(1, 5, len(x))
        return (x + changes) % 5


def volume(points, table):
    """Share of the hypervolume of the true front, below the worst error and latency of the space."""
    low, high = table.min(0), table.max(0)
    indicator = HV(ref_point=np.ones(2))
    return indicator((points - low) / (high - low)) / indicator((table[true_front(table)] - low) / (high - low))


def true_front(table):
    """Rows that no other one beats: in the order of the error, those with less latency than all before them."""
    order = np.lexsort((table[:, 1], table[:, 0]))
    latency = table[order, 1]
    before = np.concatenate([[np.inf], np.minimum.accumulate(latency)[:-1]])
    return order[latency < before]


def rows(codes):
    return codes @ 5 ** np.arange(5, -1, -1)


@pytest.mark.filterwarnings("ignore:`row_stack`:DeprecationWarning")
def test_front_of_nas_bench_201_is_as_good_as_pymoo_s(table):
    """1,280 evaluations, 3 seeds: hypervolume on average pymoo's less .002 or better, and no duplicates."""
    codes = found_by_us(table, jax.random.split(jax.random.key(0), 3), population=64, generations=20)
    ours = [volume(table[rows(population)], table) for population in codes]
    theirs = []
    for seed in range(3):
        algorithm = PymooNSGA2(
            pop_size=64,
            sampling=IntegerRandomSampling(),
            crossover=UniformCrossover(prob=0.9),
            mutation=OtherOperation(seed),
            eliminate_duplicates=True,
        )
        theirs.append(volume(minimize(Cells(table), algorithm, ("n_gen", 20), seed=seed).F, table))
    assert np.mean(ours) >= np.mean(theirs) - 0.002
    assert np.mean(ours) > 0.99
    assert all(len(np.unique(rows(population))) == 64 for population in codes)


@pytest.mark.slow
def test_true_front_of_nas_bench_201_is_found(table):
    """With 128 and 50 generations, 40 % of the space: at least nine in ten of the true front, 3 seeds of 3."""
    front = set(true_front(table).tolist())
    codes = found_by_us(table, jax.random.split(jax.random.key(1), 3), population=128, generations=50)
    for population in codes:
        assert len(set(rows(population).tolist())) == 128
        assert len(front & set(rows(population).tolist())) >= 0.9 * len(front)
