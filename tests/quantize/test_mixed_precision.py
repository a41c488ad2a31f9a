import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import stored_bytes
from jaxcompress.quantize import Diagonal, allocate_bits, fisher, rtn, sensitivity
from jaxcompress.quantize.mixed_precision import best_choices
from tests.zoo.model import arrays, data

RANDOM = np.random.RandomState(0)


def brute_force(costs, values, budget):
    """The least sum over all combinations."""
    rows = range(len(costs))
    every = itertools.product(range(costs.shape[1]), repeat=len(costs))
    fitting = (picks for picks in every if sum(costs[r, p] for r, p in zip(rows, picks, strict=True)) <= budget)
    return min(sum(values[r, p] for r, p in zip(rows, picks, strict=True)) for picks in fitting)


@pytest.mark.parametrize("kind", ["convex", "any", "ties"])
def test_choice_is_the_best_of_all_combinations(kind):
    for _ in range(30):
        if kind == "convex":  # sizes times widths, errors that fall with the width
            costs = RANDOM.randint(1, 50, (6, 1)) * np.array([[2, 3, 4, 8]])
            values = RANDOM.exponential(1, (6, 1)) * 4.0 ** -np.array([[2, 3, 4, 8]])
        else:  # nothing need be monotonous: GPTQ may well do worse with more bits
            costs = RANDOM.randint(1, 9 if kind == "ties" else 1000, (6, 4))
            values = RANDOM.randint(0, 4, (6, 4)) * 1.0 if kind == "ties" else RANDOM.standard_normal((6, 4))
        budget = RANDOM.randint(costs.min(1).sum(), costs.max(1).sum() + 1)
        picks, bound, exact = best_choices(costs, values, budget)
        chosen = values[np.arange(6), picks].sum()
        assert costs[np.arange(6), picks].sum() <= budget
        assert exact
        assert chosen == pytest.approx(brute_force(costs, values, budget), rel=1e-9, abs=1e-12)
        assert bound == pytest.approx(chosen, rel=1e-9, abs=1e-12)


def test_hundred_leaves_against_dynamic_programming():
    """Exact where brute force is out of reach: a table over all budgets, in whole units, is the oracle."""
    sizes = RANDOM.randint(1, 40, (100, 1))
    costs, values = sizes * np.array([[2, 3, 4, 8]]), RANDOM.exponential(1, (100, 1)) * RANDOM.rand(100, 4).cumsum(1)
    values = values[:, ::-1]
    budget = int(3.3 * sizes.sum())
    best = np.where(np.arange(budget + 1) >= 0, 0.0, np.inf)
    for cost, value in zip(costs, values, strict=True):
        options = [
            np.concatenate([np.full(c, np.inf), best[: budget + 1 - c] + v]) for c, v in zip(cost, value, strict=True)
        ]
        best = np.min(options, axis=0)
    start = time.perf_counter()
    picks, _, exact = best_choices(costs, values, budget)
    assert time.perf_counter() - start < 20
    assert exact
    assert values[np.arange(100), picks].sum() == pytest.approx(best[budget], rel=1e-12)


def test_too_many_states_are_said():
    """Cut short, the choice is still within the budget, no longer called exact, and the bound holds."""
    costs = RANDOM.randint(1, 10**6, (12, 4))
    values = -costs * 1e-6  # a subset sum: bits and score agree, so that nearly nothing is dominated
    budget = int(costs.mean(1).sum())
    picks, bound, exact = best_choices(costs, values, budget, most_states=2)
    best, _, sure = best_choices(costs, values, budget)
    assert (exact, sure) == (False, True)
    assert bound < values[np.arange(12), best].sum() + 1e-9
    rows = np.arange(12)
    assert costs[rows, picks].sum() <= budget
    assert bound <= values[rows, best].sum() <= values[rows, picks].sum()


def three():
    """Three kernels of one size, of which the middle one matters most."""
    params = arrays(a=(32, 32), b=(32, 32), c=(32, 32))
    importance = {"a": 1.0, "b": 100.0, "c": 0.01}
    ones = {path: jnp.full((32, 32), importance[path]) for path in params}
    return params, sensitivity(params, Diagonal(ones))


