"""The controller as a strategy: its probabilities, its gradient, what it learns and what it refuses."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxcompress as jc
from jaxcompress.search import ENAS, Choice, Conditional, Fitness, Float, IntRange, Repeated, Space, allowed_values
from jaxcompress.search.enas.controller import Controller
from jaxcompress.search.enas.policy import reinforce_loss, rules_of, score_all

pytestmark = pytest.mark.standard_promotion  # optax.adam

NESTED = Space({
    "bits": Conditional(Choice((2, 4, 8)), on="quantized", equals=True),  # the condition is decided later
    "quantized": Choice((False, True)),
    "stages": Repeated({"op": Choice(("conv", "pool")), "kernel": Conditional(Choice((3, 5, 7)), "op", "conv")},
                       times=IntRange(1, 2)),
})  # fmt: skip
ORDERED = Space({"width": Choice((8, 16, 32, 64)), "depth": IntRange(1, 3), "act": Choice(("relu", "gelu", "tanh"))})


@cache
def lively(space, scale=8.0):
    """A controller far from uniform, and the rules of its space."""
    rules = rules_of(space)
    decisions, values = rules.real.shape
    controller = Controller.create(jax.random.key(0), decisions=decisions, values=values, hidden=6)
    biases = jax.random.normal(jax.random.key(1), controller.biases.shape)
    return jax.tree.map(lambda leaf: leaf * scale, controller)._replace(biases=biases), rules


@cache
def likelihoods():
    """Every candidate of the nested space, and its probability in float64."""
    controller, rules = lively(NESTED)
    genes = NESTED.enumerate()
    scores = jax.jit(lambda codes: score_all(controller, rules, codes).log_probability)(genes.codes)
    return genes, np.exp(np.asarray(scores, np.float64))


def test_probabilities_sum_to_one():
    """Over all candidates of a space with conditions; none is the probability of a uniform policy."""
    genes, p = likelihoods()
    assert len(genes.codes) == 4 * (4 + 16)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
    assert p.max() / p.min() > 10


def test_samples_come_as_often_as_they_are_likely():
    controller, _ = lively(NESTED)
    strategy = ENAS(hidden=6)
    state = strategy.init(NESTED, jax.random.key(2))._replace(controller=controller)
    drawn, _ = jax.jit(lambda key: strategy.draw(NESTED, state, key, 6000))(jax.random.key(3))
    every, p = likelihoods()
    hits = (np.asarray(drawn.codes)[:, None] == np.asarray(every.codes)[None]).all(-1)
    assert (hits.sum(1) == 1).all()  # canonical, all of them
    expected = 6000 * p
    chi_square = ((hits.sum(0) - expected) ** 2 / expected).sum()
    assert chi_square < 79 + 4 * np.sqrt(2 * 79)  # 79 degrees of freedom: mean 79, deviation sqrt(158)


def test_inactive_decisions_get_no_gradient():
    controller, rules = lively(NESTED)
    genes = NESTED.encode({"quantized": False, "stages": [{"op": "pool"}]})

    def log_probability(controller):
        return score_all(controller, rules, genes.codes[None]).log_probability[0]

    slope = jax.jit(jax.grad(log_probability))(controller)
    for name, heads, biases in zip(NESTED.names, slope.heads, slope.biases, strict=True):
        decided = name in ("quantized", "stages/count", "stages/0/op")
        assert bool((np.asarray(heads) != 0).any()) == bool((np.asarray(biases) != 0).any()) == decided, name


def test_reinforce_is_the_exact_gradient_in_expectation():
    """Expectation over the whole space, not over samples: of the mean reward and of the entropy; baselines drop out."""
    controller, rules = lively(NESTED)
    codes = NESTED.enumerate().codes
    rewards = jnp.sin(jnp.arange(len(codes), dtype=jnp.float32) * 1.7)
    weight, baseline = 0.3, 0.8

    def exact(controller):
        logs = score_all(controller, rules, codes).log_probability
        return jnp.sum(jnp.exp(logs) * (rewards - weight * logs))

    @jax.jit
    def both(controller):
        decided = score_all(controller, rules, codes)
        p, advantages = jnp.exp(decided.log_probability), rewards + weight * decided.entropy - baseline
        loss = partial(reinforce_loss, rules=rules, codes=codes, advantages=advantages, entropy=weight, weights=p)
        return jax.grad(lambda controller: -loss(controller))(controller), jax.grad(exact)(controller)

    for ours, truth in zip(*both(controller), strict=True):
        np.testing.assert_allclose(ours, truth, atol=2e-6, rtol=2e-4)  # float32 sums over 80 candidates


@cache
def curves(strategy, folder, queries, seeds=24):
    """Best accuracy of a search of NAS-Bench-201 (CIFAR-10), by the mean over training runs: float32 ``[seeds]``."""
    tables = np.load(folder / "nb201.npz")["cifar10_val"]
    mean = jnp.asarray(np.nanmean(tables, 1))
    runs = jnp.asarray(np.where(np.isnan(tables), tables[:, :1], tables))
    space = Space({"edges": Repeated(Choice(("none", "skip", "1x1", "3x3", "pool")), times=6)})
    digits = jnp.array([5**i for i in range(5, -1, -1)], jnp.int32)

    def search(key, runs, mean):
        def step(carry, key):
            state, best = carry
            candidates, state = strategy.ask(space, state)
            rows = jnp.sum(candidates.genes.codes * digits[None], axis=-1)
            seen = runs[rows, jax.random.randint(key, rows.shape, 0, 3, jnp.int32)]
            fitness = Fitness(100 - seen[:, None], jnp.zeros(len(rows)))
            state = strategy.tell(space, state, candidates, fitness)
            first = jnp.argmax(seen)
            new = jnp.stack([seen[first], mean[rows[first]]])
            return (state, jnp.where(new[0] > best[0], new, best)), None

        keys = jax.random.split(jax.random.fold_in(key, 1), queries // strategy.batch)
        (_, best), _ = jax.lax.scan(step, (strategy.init(space, key), jnp.zeros(2)), keys)
        return best[1]

    return np.asarray(
        jax.jit(jax.vmap(search, (0, None, None)))(jax.random.split(jax.random.key(0), seeds), runs, mean)
    )


@pytest.mark.slow
def test_learns_on_nas_bench_201(data_folder):
    """At equal queries better than random search by more than three standard errors; seeds are one program."""
    ours = curves(ENAS(hidden=16, batch=2), data_folder, 200)
    tables, draw = np.load(data_folder / "nb201.npz")["cifar10_val"], np.random.default_rng(0)
    rows, runs = draw.integers(0, 5**6, (400, 200)), draw.integers(0, 3, (400, 200))
    seen = np.where(np.isnan(tables[rows, runs]), tables[rows, 0], tables[rows, runs])
    random = np.nanmean(tables, 1)[np.take_along_axis(rows, seen.argmax(1)[:, None], 1)[:, 0]]
    spread = np.sqrt(ours.var() / len(ours) + random.var() / len(random))
    assert ours.mean() - random.mean() > 3 * spread


def test_decisions_beyond_the_limits_are_pulled_back_and_cost():
    allowed = allowed_values(ORDERED, {"width": (8, 16), "act": ("gelu", "tanh")})
    assert allowed.tolist() == [[True, True, False, False], [True, True, True, False], [False, True, True, False]]
    bounded = jc.search.enas.boundary.bounded(ORDERED, allowed, jnp.array([3, 2, 0]))
    assert bounded.codes.tolist() == [1, 2, 1]
    np.testing.assert_allclose(bounded.excess, [2 / 3, 0, 1], rtol=1e-6)  # two of three steps; in no order: all or none


def test_the_penalty_brings_the_policy_inside():
    """All candidates are equally good: only the penalty teaches; what is asked for is inside from the start."""
    strategy = ENAS(batch=16, hidden=8, boundary_penalty=3.0, learning_rate=0.05)
    allowed = allowed_values(ORDERED, {"width": (8, 16)})

    @jax.jit
    def search(key):
        def step(state, _):
            candidates, state = strategy.ask(ORDERED, state)
            fitness = Fitness(jnp.zeros((16, 1)), jnp.zeros(16))
            return strategy.tell(ORDERED, state, candidates, fitness), (
                candidates.genes.codes[:, 0],
                state.decided[:, 0],
            )

        return jax.lax.scan(step, strategy.grow(strategy.init(ORDERED, key), allowed), None, length=40)

    state, (asked, decided) = search(jax.random.key(0))
    assert asked.max() == 1
    beyond = (np.asarray(decided) > 1).mean(1)
    assert 0.35 < beyond[:5].mean() < 0.65
    assert beyond[-5:].mean() < 0.1
    wide = strategy.grow(state, allowed_values(ORDERED))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, wide.controller, state.controller))
    assert wide.allowed.sum() == 10


def test_seeds_come_first_and_teach_the_controller_nothing():
    strategy = ENAS(batch=3, hidden=6, entropy=0.0)
    seeds = [{"width": 64, "depth": 3, "act": "tanh"}] * 4
    state = strategy.init(ORDERED, jax.random.key(0), seeds=ORDERED.encode(seeds))
    ask, tell = jax.jit(partial(strategy.ask, ORDERED)), jax.jit(partial(strategy.tell, ORDERED))
    fitness = Fitness(jnp.array([[1.0], [2.0], [6.0]]), jnp.zeros(3))
    first, asked = ask(state)
    assert first.genes.codes.tolist() == [[3, 2, 2]] * 3
    told = tell(asked, first, fitness)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), told.controller, state.controller))
    assert told.baseline.objective == 3.0
    second, asked = ask(told)
    assert second.genes.codes[0].tolist() == [3, 2, 2]
    assert asked.own.tolist() == [False, True, True]
    told = tell(asked, second, fitness)
    assert not jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), told.controller, state.controller))


def test_failures_and_broken_constraints_are_avoided():
    """One value fails, one breaks a constraint: after a while neither is drawn much; nothing in the state is NaN."""
    strategy = ENAS(batch=16, hidden=8, learning_rate=0.05)

    def step(state, hopeless):
        candidates, state = strategy.ask(ORDERED, state)
        act = candidates.genes.codes[:, 2]
        noise = jnp.cos(jnp.arange(16, dtype=jnp.float32))
        objectives = jnp.where(act == 0, jnp.where(candidates.genes.codes[:, 0] > 1, jnp.nan, jnp.inf), noise)
        objectives = jnp.where(hopeless, jnp.inf, objectives)
        violation = jnp.where((act == 0) | hopeless, jnp.inf, 4.0 * (act == 1))
        return strategy.tell(ORDERED, state, candidates, Fitness(objectives[:, None], violation)), act

    start = strategy.init(ORDERED, jax.random.key(0))
    search = jax.jit(lambda hopeless: jax.lax.scan(step, start, hopeless))
    state, acts = search(jnp.arange(60) < 5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.controller))
    assert (np.asarray(acts)[-10:] == 2).mean() > 0.85
    assert state.baseline.told == 55
    state, _ = search(jnp.ones(60, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.controller))
    assert state.baseline.told == 0


def test_runs_alone():
    strategy = ENAS(batch=8, hidden=8, learning_rate=0.05)
    assert hash(strategy) == hash(ENAS(batch=8, hidden=8, learning_rate=0.05))
    assert isinstance(strategy, jc.search.Strategy)

    def evaluate(genome, key):
        return {"error": jnp.abs(genome["width"] - 32) / 32 + jnp.abs(genome["depth"] - 2) + (genome["act"] != 1)}

    run = jc.search.run(ORDERED, evaluate, strategy, key=jax.random.key(1), budget=160, executor="map", progress=False)
    assert run.best().config == {"width": 32, "depth": 2, "act": "gelu"}


def test_lowers_for_every_platform():
    strategy = ENAS(batch=2, hidden=4)

    def step(data):
        candidates, state = strategy.ask(NESTED, strategy.init(NESTED, jax.random.wrap_key_data(data)))
        fitness = Fitness(candidates.genes.codes[:, :1].astype(jnp.float32), jnp.zeros(2))
        return strategy.tell(NESTED, state, candidates, fitness).controller.kernel

    platforms = ("cpu", "cuda", "tpu")
    assert export.export(jax.jit(step), platforms=platforms)(jnp.zeros(2, jnp.uint32)).platforms == platforms


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"chooses among values, but 'rate' is continuous: make it a Choice"):
        ENAS().init(Space({"x": Choice((1, 2)), "rate": Float(0.0, 1.0)}), jax.random.key(0))
    with pytest.raises(ValueError, match=r"ENAS\(decay=\) must be a number in \[0, 1\], got 2"):
        ENAS(decay=2)
    with pytest.raises(ValueError, match=r"no discrete variable 'breadth'; there are \['width', 'depth', 'act'\]"):
        allowed_values(ORDERED, {"breadth": (8,)})
    with pytest.raises(ValueError, match="7 is not one of"):
        allowed_values(ORDERED, {"width": (7,)})
    with pytest.raises(ValueError, match="'act' is left without values"):
        allowed_values(ORDERED, {"act": ()})
    strategy = ENAS(hidden=4)
    with pytest.raises(ValueError, match=r"allowed has shape \(3, 4\), this space \(7, 3\)"):
        strategy.grow(strategy.init(NESTED, jax.random.key(0)), allowed_values(ORDERED))
