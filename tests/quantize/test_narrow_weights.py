"""Weights of 16 bits, under strict promotion of dtypes (pyproject has the tests run with it): nothing is mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.rescaling import apply

NARROW = [jnp.bfloat16, jnp.float16]


def fn(params, x):
    return jax.nn.relu(x @ params["a"] + params["bias"][None]) @ params["b"]


def network(dtype):
    random = np.random.default_rng(0)
    shapes = {"a": (4, 8), "bias": (8,), "b": (8, 2)}
    return {name: jnp.asarray(random.normal(size=shape), dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", NARROW)
def test_symmetries_are_those_of_float32(dtype):
    found, wide = (jc.symmetries(fn, network(d), jax.ShapeDtypeStruct((3, 4), d)) for d in (dtype, jnp.float32))
    assert [[m.path for m in s.members] for s in found] == [[m.path for m in s.members] for s in wide] != []
    scaled = apply(network(dtype), found[0], 2.0)
    assert scaled["a"].dtype == dtype
    np.testing.assert_array_equal(np.abs(np.log2(np.float32(scaled["a"] / network(dtype)["a"]))), 1)


@pytest.mark.parametrize("dtype", NARROW)
def test_equalized_ranges(dtype):
    even = jc.quantize.equalize(fn, network(dtype), jax.ShapeDtypeStruct((3, 4), dtype))
    before, behind = np.abs(np.float32(even["a"])).max(0), np.abs(np.float32(even["b"])).max(1)
    np.testing.assert_allclose(before, behind, rtol=0.01)  # 8 bits of a significand, rounded twice


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("method", ["binary_connect", "xnor", "twn", "bitnet"])
def test_few_levels_convert(dtype, method):
    trained = jc.quantize.prepare({"w": network(dtype)["a"]}, jc.quantize.QAT(method=method))["w"]
    np.testing.assert_array_equal(trained.coded().materialize(), trained.materialize())


@pytest.mark.parametrize("dtype", NARROW)
def test_bias_correction(dtype):
    params = {"kernel": network(dtype)["a"], "bias": network(dtype)["bias"]}
    x = jnp.full((2, 4), 0.5, dtype)
    stats = jc.observe(lambda p, x: x @ p["kernel"] + p["bias"][None], params, [x], what="mean")
    quantized = jc.quantize.rtn(params, bits=2, where="kernel")
    corrected = jc.quantize.bias_correction(params, quantized, stats)["bias"]
    lost = np.float32(params["kernel"] - quantized["kernel"].materialize()).sum(0) / 2
    np.testing.assert_allclose(np.float32(corrected), np.float32(params["bias"]) + lost, atol=0.03)
