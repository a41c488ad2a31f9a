"""Activations of a tree: who is wrapped, which ranges, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.leaf import kind_name
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize
from jaxcompress.factorize import svd
from jaxcompress.prune import magnitude
from jaxcompress.quantize import activations, awq, rtn
from jaxcompress.quantize.ranges import Percentile

EXTREMES = ("min", "max", "absmax")


def mlp(p, x):
    x = jax.nn.relu(x @ p["a"] + p["bias"])
    return x @ p["b"]


@pytest.fixture
def params():
    key = jax.random.split(jax.random.key(0), 2)
    return {
        "a": jax.random.normal(key[0], (16, 32)),
        "b": jax.random.normal(key[1], (32, 8)),
        "bias": jnp.ones((1, 32)),
    }


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(7), (64, 16))


def error(fn, params, packed, x) -> float:
    y = fn(params, x)
    return float(jnp.linalg.norm(lift(fn)(packed, x) - y) / jnp.linalg.norm(y))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_eight_bits_are_close_to_floats_and_four_are_not(params, x, mode) -> None:
    stats = observe(mlp, params, [x], what=EXTREMES) if mode == "static" else None
    weights = rtn(params, bits=8, where=["a", "b"])
    errors = [error(mlp, params, activations(weights, stats, bits=bits), x) for bits in (8, 4)]
    assert errors[0] < 0.012  # a step of 1/127 of the range in weights and data
    assert 4 * errors[0] < errors[1] < 0.5
    packed = activations(weights, stats)
    assert kind_name(packed["a"]) == f"{mode}_input(quantized)"
    assert packed["bias"] is weights["bias"]
    assert (packed["a"].materialize() == weights["a"].materialize()).all()


def test_data_behind_a_relu_gain_a_bit_from_a_zero_point(params, x) -> None:
    stats = observe(mlp, params, [x], what=EXTREMES)
    weights = rtn(params, bits=8, where=["a", "b"])
    one, two = (
        error(mlp, params, activations(weights, stats, bits=4, symmetric=symmetric, where="b"), x)
        for symmetric in (False, True)
    )
    assert one < 0.75 * two
    grid = activations(weights, stats, where="b")["b"]
    assert grid.zero_point.tolist() == [-128]  # nothing below zero arrives
    np.testing.assert_allclose(grid.scale[0], jnp.max(jax.nn.relu(x @ params["a"] + params["bias"])) / 255, rtol=1e-5)


def test_outliers_are_clipped_by_a_percentile(params) -> None:
    x = jax.random.normal(jax.random.key(1), (500, 16)).at[0, 0].set(300.0)
    stats = observe(mlp, params, [x], what=("histogram", *EXTREMES))
    weights = rtn(params, bits=8, where=["a", "b"])
    wide, clipped = (
        error(mlp, params, activations(weights, stats, ranges=ranges), x[1:]) for ranges in ("absmax", Percentile(99.9))
    )
    assert clipped < 0.3 * wide


def test_layers_of_a_scan_have_ranges_of_their_own(x) -> None:
    stack = jax.random.normal(jax.random.key(0), (3, 16, 16)) * jnp.array([1.0, 10.0, 0.1]).reshape(3, 1, 1)
    fn = lambda p, x: lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]  # noqa: E731
    params = {"w": stack}
    packed = rtn(params, bits=8, sites=sites(fn, params, x))
    leaf = activations(packed, observe(fn, params, [x], what=EXTREMES))["w"]
    assert leaf.scale.shape == (3, 1)
    assert error(fn, params, {"w": leaf}, x) < 0.03


def test_masks_factors_and_rescaled_weights_keep_what_they_are(params, x) -> None:
    stats = observe(mlp, params, [x], what=("second_moment", "mean_abs", *EXTREMES))
    pruned = activations(rtn(magnitude(params, sparsity=0.5, where="a"), bits=8, where="a"), where="a")
    assert kind_name(pruned["a"]) == "dynamic_input(masked(quantized))"
    assert (pruned["a"].materialize() == 0).mean() >= 0.5
    factors = activations(rtn(svd(params, rank=4, where="a"), bits=8, where="a"), where="a")
    assert kind_name(factors["a"]) == "lowrank(dynamic_input(quantized), dynamic_input(quantized))"
    scaled = activations(awq(params, stats, bits=8, where="a"), stats, where="a")
    assert kind_name(scaled["a"]) == "rescaled(static_input(quantized))"
    seen = x * scaled["a"].factor.reshape(1, 16)
    np.testing.assert_allclose(scaled["a"].values.scale[0], (seen.max() - jnp.minimum(seen.min(), 0)) / 255, rtol=1e-5)
    for packed in (pruned, factors, scaled):
        assert error(mlp, materialize(packed), packed, x) < 0.02
    with pytest.raises(ValueError, match="inner products"):
        activations(rtn(svd(params, rank=4, where="a"), bits=8, where="a"), stats, where="a")


def test_what_is_not_calibrated_or_not_quantized_is_an_error(params, x) -> None:
    weights = rtn(params, bits=8, where=["a", "b"])
    stats = observe(mlp, params, [x], what=EXTREMES, where="a")
    with pytest.raises(ValueError, match="pass stats="):
        activations(weights, mode="static")
    with pytest.raises(ValueError, match="'b' was not observed"):
        activations(weights, stats, where=["a", "b"])
    with pytest.raises(ValueError, match="no weight is quantized"):
        activations(params)
    with pytest.raises(ValueError, match="'bias' is not quantized"):
        activations(weights, where="bias")
    with pytest.raises(ValueError, match="already"):
        activations(activations(weights), where="a")
    with pytest.raises(ValueError, match="bits"):
        activations(weights, bits=1)
    with pytest.raises(ValueError, match="mode"):
        activations(weights, mode="sometimes")
    with pytest.raises(ValueError, match="ranges='mse' is of mode='static'"):
        activations(weights, ranges="mse")
    with pytest.raises(ValueError, match="min"):
        activations(weights, observe(mlp, params, [x], what="mean"), symmetric=False)
    with pytest.raises(ValueError, match=r"not finite met 'b'"):
        observe(mlp, params | {"bias": params["bias"].at[0, 0].set(jnp.nan)}, [x], what=EXTREMES, where="b")
