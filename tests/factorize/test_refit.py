"""The closed-form update against least squares in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import refit, svd, whitened_svd

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def correlated(rows, features):
    mix = RNG.normal(size=(features, features)) @ np.diag(np.geomspace(1, 0.03, features))
    return jnp.asarray(RNG.normal(size=(rows, features)) @ mix.T, jnp.float32)


@pytest.mark.parametrize("transposed", [False, True])
def test_least_squares_of_the_outputs(transposed):
    w, x = normal(12, 10), correlated(60, 12)
    params = {"w": w.T if transposed else w}
    fn = lambda p, x: x @ (p["w"].T if transposed else p["w"])  # noqa: E731
    stats, sites = jc.observe(fn, params, [x]), jc.sites(fn, params, x)
    thin = svd(params, rank=3, sites=sites)
    leaf = refit(params, thin, stats)["w"]
    inputs = np.asarray(thin["w"].v.T if transposed else thin["w"].u, np.float64)
    best = np.linalg.lstsq(np.asarray(x, np.float64) @ inputs, np.asarray(x @ w, np.float64), rcond=None)[0]
    np.testing.assert_allclose(leaf.u.T if transposed else leaf.v, best, atol=1e-3)  # equations of a moment in float32
    np.testing.assert_array_equal(leaf.v if transposed else leaf.u, thin["w"].v if transposed else thin["w"].u)
    error = lambda leaf: float(jnp.linalg.norm(fn(params, x) - fn({"w": leaf.materialize()}, x)))  # noqa: E731
    both = whitened_svd(params, stats, rank=3)["w"]
    assert error(both) < error(leaf) < 0.9 * error(thin["w"])
    again = refit(params, {"w": both}, stats)["w"]
    np.testing.assert_allclose(again.materialize(), both.materialize(), atol=1e-2)


@pytest.mark.slow
def test_convolutions_and_stacks():
    numbers = ("NHWC", "OIHW", "NHWC")

    def fn(params, x):
        x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=numbers)
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])[0]

    params, x = {"conv": normal(8, 4, 3, 3), "layers": normal(2, 8, 8)}, normal(2, 6, 6, 4)
    stats = jc.observe(fn, params, [x])
    thin = svd(params, rank=2, sites=jc.sites(fn, params, x))
    fitted = refit(params, thin, stats)
    for target in jc.core.targets.find_targets(params, stats, method="test"):
        moment = target.statistic("second_moment")
        lost = {
            name: np.array(jc.solvers.metric_lowrank.metric_error(
                target.layout.split(target.weight - tree[target.path].materialize()), moment
            ))
            for name, tree in (("svd", thin), ("refit", fitted), ("whitened", whitened_svd(params, stats, rank=2)))
        }  # fmt: skip
        assert (lost["refit"] < lost["svd"]).all(), (target.path, lost)
        assert (lost["whitened"] < lost["refit"]).all(), (target.path, lost)


def test_in_turns():
    """Later layers make up for what earlier ones have become."""
    fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    params, x = {"a": normal(16, 16), "b": 0.4 * normal(16, 16), "c": 0.4 * normal(16, 16)}, correlated(300, 16)
    thin = svd(params, rank=5)
    fitted = jc.sequential(fn, thin, [x], functools.partial(refit, params))
    error = lambda tree: float(jnp.linalg.norm(jc.lift(fn)(tree, x) - fn(params, x)))  # noqa: E731
    assert error(fitted) < 0.9 * error(thin)


def test_what_cannot_be_fitted_is_named():
    params, x = {"w": normal(8, 8), "b": normal(8, 8)}, normal(20, 8)
    stats = jc.observe(lambda p, x: x @ p["w"] @ p["b"], params, [x])
    with pytest.raises(ValueError, match="no LowRank leaf of plain arrays was observed"):
        refit(params, params, stats)
    with pytest.raises(ValueError, match="'b' is no LowRank leaf of plain arrays"):
        refit(params, svd(params, rank=2, where="w"), stats, where="b")
    packed = jc.quantize.rtn(svd(params, rank=2), bits=8)
    with pytest.raises(ValueError, match="no LowRank leaf of plain arrays"):
        refit(params, packed, stats)
