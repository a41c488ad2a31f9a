"""Rank rules: by hand, against each other, and where they refuse."""

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import LowRank, budget, energy, evbmf, explained_variance, svd
from jaxcompress.factorize.rank import Candidate, RankRule, Spectrum, ranks_of
from jaxcompress.pipeline.recipe import Recipe

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def with_spectrum(s, m=None):
    n = len(s)
    u, v = (np.linalg.qr(RNG.normal(size=(k, k)))[0] for k in (m or n, n))
    return jnp.asarray((u[:, :n] * np.asarray(s)) @ v, jnp.float32)


def rank(params, rule):
    return {name: leaf.rank if isinstance(leaf, LowRank) else None for name, leaf in svd(params, rank=rule).items()}


def test_energy_is_a_fraction_and_may_leave_a_leaf_dense():
    params = {"steep": with_spectrum([4.0, 2.0, 1.0, 0.5, *[1e-3] * 6]), "flat": with_spectrum([1.0] * 10)}
    assert rank({"steep": params["steep"]}, energy(0.95)) == rank({"steep": params["steep"]}, 0.95) == {"steep": 3}
    assert rank(params, energy(0.95, or_dense=True)) == {"steep": 3, "flat": None}
    with pytest.raises(ValueError, match=r"rank 10, which 0\.95 of the energy takes, saves nothing in 'flat'.*rank 5"):
        svd(params, rank=energy(0.95))
    with pytest.raises(ValueError, match=r"energy: fraction must be in \(0, 1\), got 1"):
        energy(1)


def test_explained_variance_does_not_count_the_mean():
    w = np.asarray(with_spectrum([3.0, 2.0, 0.5, *[0.01] * 9], 14), np.float64) + 7
    s = np.linalg.svd(w, compute_uv=False)
    variance = np.square(w - w.mean(axis=0)).sum()  # rows are inputs, each a sample of outputs
    expected = next(r for r in range(1, 12) if np.sum(s[r:] ** 2) <= 0.1 * variance)
    assert rank({"w": jnp.asarray(w, jnp.float32)}, explained_variance(0.9)) == {"w": expected}
    assert rank({"w": jnp.asarray(w, jnp.float32)}, energy(0.9)) == {"w": 1}


def test_evbmf_finds_the_rank_of_every_layer_in_one_stack():
    low = [RNG.normal(size=(40, r)) @ RNG.normal(size=(r, 30)) + 0.3 * RNG.normal(size=(40, 30)) for r in (2, 5)]
    stack = jnp.asarray(np.stack(low), jnp.float32)
    assert rank({"a": stack[0], "b": stack[1]}, evbmf()) == {"a": 2, "b": 5}
    sites = jc.sites(
        lambda p, x: jax.lax.scan(lambda x, w: (x @ w @ w.T, None), x, p["w"])[0], {"w": stack}, stack[0].T
    )
    assert svd({"w": stack}, rank=evbmf(), sites=sites)["w"].rank == 5, "the larger of the two"


def brute_force(spectra, shapes, limit):
    options = []
    for s, (m, n) in zip(spectra, shapes, strict=True):
        squares = np.asarray(s) ** 2 / np.sum(np.asarray(s) ** 2)
        ranks = [r for r in range(1, min(m, n) + 1) if r * (m + n) < m * n]
        options.append([(r, r * (m + n), squares[r:].sum()) for r in ranks] + [(None, m * n, 0.0)])
    fits = (c for c in itertools.product(*options) if sum(o[1] for o in c) <= limit)
    return min(fits, key=lambda choice: sum(o[2] for o in choice))


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_a_budget_is_the_best_of_all_combinations(fraction):
    spectra = [0.6 ** np.arange(12), 0.9 ** np.arange(9), np.ones(7)]
    shapes = [(14, 12), (9, 9), (7, 10)]
    best = brute_force(spectra, shapes, fraction * sum(m * n for m, n in shapes))
    candidates = [Candidate(str(i), str(i), shape) for i, shape in enumerate(shapes)]
    given = lambda indices, variance: [Spectrum(jnp.asarray(spectra[i][None], jnp.float32)) for i in indices]  # noqa: E731
    found = ranks_of(budget(parameters=fraction), candidates, given, method="svd")
    assert found == [option[0] for option in best]