def test_budget_is_that_of_the_stored_bytes_scales_and_all():
    params, scores = three()
    for budget in (scores.bytes_at(3), scores.bytes_at(3) + 100, scores.bytes_at(4)):
        bits = allocate_bits(scores, bytes=budget)
        packed = rtn(params, bits=bits)
        assert stored_bytes(packed) == -(-bits.stored_bits // 8) <= budget
        assert bits["b"] >= bits["a"] >= bits["c"]
        assert bits.exact
    uniform = scores.values[:, scores.bits.index(4)].sum()
    assert bits.score < uniform  # at the bytes of 4 bits everywhere
    assert bits.average_bits <= 4 + 32 / 32  # a scale for every 32 weights


def test_budget_in_bits_per_weight_counts_scales_too():
    _, scores = three()
    bits = allocate_bits(scores, average_bits=4.5)
    assert bits.stored_bits <= 4.5 * 3 * 1024
    assert max(allocate_bits(scores, average_bits=6, choices=(3, 4)).values()) <= 4
    text = repr(bits)
    assert "bits per weight" in text
    assert "the least there is" in text
    assert "<table>" in bits._repr_html_()
    assert dict(bits) == {path: bits[path] for path in "abc"}


def test_bad_budgets_are_named():
    _, scores = three()
    with pytest.raises(ValueError, match="either average_bits= or bytes="):
        allocate_bits(scores)
    with pytest.raises(ValueError, match="either average_bits= or bytes="):
        allocate_bits(scores, average_bits=4, bytes=10)
    with pytest.raises(ValueError, match=r"choices=\[5\]"):
        allocate_bits(scores, average_bits=4, choices=(5,))
    with pytest.raises(ValueError, match=r"does not hold the leaves.*3 bits per weight"):
        allocate_bits(scores, average_bits=2)


def net(params, x):
    return sum(jnp.tanh(x @ params[name]) * scale for name, scale in {"a": 1.0, "b": 0.1, "c": 0.01}.items())


def test_mixture_beats_the_uniform_width_of_its_bytes():
    """On the outputs of a network with one sensitive layer: Fisher information finds it, and the error falls."""
    params, x = arrays(a=(32, 32), b=(32, 32), c=(32, 32)), data(256, 32)
    target = net(params, x)

    def loss(params, batch):
        return jnp.sum(jnp.square(net(params, batch[0]) - batch[1]))

    noise = data(256, 32, seed=5)  # at a perfect fit no gradient would be left
    scores = sensitivity(params, fisher(loss, params, [(x, target + noise)], chunk=64))
    error = {}
    for bits in (3, 4):
        for name, width in {"uniform": bits, "mixed": allocate_bits(scores, bytes=scores.bytes_at(bits))}.items():
            packed = rtn(params, bits=width)
            assert stored_bytes(packed) <= scores.bytes_at(bits)
            error[name] = float(jnp.linalg.norm(lift(net)(packed, x) - target) / jnp.linalg.norm(target))
        assert error["mixed"] < 0.75 * error["uniform"]


@pytest.mark.slow
def test_mixture_beats_uniform_on_the_trained_llama(data_folder):
    """Perplexity at the bytes of int3 and int4, widths from the Fisher information of eight calibration windows."""
    from tests.zoo import llama

    config, params = llama.trained()
    fn = functools.partial(llama.apply, heads=config["heads"], kv_heads=config["kv_heads"])
    tokens = llama.windows(48)
    found = sites(fn, params, jnp.asarray(tokens[:1, :-1]))

    def loss(params, batch):
        scores = jax.nn.log_softmax(fn(params, batch[:, :-1]))
        return -jnp.take_along_axis(scores, batch[:, 1:, None], axis=2).mean()

    curvature = fisher(loss, params, [jnp.asarray(tokens[:8])], chunk=1, sites=found)
    method = functools.partial(rtn, ranges="mse", sites=found)
    scores = sensitivity(params, curvature, bits=(2, 3, 4, 5, 6, 8), method=method)
    for bits in (3, 4):
        mixed = method(params, bits=allocate_bits(scores, bytes=scores.bytes_at(bits)))
        uniform = method(params, bits=bits)
        assert stored_bytes(mixed) <= stored_bytes(uniform)
        assert any(is_compressed(leaf) for leaf in mixed.values())
        ppl = {name: llama.perplexity(lift(fn), tree, tokens[32:]) for name, tree in [("m", mixed), ("u", uniform)]}
        print(bits, ppl)
        assert ppl["m"] < ppl["u"]
