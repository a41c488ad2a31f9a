"""Smoothing changes nothing, SmoothQuant beats plain integers where activations have outliers, absorbed or not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.core.observe import observe
from jaxcompress.core.rescaling import symmetries
from jaxcompress.core.sites import sites
from jaxcompress.prune import Masked, magnitude
from jaxcompress.quantize import (
    DynamicActivations,
    Quantized,
    Rescaled,
    StaticActivations,
    activations,
    rtn,
    smooth,
    smooth_scales,
    smoothquant,
)
from tests.laws.leaf_battery import assert_same_bits


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def fn(p, x):
    """A convolution, a normalized input that two kernels share, a scanned stack of normalized layers."""
    x = lax.conv_general_dilated(x, p["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(x)
    x = lax.conv_general_dilated(x, p["next"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = normed(x.reshape(x.shape[0], -1), p["gain"])
    h = h @ p["one"] + jnp.tanh(h @ p["two"])
    return lax.scan(lambda h, layer: (h + jnp.tanh(normed(h, layer["gain"]) @ layer["w"]), None), h, p["stack"])[0]


def normed(x, gain):
    return x / jnp.sqrt(1e-3 + jnp.mean(x**2, -1, keepdims=True)) * gain[None]


def network():
    return {
        "conv": normal(0, 2, 2, 3, 8) / 3,
        "next": normal(1, 2, 2, 8, 4) / 5,
        "gain": jnp.exp(1.5 * normal(2, 16)),
        "one": normal(3, 16, 16) / 4,
        "two": normal(4, 16, 16) / 4,
        "stack": {"gain": jnp.exp(1.5 * normal(5, 2, 16)), "w": normal(6, 2, 16, 16) / 4},
    }


@functools.cache
def data():
    return normal(7, 48, 5, 5, 3) * jnp.array([1.0, 30.0, 0.1])[None, None, None]


@functools.cache
def statistics():
    return observe(fn, network(), [data()], what=("absmax", "second_moment"))


@functools.cache
def found():
    return symmetries(fn, network(), data())


def error(tree):
    exact = fn(network(), data())
    return float(jnp.linalg.norm(jc.lift(fn)(tree, data()) - exact) / jnp.linalg.norm(exact))


def test_scales_by_hand():
    """``16 ** 0.75 / 1 ** 0.25``, ``1 / 16 ** 0.25``; what is zero on either side stays."""
    inputs, weights = jnp.array([16.0, 1.0, 0.0, 5.0]), jnp.array([1.0, 16.0, 3.0, 0.0])
    np.testing.assert_allclose(smooth_scales(inputs, weights, 0.75), [8.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(smooth_scales(inputs, weights, 1.0), [16.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(smooth_scales(jnp.array([1e-30]), jnp.array([1.0]), 1.0), [1e-5])


def test_smoothing_changes_nothing_and_evens_both_sides():
    """Largest inputs and weights of every channel are the same at alpha = 1/2."""
    smoothed = smooth(network(), statistics())
    assert error(smoothed) < 1e-5
    one = smoothed["one"]
    assert isinstance(one, Rescaled)
    inputs = statistics()["one"][0]["absmax"] * one.factor[:, 0]
    np.testing.assert_allclose(inputs, np.abs(one.values).max(1), rtol=1e-5)
    assert smoothed["next"].factor.shape == (1, 1, 8, 1)
    assert smoothed["stack"]["w"].factor.shape == (2, 16, 1)
    layer = smoothed["stack"]["w"].values[1]
    inputs = statistics()["stack/w"][0]["absmax"][1] * smoothed["stack"]["w"].factor[1, :, 0]
    np.testing.assert_allclose(inputs, np.abs(layer).max(1), rtol=1e-5)


def test_absorbed_smoothing_needs_no_leaf():
    """Kernels with one input have one scale; only the first kernel has nothing before it."""
    smoothed = smooth(network(), statistics(), symmetries=found())
    assert error(smoothed) < 1e-5
    assert isinstance(smoothed["conv"], Rescaled)
    for path in ("next", "one", "two", "gain"):
        assert isinstance(smoothed[path], jax.Array)
    assert isinstance(smoothed["stack"]["w"], jax.Array)
    by = network()["gain"] / smoothed["gain"]
    for path in ("one", "two"):
        np.testing.assert_allclose(smoothed[path], network()[path] * by[:, None], rtol=1e-5)
    weights = np.maximum(np.abs(network()["one"]).max(1), np.abs(network()["two"]).max(1))
    np.testing.assert_allclose(by, np.sqrt(statistics()["one"][0]["absmax"] / weights), rtol=1e-5)


@functools.cache
def plain(mode):
    rounded = rtn(network(), bits=8, sites=sites(fn, network(), data()))
    return error(activations(rounded, statistics() if mode == "static" else None))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_outliers_cost_less_than_without(mode):
    kept = smoothquant(network(), statistics(), mode=mode)
    assert error(kept) < 0.8 * plain(mode)
    kind = DynamicActivations if mode == "dynamic" else StaticActivations
    assert isinstance(kept["one"].values, kind)
    assert isinstance(kept["one"].values.weight, Quantized)
    absorbed = smoothquant(network(), statistics(), mode=mode, symmetries=found())
    assert error(absorbed) < 0.8 * plain(mode)
    assert isinstance(absorbed["one"], kind)
    assert isinstance(absorbed["conv"].values, kind)
    explained = jc.explain(fn, absorbed, data())
    assert not explained.materialized


def test_static_ranges_are_those_of_the_smoothed_model():
    """What `observe` finds when the scales are absorbed: the data themselves are smaller by then."""
    ours = smoothquant(network(), statistics(), mode="static", symmetries=found())
    smoothed = smooth(network(), statistics(), symmetries=found(), where=["next", "one", "two", "stack/w"])
    seen = observe(fn, smoothed, [data()], what="absmax")
    for path, leaf in (("next", ours["next"]), ("two", ours["two"]), ("stack/w", ours["stack"]["w"])):
        (entry,) = seen[path]
        np.testing.assert_allclose(leaf.scale[..., 0], np.asarray(entry["absmax"]).max(-1) / 127, rtol=1e-4)
    kept = smoothquant(network(), statistics(), mode="static")
    np.testing.assert_allclose(
        kept["next"].values.scale[0],
        (statistics()["next"][0]["absmax"].reshape(4, 8) * kept["next"].factor.reshape(1, 8)).max() / 127,
        rtol=1e-5,
    )


def test_searched_exponents_are_the_best_of_the_grid():
    """The expected error of one kernel in NumPy float64: that of its rounding, and noise of a step of the data."""
    ours = smoothquant(network(), statistics(), bits=4, alpha="search", where="one")["one"]
    (seen,), weight = statistics()["one"], np.float64(network()["one"])
    inputs, weights, moment = np.float64(seen["absmax"]), np.abs(weight).max(1), np.float64(seen["second_moment"])
    errors, tried = [], []
    for alpha in np.arange(21) / 20:
        scales = inputs**alpha / weights ** (1 - alpha)
        step = np.abs(weight * scales[:, None]).max(0) / 7
        rounded = np.round(weight * scales[:, None] / step) * step
        lost = rounded / scales[:, None] - weight
        noise = ((inputs / scales).max() / 127) ** 2 / 12
        errors.append(np.trace(lost.T @ moment @ lost) + noise * (rounded**2).sum())
        tried.append(scales)
    best = int(np.argmin(errors))
    assert 0 < best < 20
    np.testing.assert_allclose(1 / ours.factor[:, 0], tried[best], rtol=1e-4)
    layers = smoothquant(network(), statistics(), alpha="search", symmetries=found())
    assert error(layers) < plain("dynamic")


def test_of_a_masked_leaf_the_values_are_quantized():
    pruned = magnitude(network(), sparsity=0.5, where="one")
    out = smoothquant(pruned, statistics(), where="one")["one"]
    assert isinstance(out.values.weight, Masked)
    assert (np.asarray(out.materialize())[~np.asarray(pruned["one"].mask)] == 0).all()


def test_input_and_compilations(compilations):
    params = network()
    before = jax.tree.map(np.array, params)
    out = smoothquant(params, statistics(), mode="static", symmetries=found())
    assert_same_bits(jax.tree.map(np.asarray, params), before)
    count = compilations()
    assert_same_bits(smoothquant(network(), statistics(), mode="static", symmetries=found()), out)
    smooth(network(), statistics(), alpha=0.5)
    assert compilations() == count
    traced = jax.jit(lambda p, alpha: smooth(p, statistics(), alpha=alpha))(params, jnp.float32(0.5))
    np.testing.assert_allclose(traced["one"].values, smooth(params, statistics())["one"].values, rtol=1e-5)


def test_errors_name_what_is_wrong():
    params, stats = network(), statistics()
    with pytest.raises(ValueError, match=r"smooth: alpha must lie in \[0, 1\], got 1\.5"):
        smooth(params, stats, alpha=1.5)
    with pytest.raises(ValueError, match=r"smoothquant: alpha must lie in \[0, 1\], got -1"):
        smoothquant(params, stats, alpha=-1)
    with pytest.raises(ValueError, match="or 'search', got 'best'"):
        smoothquant(params, stats, alpha="best")
    with pytest.raises(ValueError, match="mode must be 'dynamic' or 'static', got 'none'"):
        smoothquant(params, stats, mode="none")
    with pytest.raises(ValueError, match="bits must be an integer from 2 to 8, got 9"):
        smoothquant(params, stats, activation_bits=9)
    with pytest.raises(ValueError, match="stats hold no 'absmax'"):
        smooth(params, observe(fn, params, [data()], what="mean"))
    with pytest.raises(ValueError, match="needs what='second_moment'"):
        smoothquant(params, observe(fn, params, [data()], what="absmax"), alpha="search")
    with pytest.raises(ValueError, match="gain"):
        smooth(params, stats, where="gain")
    some = smoothquant(params, stats, bits={"stack/*": 4})
    assert some["one"] is params["one"]
    assert some["stack"]["w"].values.weight.qvalue.dtype == jnp.int4


def test_lowers_for_every_platform():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), network())
    program = jax.jit(lambda params: smoothquant(params, statistics()))
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")
