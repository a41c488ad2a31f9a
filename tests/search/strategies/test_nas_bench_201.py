"""The figures of the default strategy on NAS-Bench-201, and the benchmark that measures them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import nas_bench_201
from jaxcompress.search import RandomSearch, default_strategy


def tiny_table(n=400):
    """A table of fewer networks, all answers known: the mean is what the one training gives."""
    accuracy = jnp.linspace(0, 100, n)
    return nas_bench_201.Table(
        jnp.stack([accuracy] * 3, 1), jnp.full(n, 3), accuracy, jnp.arange(n, dtype=jnp.int32)[::-1]
    )


def test_regret_is_of_the_mean_of_the_best_answer():
    """By hand: the second answer is better than the first by luck, its mean is not; equals do not replace it."""
    known = tiny_table()
    regret = nas_bench_201.regrets(jnp.array([30.0, 20.0, 20.0, 5.0]), jnp.array([80.0, 60.0, 99.0, 90.0]), known)
    np.testing.assert_allclose(regret, [20.0, 40.0, 40.0, 10.0], rtol=1e-6)


def test_parameter_count_takes_the_largest_first():
    """Here the largest is the worst, and the best of the first n is the smallest of them."""
    regret = nas_bench_201.by_parameters(jax.random.key(0), tiny_table())
    np.testing.assert_allclose(regret, 100 - jnp.linspace(0, 100, 400)[:200], rtol=1e-5)


@pytest.fixture
def data(data_folder, monkeypatch):
    monkeypatch.setenv("JAXCOMPRESS_DATA", str(data_folder))


@pytest.mark.slow
@pytest.mark.parametrize("part", nas_bench_201.SETS)
def test_default_strategy_reaches_the_peers(part, data):
    """Within two standard errors of regularized evolution, or better, over 500 seeds; and far from random search."""
    known = nas_bench_201.table(part)
    ours, random = (
        nas_bench_201.over_seeds(functools.partial(nas_bench_201.searched, strategy), known, nas_bench_201.SEEDS)
        for strategy in (default_strategy(), RandomSearch(batch=10))
    )
    reached = nas_bench_201.mean_regret(ours, 200)
    assert reached <= nas_bench_201.PEERS[part] + 2 * nas_bench_201.standard_error(ours, 200)
    assert reached < 0.5 * nas_bench_201.mean_regret(random, 200)
    error = nas_bench_201.standard_error(random, 200)
    assert abs(nas_bench_201.mean_regret(random, 200) - nas_bench_201.PEER_RANDOM[part]) < 4 * error
