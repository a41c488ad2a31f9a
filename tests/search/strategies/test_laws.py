"""What holds for every strategy: shapes that stay, keys that decide, seeds first, nothing twice, failures last."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxcompress.search import Constraint, Fitness, Space, Strategy
from tests.search.strategies.cases import CELL, DEDUPLICATED, MIXED, STRATEGIES, TINY, error, rows_of, search

GENERATIONS = 16
SEEDS = [{"kind": "b", "depth": 5, "rate": 0.5, "momentum": 0.25}, {"kind": "a", "depth": 4, "rate": 1.0}]

LIMITED = Space(MIXED.variables, [Constraint("depth", lambda genome: genome["depth"], at_most=3)])

every = pytest.mark.parametrize("name", STRATEGIES)
deduplicated = pytest.mark.parametrize("name", DEDUPLICATED)


def with_failures(genes):
    """NaN and -inf for a part of the space, told with what `run` tells then; another part is not feasible."""
    values, broken, infeasible = error(MIXED, genes), genes.codes[:, 1] == 0, genes.codes[:, 1] == 1
    values = jnp.where(broken, jnp.where(genes.codes[:, 0] == 0, jnp.nan, -jnp.inf), values)
    return Fitness(
        jnp.stack([jnp.where(infeasible, values - 100, values), -values], 1),
        jnp.where(broken, jnp.inf, jnp.where(infeasible, 0.5, 0)),
    )


@functools.cache
def found(name):
    """The last states and all candidates of 8 searches side by side, on the mixed space, with seeds and failures."""
    seeds = MIXED.encode(SEEDS)
    one = functools.partial(
        search, MIXED, STRATEGIES[name], generations=GENERATIONS, seeds=seeds, fitness=with_failures, objectives=2
    )
    state, (candidates, fitness) = jax.jit(jax.vmap(lambda key: one(key=key)))(jax.random.split(jax.random.key(0), 8))
    return state, candidates, fitness


@every
def test_candidates_are_canonical_and_seeds_come_first(name):
    _, candidates, _ = found(name)
    genes = jax.tree.map(lambda x: x.reshape(8, -1, x.shape[-1]), candidates.genes)
    for one in range(8):
        rows = rows_of(jax.tree.map(lambda x, one=one: x[one], genes))
        # evosax's vectors hold numbers up to 1e-6 of the bounds
        np.testing.assert_allclose(rows[:2], rows_of(MIXED.encode(SEEDS)), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(rows_of(genes), rows_of(MIXED.canonical(genes)))
    codes = np.asarray(genes.codes)
    assert ((codes >= 0) & (codes < MIXED.cardinalities)).all()
    assert ((genes.values >= 0) & (genes.values <= 1)).all()
    assert (np.asarray(candidates.fidelity) == 1).all()


@every
def test_keys_decide(name):
    """Eight keys, eight different searches."""
    genes = jax.tree.map(np.asarray, found(name)[1].genes)
    assert len({codes.tobytes() + values.tobytes() for codes, values in zip(*genes, strict=True)}) == 8


@every
def test_better_than_its_own_beginning(name):
    """The best feasible one of the second half is better than that of the first two batches, for most keys."""
    _, _, fitness = found(name)
    objective = np.where(np.asarray(fitness.violation) == 0, np.asarray(fitness.objectives)[..., 0], np.inf)
    better = (objective[:, 8:].min((1, 2)) < objective[:, :2].min((1, 2))).sum()
    assert better >= (4 if name == "random" else 6)


@every
def test_failed_candidates_are_not_learned_from(name):
    """Whoever learns asks for fewer and fewer of them, and nothing becomes NaN. -inf is a failure as NaN is."""
    state, candidates, _ = found(name)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert not any(np.isnan(x).any() for x in floats)
    useless = np.asarray(candidates.genes.codes)[..., 1] < 2  # a third of all samples
    late = useless[:, 8:].mean()
    assert late < (0.5 if name == "random" else 0.3)


@every
def test_state_keeps_its_shapes_and_strategies_are_values(name):
    strategy = STRATEGIES[name]
    assert isinstance(strategy, Strategy)
    assert not strategy.multi_fidelity
    assert strategy == type(strategy)(**vars(strategy))
    assert hash(strategy) == hash(type(strategy)(**vars(strategy)))
    before = jax.eval_shape(lambda key: strategy.init(MIXED, key, objectives=2), jax.random.key(0))
    candidates, asked = jax.eval_shape(lambda state: strategy.ask(MIXED, state), before)
    assert candidates.genes.codes.shape == (strategy.batch, 2)
    fitness = Fitness(*(jax.ShapeDtypeStruct((strategy.batch, *more), jnp.float32) for more in ((2,), ())))
    told = jax.eval_shape(lambda *args: strategy.tell(MIXED, *args), asked, candidates, fitness)
    for after in asked, told:
        assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


@every
def test_wrong_seeds_are_an_error(name):
    with pytest.raises(ValueError, match=r"seeds must be genes of this space.*space.encode"):
        STRATEGIES[name].init(MIXED, jax.random.key(0), seeds=CELL.sample(jax.random.key(0), 2))
    with pytest.raises(ValueError, match=r"objectives=\) must be an integer of at least 1, got 0"):
        STRATEGIES[name].init(MIXED, jax.random.key(0), objectives=0)


@deduplicated
def test_nothing_is_asked_for_twice(name):
    genes = found(name)[1].genes
    for one in range(8):
        rows = rows_of(jax.tree.map(lambda x, one=one: x[one], genes))
        assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("name", ["aging", *(pytest.param(n, marks=pytest.mark.slow) for n in STRATEGIES)])
def test_searches_side_by_side_are_searches_one_by_one(name, compilations):
    """And the second generation, and the second search, compile nothing."""
    strategy = STRATEGIES[name]
    init = jax.jit(lambda key: strategy.init(MIXED, key))
    ask = jax.jit(lambda state: strategy.ask(MIXED, state))
    tell = jax.jit(lambda *args: strategy.tell(MIXED, *args))
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(lambda key: search(MIXED, strategy, key, 4)[1][0].genes))(keys)

    def one_by_one(key):
        state, asked = init(key), []
        for _ in range(4):
            candidates, state = ask(state)
            asked.append(rows_of(candidates.genes))
            values = error(MIXED, candidates.genes)[:, None]
            state = tell(state, candidates, Fitness(values, jnp.zeros(strategy.batch)))
        return np.stack(asked)

    for i, key in enumerate(keys):
        rows = rows_of(jax.tree.map(lambda x, i=i: x[i], together)).reshape(4, strategy.batch, -1)
        np.testing.assert_allclose(one_by_one(key), rows, rtol=0, atol=2e-6)
    key, before = list(keys)[1], compilations()
    one_by_one(key)
    assert compilations() == before


@pytest.mark.parametrize("name", ["aging", "nsga2", *(pytest.param(n, marks=pytest.mark.slow) for n in DEDUPLICATED)])
def test_lowers_for_every_platform(name):
    strategy = STRATEGIES[name]

    def step(data):
        state = strategy.init(MIXED, jax.random.wrap_key_data(data))
        candidates, state = strategy.ask(MIXED, state)
        fitness = Fitness(error(MIXED, candidates.genes)[:, None], jnp.zeros(strategy.batch))
        return jax.random.key_data(strategy.tell(MIXED, state, candidates, fitness).key)

    platforms = ("cpu", "cuda", "tpu")
    assert export.export(jax.jit(step), platforms=platforms)(jnp.zeros(2, jnp.uint32)).platforms == platforms


@pytest.mark.parametrize("name", ["random", *(pytest.param(n, marks=pytest.mark.slow) for n in DEDUPLICATED)])
def test_a_small_space_is_exhausted(name):
    """It has 12 candidates: a batch of 4 asks for all of them in three generations, whatever it learns, and goes on."""
    strategy = DEDUPLICATED[name]
    several = jax.jit(jax.vmap(lambda key: search(TINY, strategy, key, 4)[1][0].genes))
    for codes in several(jax.random.split(jax.random.key(3), 8)).codes:
        assert len(np.unique(np.asarray(codes)[:3].reshape(12, 2), axis=0)) == 12


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", DEDUPLICATED)
def test_the_state_keeps_its_types(name, wide):
    """Float32 from the first question on, none of it weakly typed; where 64 bits are the default too."""
    strategy = STRATEGIES[name]

    def step(state):
        candidates, state = strategy.ask(LIMITED, state)
        fitness = Fitness(jnp.ones((strategy.batch, 1), jnp.float32), jnp.zeros(strategy.batch, jnp.float32))
        return candidates, strategy.tell(LIMITED, state, candidates, fitness)

    with jax.enable_x64(wide):
        before = jax.eval_shape(lambda key: strategy.init(LIMITED, key), jax.random.key(0))
        candidates, after = jax.eval_shape(step, before)
    kinds = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)] for state in (before, after)]
    assert kinds[0] == kinds[1]
    floats = [x for x in jax.tree.leaves((before, candidates)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {(x.dtype, x.weak_type) for x in floats} == {(jnp.dtype("float32"), False)}
