"""Scans of ranks: values against explicit factorizations, one program, and what is made of the curves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import budget_ranks, output_error, planned_ranks, rank_sensitivity, svd, whitened_svd

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def fn(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"] + params["c"][None]


@pytest.fixture(scope="module")
def problem():
    params = {"a": normal(16, 12) / 4, "b": normal(12, 4) @ normal(4, 10) + 0.1 * normal(12, 10), "c": normal(10)}
    return params, [normal(20, 16), normal(20, 16)]


def relative_error(params, thin, batches):
    pairs = [(fn(params, x), fn(jc.materialize(thin), x)) for x in batches]
    return sum(float(jnp.sum((a - b) ** 2)) for a, b in pairs) / sum(float(jnp.sum(a**2)) for a, _ in pairs)


@pytest.mark.slow
def test_values_are_those_of_the_factorized_networks_and_one_program_finds_them(problem, compilations):
    params, batches = problem
    evaluate = output_error(fn, params, batches)
    found = rank_sensitivity(fn, params, evaluate, ranks=[1, 3, 5])
    assert [one.path for one in found.candidates] == ["a", "b"]
    assert found.ranks.tolist() == [[1, 3, 5], [1, 3, 5]]
    assert found.dense < 1e-12
    for i, path in enumerate("ab"):
        for level, rank in enumerate((1, 3, 5)):
            expected = relative_error(params, svd(params, rank={path: rank}), batches)
            np.testing.assert_allclose(found.values[i, level], expected, rtol=1e-3, atol=1e-6)
    before = compilations("_evaluated")
    again = rank_sensitivity(fn, params, evaluate, ranks=[2, 4, 5])
    assert compilations("_evaluated") == before, "ranks are runtime numbers"
    assert again.values[0, 2] == found.values[0, 2]
    plain = rank_sensitivity(fn, params, lambda apply, p: float(evaluate(apply, p)), ranks=[3], traced=False)
    np.testing.assert_allclose(plain.values[:, 0], found.values[:, 1], rtol=1e-3, atol=1e-6)


def test_ranks_within_a_drop_and_within_a_budget(problem):
    params, batches = problem
    found = rank_sensitivity(fn, params, output_error(fn, params, batches), ranks=[1, 2, 3, 4, 5])
    ranks = found.within(0.05)
    assert ranks["b"] == 4, "its rank but for noise"
    assert all(found.values["ab".index(path), rank - 1] <= 0.05 for path, rank in ranks.items())
    assert "a" not in ranks or found.values[0, ranks["a"] - 2] > 0.05
    tight = found.within_budget(parameters=0.5)
    assert tight.entries <= 0.5 * (16 * 12 + 12 * 10)
    assert svd(params, rank=tight)["b"].rank == tight["b"]
    flat = rank_sensitivity(fn, params, output_error(fn, params, batches), ranks=[0.5, 1.0], better="higher")
    assert flat.within(0.0) == {"a": 3, "b": 3}, "where higher is better, an error is a gain"


def test_a_data_aware_method_is_scanned_and_loses_less(problem):
    params, batches = problem
    skewed = [x * jnp.linspace(0.05, 3, 16)[None] for x in batches]
    stats = jc.observe(fn, params, skewed)
    evaluate = output_error(fn, params, skewed)
    aware = rank_sensitivity(fn, params, evaluate, ranks=[2, 4], method=functools.partial(whitened_svd, stats=stats))
    plain = rank_sensitivity(fn, params, evaluate, ranks=[2, 4])
    assert (aware.values[0] < plain.values[0]).all()
    expected = relative_error(params, whitened_svd(params, stats, rank={"a": 2}), skewed)
    np.testing.assert_allclose(aware.values[0, 0], expected, rtol=1e-3)


def test_planned_ranks_print_and_are_what_the_rule_gives(problem):
    params, batches = problem
    rule = jc.factorize.budget(parameters=0.5)
    planned = planned_ranks(rule, svd, params)
    thin = svd(params, rank=rule)
    assert {path: leaf.rank for path, leaf in thin.items() if path in planned} == planned
    assert "break-even" in repr(planned)
    assert budget_ranks(params, parameters=0.5) == planned
    stats = jc.observe(fn, params, batches)
    whitened = budget_ranks(params, parameters=0.5, stats=stats)
    assert whitened.entries <= 0.5 * (16 * 12 + 12 * 10)
    sites = jc.sites(fn, params, batches[0])
    assert budget_ranks(params, flops=0.5, stats=stats, sites=sites) == whitened, "at one batch size costs are alike"


def test_what_cannot_be_scanned_is_named(problem):
    params, batches = problem
    evaluate = output_error(fn, params, batches)
    with pytest.raises(TypeError, match="must be traceable"):
        rank_sensitivity(fn, params, lambda apply, p: float(evaluate(apply, p)), ranks=[1])
    with pytest.raises(ValueError, match="must return a scalar, got shape"):
        rank_sensitivity(fn, params, lambda apply, p: apply(p, batches[0]), ranks=[1])
    with pytest.raises(ValueError, match=r"positive integers or fractions in \(0, 1\], got 1\.5"):
        rank_sensitivity(fn, params, evaluate, ranks=[1.5])
    with pytest.raises(ValueError, match="bind them to method="):
        rank_sensitivity(fn, params, evaluate, method=svd, where="a")
    with pytest.raises(ValueError, match="holds no batch"):
        output_error(fn, params, [])
    idle = lambda p, *, rank: p if isinstance(rank, dict) else svd(p, rank=rank)  # noqa: E731
    with pytest.raises(TypeError, match="must put one LowRank leaf at 'a'"):
        rank_sensitivity(fn, params, evaluate, method=idle)
    assert jax.tree.all(jax.tree.map(lambda x: isinstance(x, jax.Array), params)), "inputs are as they were"


def test_masked_leaves_and_stacks_are_scanned_as_they_are():
    def stacked(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ params["w"], params["layers"])[0]

    mask = jnp.asarray(RNG.random((8, 8)) < 0.7)
    params = {"w": jc.prune.Masked.create(normal(8, 8), mask), "layers": normal(2, 8, 8)}
    x = normal(6, 8)
    sites = jc.sites(stacked, params, x)
    found = rank_sensitivity(stacked, params, output_error(stacked, params, [x]), ranks=[2], sites=sites)
    wanted = jc.lift(stacked)(params, x)
    for i, path in enumerate(one.path for one in found.candidates):
        thin = svd(params, rank={path: 2}, sites=sites)
        expected = float(jnp.sum((jc.lift(stacked)(thin, x) - wanted) ** 2) / jnp.sum(wanted**2))
        np.testing.assert_allclose(found.values[i, 0], expected, rtol=1e-3)
    assert [one.layers for one in found.candidates] == [2, 1]
