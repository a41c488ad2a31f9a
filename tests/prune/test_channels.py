"""Selection under budgets: held against every choice there is on small networks."""

import functools
import importlib
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.shrink import masked, shrink, verify
from jaxcompress.prune import channels
from jaxcompress.prune.ladder import Ladder
from jaxcompress.prune.latency import shrunk_latency_ms
from jaxcompress.prune.scores import Activation, Aggregate, Fisher, Random, Wanda, gradients


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


SIZES = (6, 5, 8)


def mlp(p, x):
    for name in "abc":
        x = jax.nn.relu(x @ p[name])
    return x @ p["d"]


PARAMS = {"a": normal(0, 3, 6), "b": normal(1, 6, 5), "c": normal(2, 5, 8), "d": normal(3, 8, 2)}
X = normal(4, 2, 3)


@functools.cache
def network():
    groups = jc.groups(mlp, PARAMS, X)
    assert tuple(group.size for group in groups) == SIZES
    return groups


def params_of(a, b, c):
    return 3 * a + a * b + b * c + 2 * c


def counts(keep, groups):
    return tuple(len(keep.units.get(group.index, range(group.size))) for group in groups)


def every_choice(step=1, floor=1):
    allowed = [sorted({min(size, max(floor, n)) for n in range(step, size + step, step)}) for size in SIZES]
    return itertools.product(*allowed)


@pytest.mark.parametrize("budget", [21, 40, 63, 80, 103])
def test_the_budget_is_met_from_below_and_nothing_more_fits(budget):
    groups = network()
    keep = channels(groups, PARAMS, params=budget, round_to=1)
    kept = counts(keep, groups)
    assert keep.costs["params"] == (params_of(*SIZES), params_of(*kept))
    assert keep.costs["params"][1] <= budget
    for place in range(3):
        more = [n + (other == place) for other, n in enumerate(kept)]
        assert kept[place] == SIZES[place] or params_of(*more) > budget


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_the_best_units_of_each_group_stay(scope):
    groups, rng = network(), np.random.default_rng(0)
    scores = {group.index: rng.permutation(group.size).astype(float) for group in groups}
    keep = channels(groups, PARAMS, scores=scores, sparsity=0.5, round_to=1, scope=scope)
    for index, units in keep.units.items():
        best = np.argsort(-scores[index])[: len(units)]
        assert sorted(best) == units.tolist() == sorted(units)
    assert keep["a", 1].tolist() == keep["b", 0].tolist() == keep.units[0].tolist()
    assert sum(counts(keep, groups)) == 9  # 19 - round(9.5), halves to even


def test_global_takes_one_threshold_and_uniform_one_fraction():
    groups = network()
    scores = {0: np.full(6, 9.0), 1: np.full(5, 5.0), 2: np.arange(8.0)}
    assert counts(channels(groups, PARAMS, scores=scores, sparsity=6 / 19, round_to=1), groups) == (6, 5, 2)
    uniform = channels(groups, PARAMS, scores=scores, sparsity=0.5, round_to=1, scope="uniform")
    assert counts(uniform, groups) == (3, 2, 4)


