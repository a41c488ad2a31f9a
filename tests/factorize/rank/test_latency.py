"""Measured ranks: which products are timed, by a clock of our own, and once by the real one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import latency_ranks, svd

RNG = np.random.default_rng(0)


def flops(run):
    """A machine without overheads: time is arithmetic, as the compiled program counts it."""
    return run.func.lower(*run.args).compile().cost_analysis()["flops"]


def counted(dense, thin):
    return flops(dense), flops(thin)


def fn(params, x):
    y = jax.lax.conv_general_dilated(x, params["conv"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y.reshape(x.shape[0], -1) @ params["wide"]
    return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w.T), None), y, params["layers"])[0] @ params["head"]


PARAMS = {
    "conv": jnp.ones((3, 3, 8, 16)),
    "wide": jnp.ones((144, 48)),
    "layers": jnp.ones((3, 48, 48)),
    "head": jnp.ones((48, 4)),
}
X = jnp.ones((2, 8, 8, 8))


def test_by_arithmetic_the_largest_rank_is_that_below_the_break_even():
    found = latency_ranks(fn, PARAMS, X, multiple_of=1, measure=counted)
    # 72 x 16 breaks even at 13.09, 144 x 48 at 36, 48 x 48 at 24, 48 x 4 at 3.7
    assert found == {"conv": 13, "wide": 35, "layers": 23, "head": 3}
    sites = jc.sites(fn, PARAMS, X)
    thin = svd(PARAMS, rank=found, sites=sites)
    assert {path: leaf.rank for path, leaf in thin.items()} == found
    np.testing.assert_allclose(found.speedups["layers"], 24 / 23, rtol=1e-3)
    twice = latency_ranks(fn, PARAMS, X, speedup=2, multiple_of=4, measure=counted)
    assert twice == {"conv": 4, "wide": 16, "layers": 12}
    assert twice.slower == ("head",)
    assert "dense" in repr(twice)


def test_equal_products_are_timed_once_and_slow_ones_are_refused():
    calls = []

    def slow(dense, thin):
        calls.append(1)
        return 1.0, 1.0 + 1e-3

    two = {"a": jnp.ones((32, 32)), "b": jnp.ones((32, 32))}
    with pytest.raises(ValueError, match=r"no rank is 1 times as fast as the dense product in any of \['a', 'b'\]"):
        latency_ranks(lambda p, x: (x @ p["a"]) @ p["b"], two, jnp.ones((4, 32)), measure=slow)
    assert len(calls) == 1, "15 is below 16: of the one multiple of 8 one measurement, for both"
    with pytest.raises(ValueError, match="speedup must be positive"):
        latency_ranks(fn, PARAMS, X, speedup=0)


@pytest.mark.slow
def test_the_clock_finds_a_rank_that_is_faster_on_this_machine():
    params = {"w": jnp.ones((1024, 1024))}
    found = latency_ranks(lambda p, x: x @ p["w"], params, jnp.ones((256, 1024)), multiple_of=64, speedup=1.5)
    assert 64 <= found["w"] < 512
    assert found.speedups["w"] >= 1.5