@pytest.mark.slow
def test_budgets_of_each_kind_hold_and_the_pooled_choice_beats_equal_ranks():
    def fn(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    params = {"a": with_spectrum(0.7 ** np.arange(20), 30), "b": with_spectrum(0.97 ** np.arange(20), 20)}
    x = normal(5, 30)
    sites = jc.sites(fn, params, x)
    dense = sum(w.size for w in params.values())
    thin = svd(params, rank=budget(parameters=0.6), sites=sites)
    assert sum(a.size for a in jax.tree.leaves(thin)) <= 0.6 * dense
    halved = svd(jax.tree.map(lambda w: w.astype(jnp.bfloat16), params), rank=budget(bytes=600), sites=sites)
    assert jc.stored_bytes(halved) <= 600
    quick = svd(params, rank=budget(flops=0.5), sites=sites)
    macs = {"a": 5 * 30 * 20, "b": 5 * 20 * 20}  # of which two factors do r (m + n) / (m n)
    left = {k: 5 * leaf.rank * sum(leaf.shape) if isinstance(leaf, LowRank) else macs[k] for k, leaf in quick.items()}
    assert sum(left.values()) <= 0.5 * sum(macs.values())
    absolute = svd(params, rank=budget(parameters=400, scale="absolute", or_dense=False, multiple_of=2))
    assert all(leaf.rank % 2 == 0 for leaf in absolute.values())
    relative = lambda t: sum(  # noqa: E731
        float(jnp.sum(jnp.square(t[k].materialize() - w)) / jnp.sum(jnp.square(w))) for k, w in params.items()
    )
    equal = svd(params, rank={"a": 6, "b": 5})  # 300 + 200 entries
    pooled = svd(params, rank=budget(parameters=500, or_dense=False))
    assert relative(pooled) < relative(equal)


def test_a_dict_mixes_ranks_and_rules_and_a_recipe_holds_them():
    params = {"a": normal(12, 12), "b": with_spectrum(0.5 ** np.arange(12)), "c": with_spectrum(0.5 ** np.arange(12))}
    setting = {"a": 2, "**": budget(parameters=0.4)}
    thin = svd(params, rank=setting)
    assert thin["a"].rank == 2
    assert sum(thin[k].u.size + thin[k].v.size for k in "bc") <= 0.4 * 288
    stage = jc.factorize.SVD(rank=setting)
    (again,) = Recipe.from_json(Recipe([stage]).to_json()).stages
    assert again == stage
    assert again(params)["b"].rank == thin["b"].rank


def test_what_a_budget_cannot_be_is_named():
    params = {"a": normal(8, 8)}
    with pytest.raises(ValueError, match="exactly one of parameters=, bytes=, flops="):
        budget(parameters=0.5, bytes=10)
    with pytest.raises(ValueError, match=r"parameters= must be a positive int, or a float in \(0, 1\]"):
        budget(parameters=1.5)
    with pytest.raises(ValueError, match=r"bytes= must be a positive int, .*; got 'half'"):
        budget(bytes="half")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"parameters=10 cannot be met: .* take 64, at their least ranks 16, and 10"):
        svd(params, rank=budget(parameters=10))
    with pytest.raises(ValueError, match="budget flops= needs sites="):
        svd(params, rank=budget(flops=0.5))
    with pytest.raises(TypeError, match="concrete arrays"):
        jax.jit(lambda p: svd(p, rank=evbmf()))(params)


@dataclasses.dataclass(frozen=True)
class Every(RankRule):
    """A rule of a third party: every n-th rank there is."""

    n: int

    version: ClassVar[int] = 7

    def rank_of_one(self, candidate, spectrum, *, method):
        return min(candidate.shape) // self.n


def test_a_rule_of_ones_own_is_taken_and_written():
    params = {"w": normal(12, 12)}
    stage = jc.factorize.SVD(rank=Every(4))
    assert stage(params)["w"].rank == 3
    recipe = Recipe([stage])
    assert Recipe.from_json(recipe.to_json(), stages=[Every]) == recipe
    with pytest.raises(ValueError, match=r"rank 6, which Every\(n=2\) takes, saves nothing"):
        svd(params, rank=Every(2))
