"""Curves and the accuracy gap: one program, the numbers of pruning by hand, end points that were evaluated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import magnitude
from jaxcompress.prune.accuracy_gap import by_accuracy_gap
from jaxcompress.prune.sensitivity import sensitivity

RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)


PARAMS = {"a": {"kernel": draw(12, 20), "bias": draw(20)}, "b": {"kernel": draw(20, 6)}, "c": {"kernel": draw(6, 6)}}
X = draw(64, 12)


def fn(params, x):
    h = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return jnp.tanh(h @ params["b"]["kernel"]) @ params["c"]["kernel"]


TARGET = fn(PARAMS, X)


def evaluate(apply, params):
    return jnp.square(apply(params, X) - TARGET).mean()


def by_hand(sparsities):
    dense = jc.materialize(magnitude(PARAMS, sparsity=sparsities))
    return float(evaluate(fn, dense))


def test_curves_are_those_of_pruning_layer_by_layer():
    curves = sensitivity(fn, PARAMS, evaluate, sparsities=(0.9, 0.25, 0.5, 0.5))
    assert curves.paths == ("a/kernel", "b/kernel", "c/kernel")
    assert curves.sparsities.tolist() == [0.25, 0.5, 0.9]
    assert curves.dense == {"error": pytest.approx(0, abs=1e-12)}
    expected = [[by_hand({path: s}) for s in curves.sparsities] for path in curves.paths]
    np.testing.assert_allclose(curves.metrics["error"], expected, rtol=1e-4)
    assert curves.kept.tolist() == [[180, 120, 24], [90, 60, 12], [27, 18, 4]]
    assert "a/kernel" in repr(curves)
    assert "dense: " in repr(curves)
    assert "<table>" in curves._repr_html_()


def test_a_second_scan_of_other_levels_and_scores_compiles_nothing(compilations):
    sensitivity(fn, PARAMS, evaluate, sparsities=(0.5, 0.75))
    other = jax.tree.map(lambda leaf: leaf[::-1], PARAMS)
    scores = jax.tree.map(jnp.square, PARAMS)
    before = compilations()
    sensitivity(fn, other, evaluate, sparsities=(0.1, 0.95), scores=scores)
    assert compilations() == before


def test_metrics_by_name_coded_leaves_and_stacks():
    stacked = {"layers": draw(3, 8, 8), "head": draw(8, 4)}
    coded = jc.quantize.rtn(stacked, bits=8, where="head")

    def scanned(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["layers"])[0] @ params["head"]

    x = draw(16, 8)
    target = scanned(stacked, x)

    def measure(apply, params):
        error = apply(params, x) - target
        return {"mse": jnp.square(error).mean(), "worst": jnp.abs(error).max()}

    sites = jc.sites(scanned, stacked, x)
    curves = sensitivity(scanned, coded, measure, sparsities=(0.5,), sites=sites)
    assert set(curves.metrics) == {"mse", "worst"}
    assert curves.kept.tolist() == [[16], [96]]  # in tree order: head, layers
    pruned = magnitude(coded, sparsity={"layers": 0.5}, sites=sites)
    np.testing.assert_allclose(curves.metrics["mse"][1, 0], measure(jc.lift(scanned), pruned)["mse"], rtol=1e-4)
    with pytest.raises(ValueError, match=r"metric='error' is none of .*\['mse', 'worst'\]"):
        curves.drops()
    assert curves.drops("worst", better="higher")[0, 0] < 0 < curves.drops("worst")[0, 0]


def test_what_is_within_stops_at_the_first_level_that_is_not():
    curves = sensitivity(fn, PARAMS, evaluate, sparsities=(0.25, 0.5, 0.75))
    bumpy = curves.metrics["error"].copy()
    bumpy[0] = [0.0, 1.0, 0.0]
    found = dataclasses.replace(curves, metrics={"error": bumpy}).within(float(bumpy[1, 1]))
    assert found["a/kernel"] == 0.25
    assert found["b/kernel"] == 0.5


def check(found, max_drop):
    """The end point is a tree that was evaluated, and bisection saw one above it that was worse."""
    assert found.value - found.dense <= max_drop
    np.testing.assert_allclose(float(evaluate(jc.lift(fn), found.params)), found.value, rtol=1e-4, atol=1e-9)
    rebuilt = magnitude(PARAMS, sparsity=found.allocation)
    jax.tree.map(np.testing.assert_array_equal, found.params, rebuilt)
    worse = [e.sparsity for e in found.evaluations if not e.within]
    assert all(e.value > max_drop for e in found.evaluations if not e.within)
    return min(worse) - found.sparsity


@pytest.mark.parametrize("rule", ["uniform", "erk", "global", "lamp"])
def test_gap_by_rule(rule):
    found = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=0.01, rule=rule, tolerance=1 / 64)
    assert 0 <= check(found, 0.01) <= 1 / 64 + 1 / 396
    assert len(found.evaluations) <= 9
    assert found.evaluations[0].sparsity == 0
    assert "chosen" in repr(found)


def test_gap_by_curves_beats_uniform():
    curves = sensitivity(fn, PARAMS, evaluate, sparsities=np.linspace(0.05, 0.95, 19))
    found = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=0.01, rule=curves)
    assert check(found, 0.01) > 0
    uniform = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=0.01)
    assert found.sparsity > uniform.sparsity
    assert len({round(s, 2) for s in found.allocation.values()}) > 1


def test_gap_by_a_function_floors_and_the_ends():
    def rule(sparsity):
        return {"a/kernel": sparsity, "b/kernel": sparsity / 2}

    found = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=0.005, rule=rule, tolerance=1 / 64)
    assert check(found, 0.005) > 0
    assert found.allocation["c/kernel"] == 0
    everything = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=1e9, protect="a/*", floors={"c/*": 3})
    assert everything.allocation.kept == {"a/kernel": 240, "b/kernel": 0, "c/kernel": 3}
    assert everything.params["a"]["kernel"] is PARAMS["a"]["kernel"]
    assert len(everything.evaluations) == 2
    nothing = by_accuracy_gap(fn, PARAMS, evaluate, max_drop=0.0, tolerance=0.25)
    assert nothing.sparsity == 0
    assert nothing.value == nothing.dense == pytest.approx(0, abs=1e-12)


def test_errors_name_the_way_out():
    def host(apply, params):
        return float(np.mean(np.asarray(apply(params, X))))

    with pytest.raises(TypeError, match=r"sensitivity: evaluate= is compiled once .* must be traceable: .*jax\.numpy"):
        sensitivity(fn, PARAMS, host)
    with pytest.raises(ValueError, match=r"must return scalars, got shape \(64, 6\) for 'error'"):
        sensitivity(fn, PARAMS, lambda apply, params: apply(params, X))
    with pytest.raises(ValueError, match=r"sparsity is the fraction .* got 1\.5"):
        sensitivity(fn, PARAMS, evaluate, sparsities=(0.5, 1.5))
    with pytest.raises(ValueError, match="leaves no layer to scan"):
        sensitivity(fn, PARAMS, evaluate, protect="**")
    with pytest.raises(ValueError, match="max_drop must be 0 or more, got -1"):
        by_accuracy_gap(fn, PARAMS, evaluate, max_drop=-1)
    with pytest.raises(ValueError, match=r"rule must be one of .* got 'random'"):
        by_accuracy_gap(fn, PARAMS, evaluate, rule="random")
    with pytest.raises(ValueError, match="better must be 'lower' or 'higher'"):
        by_accuracy_gap(fn, PARAMS, evaluate, better="more")
    with pytest.raises(ValueError, match="error of the dense network is nan"):
        by_accuracy_gap(fn, PARAMS, lambda apply, params: jnp.float32(jnp.nan))
    curves = sensitivity(fn, PARAMS, evaluate, sparsities=(0.5, 0.75), where="a/kernel")
    with pytest.raises(ValueError, match=r"curves are about \['a/kernel'\]"):
        by_accuracy_gap(fn, PARAMS, evaluate, rule=curves)
    with pytest.raises(ValueError, match="rule= names 'z'"):
        by_accuracy_gap(fn, PARAMS, evaluate, rule=lambda s: {"z": s})