def test_fractions_remain_and_numbers_are_numbers():
    groups = network()
    total = groups.flops()
    half = channels(groups, PARAMS, flops=0.5, round_to=1)
    assert half.costs["flops"][1] <= total // 2
    for number in (total // 2, float(total // 2)):
        same = channels(groups, PARAMS, flops=number, round_to=1)
        assert {key: kept.tolist() for key, kept in half.items()} == {key: kept.tolist() for key, kept in same.items()}
    assert dict(channels(groups, PARAMS, flops=1.0)) == {}
    quarter = channels(groups, PARAMS, bytes=0.25, round_to=1)
    assert quarter.costs["bytes"] == (4 * params_of(*SIZES), 4 * params_of(*counts(quarter, groups)))
    assert quarter.costs["bytes"][1] <= params_of(*SIZES)


def test_rounding_floors_protection_and_choice():
    groups = network()

    def kept(**options):
        return counts(channels(groups, PARAMS, **options), groups)

    assert kept(sparsity=0.3, round_to=4)[2] in (4, 8)
    assert kept(params=40, round_to={"c": 4, "**": 1})[2] == 4
    assert min(kept(params=60, round_to=1, floors=4)) == 4
    assert kept(params=60, round_to=1, floors={"b": 1.0})[:2] == (6, 5)  # b has both of these groups
    assert kept(params=60, round_to=1, protect="d")[2] == 8
    assert kept(params=60, round_to=1, where="d")[:2] == (6, 5)
    assert kept(params=90, round_to=1, where=lambda group: group.size == 6)[1:] == (5, 8)


def test_widths_are_multiples_where_the_group_is_large_enough():
    """Six units are not rounded to eight; twenty are, and heads count with their dims."""
    params = {"a": normal(0, 3, 6), "b": normal(1, 6, 20), "c": normal(2, 20, 2)}

    def net(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

    keep = channels(jc.groups(net, params, X), params, sparsity=0.5)
    assert len(keep["a", 1]) < 6
    assert len(keep["b", 1]) in (8, 16)


@hypothesis.given(
    seed=st.integers(0, 99),
    fraction=st.floats(0.3, 1),
    step=st.sampled_from([1, 2, 4]),
    floor=st.integers(1, 3),
    scope=st.sampled_from(["global", "uniform"]),
)
def test_no_choice_of_the_same_order_is_closer(seed, fraction, step, floor, scope):
    groups, rng = network(), np.random.default_rng(seed)
    scores = {group.index: np.round(rng.standard_normal(group.size), 1) for group in groups}
    options = {"scope": scope, "round_to": step, "floors": floor}
    budget = int(fraction * params_of(*SIZES))
    ladder = Ladder.build(groups, scores, **options)
    least = params_of(*ladder.counts(0).values())
    if least > budget:
        with pytest.raises(ValueError, match=f"the least that can be reached is {least}"):
            channels(groups, PARAMS, scores=scores, params=budget, **options)
        return
    keep = channels(groups, PARAMS, scores=scores, params=budget, **options)
    kept = counts(keep, groups)
    assert kept in set(every_choice(step, floor))
    rungs = [tuple(ladder.counts(rung).values()) for rung in range(ladder.top + 1)]
    best = max(params_of(*rung) for rung in rungs if params_of(*rung) <= budget)
    assert best <= params_of(*kept) == keep.costs["params"][1] <= budget
    for place, size in enumerate(SIZES):
        more = [min(SIZES[other], n + step * (other == place)) for other, n in enumerate(kept)]
        assert kept[place] == size or params_of(*more) > budget


def test_a_budget_out_of_reach_says_what_can_be_reached():
    groups = network()
    with pytest.raises(ValueError, match=r"params=3 allows 3, the least that can be reached is 7 of 104 \(params=0.06"):
        channels(groups, PARAMS, params=3, round_to=1)
    with pytest.raises(ValueError, match=r"sparsity=0.95 allows 1 units kept, the least that can be reached is 3"):
        channels(groups, PARAMS, sparsity=0.95, round_to=1)
    least = float(np.ceil(1e4 * 7 / 104) / 1e4)
    assert counts(channels(groups, PARAMS, params=least, round_to=1), groups) == (1, 1, 1)  # as the error says


def test_settings_are_checked():
    groups = network()
    for options, message in (
        ({}, "exactly one of flops="),
        ({"flops": 0.5, "params": 0.5}, "exactly one"),
        ({"flops": 0.0}, "flops must be positive"),
        ({"flops": "half"}, "flops must be a number"),
        ({"sparsity": 1.0}, "sparsity is the fraction"),
        ({"flops": 0.5, "scope": "layer"}, "scope must be"),
        ({"flops": 0.5, "round_to": 0}, "round_to must be 1"),
        ({"flops": 0.5, "floors": 0}, "floors are a number"),
        ({"flops": 0.5, "protect": "**"}, "nothing is left to prune"),
        ({"flops": 0.5, "where": "z"}, "fits no group"),
    ):
        with pytest.raises(ValueError, match=message):
            channels(groups, PARAMS, **options)
    bad = PARAMS | {"b": PARAMS["b"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match=r"group 0 \(a, b\) hold NaN or infinity"):
        channels(groups, bad, flops=0.5)


def test_the_selection_is_a_dict_and_a_report():
    groups = network()
    keep = channels(groups, PARAMS, params=0.5, round_to=1)
    assert isinstance(keep, dict)
    small = shrink(mlp, PARAMS, keep)
    assert sum(a.size for a in jax.tree.leaves(small.params)) == keep.costs["params"][1]
    assert verify(mlp, PARAMS, keep, X).ok
    text = repr(keep)
    assert "params: 104 -> " in text
    assert all(f"{group.index}      {group.size}" in text for group in groups)
    assert "<table>" in keep._repr_html_()


def test_scores_beat_chance_on_a_trained_network():
    """The loss without half of the hidden units, untrained afterwards: data beats magnitude, that beats chance."""
    x, params = normal(5, 256, 6), {"a": normal(6, 6, 24) / 3, "b": normal(7, 24, 1) / 5}
    y = jnp.sin(x[:, :1]) + jnp.abs(x[:, 1:2]) * x[:, 2:3]

    def net(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    def loss(p, x):
        return jnp.mean((net(p, x) - jnp.sin(x[:, :1]) - jnp.abs(x[:, 1:2]) * x[:, 2:3]) ** 2)

    def step(p, _):
        return jax.tree.map(lambda w, g: w - jnp.float32(0.03) * g, p, jax.grad(loss)(p, x)), None

    params = jax.jit(lambda p: jax.lax.scan(step, p, None, length=1500)[0])(params)
    assert loss(params, x) < 0.3 * jnp.var(y)
    groups = jc.groups(net, params, x)
    batches = list(x.reshape(8, 32, 6))
    held = gradients(loss, params, batches, per="example", chunk=32, groups=groups)

    def after(scores):
        keep = channels(groups, params, scores=scores, sparsity=0.5, round_to=1)
        return float(loss(masked(params, keep), x))

    chance = np.median([after(Random(seed)) for seed in range(9)])
    stats = jc.observe(net, params, batches)
    for informed in (Fisher(held), Aggregate(Wanda(stats), members="consumers")):
        assert after(informed) < 0.75 * after("l2")
    assert after(Activation(stats)) < after("l2") < 0.9 * chance


# Latency --------------------------------------------------------------------------------------------------------


def test_latency_is_bisected_over_what_is_measured(monkeypatch):
    """With a clock that counts multiplications the answer is that of the FLOPs, up to the order of the units."""
    groups = network()

    def clock(groups, params, units):
        return groups.flops({index: len(kept) for index, kept in units.items()}) / 100

    monkeypatch.setattr(importlib.import_module("jaxcompress.prune.channels"), "shrunk_latency_ms", clock)
    limit = groups.flops() / 200
    keep = channels(groups, PARAMS, latency_ms=limit, round_to=1)
    before, after = keep.costs["latency_ms"]
    assert (before, after) == (groups.flops() / 100, keep.costs["flops"][1] / 100)
    assert 0.8 * limit < after <= limit
    assert len(keep.measured) <= 8  # bisection over at most 20 rungs, dense and smallest
    assert "latency_ms: " in repr(keep)
    assert dict(channels(groups, PARAMS, latency_ms=before)) == {}
    with pytest.raises(ValueError, match=r"latency_ms=0.01 is below what the smallest network takes, 0.\d+ ms \(dense"):
        channels(groups, PARAMS, latency_ms=0.01, round_to=1)


def test_latency_is_really_measured():
    params = {"a": normal(0, 256, 4096), "b": normal(1, 4096, 256)}

    def net(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    groups = jc.groups(net, params, jax.ShapeDtypeStruct((64, 256), jnp.float32))
    dense, small = (shrunk_latency_ms(groups, params, units) for units in ({}, {0: np.arange(64)}))
    assert dense > 2 * small  # 64 times the work
    assert dict(channels(groups, params, latency_ms=100 * dense)) == {}
    with pytest.raises(ValueError, match=r"the smallest network takes, \d+\.\d+ ms \(dense: \d+\.\d+ ms, measured"):
        channels(groups, params, latency_ms=1e-6, round_to=64)
