"""Bias correction: mean outputs are those of the dense layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.quantize import bias_correction, rtn


def fn(params, x):
    hidden = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"] + params["b"]["bias"][None]


def setting():
    random = np.random.default_rng(0)
    params = {
        name: {"kernel": jnp.asarray(random.normal(size=shape), jnp.float32), "bias": jnp.zeros(shape[1])}
        for name, shape in (("a", (6, 12)), ("b", (12, 5)))
    }
    x = jnp.asarray(random.normal(size=(50, 6)), jnp.float32)
    return params, x, jc.observe(fn, params, [x], what="mean")


def test_the_mean_output_is_that_of_the_dense_layer():
    params, x, stats = setting()
    quantized = rtn(params, bits=3, where="b/kernel")
    better = bias_correction(params, quantized, stats)
    dense, rough, corrected = (jc.lift(fn)(tree, x) for tree in (params, quantized, better))
    np.testing.assert_allclose(corrected.mean(0), dense.mean(0), atol=2e-6)
    assert np.abs(rough.mean(0) - dense.mean(0)).max() > 0.05
    assert np.square(corrected - dense).mean() < np.square(rough - dense).mean()
    assert better["a"]["bias"] is params["a"]["bias"]
    assert better["b"]["kernel"] is quantized["b"]["kernel"]


def test_both_layers_and_what_is_missing():
    params, x, stats = setting()
    quantized = rtn(params, bits=3)
    better = bias_correction(params, quantized, stats)
    hidden = x @ better["a"]["kernel"].materialize() + better["a"]["bias"][None]
    np.testing.assert_allclose(hidden.mean(0), (x @ params["a"]["kernel"]).mean(0), atol=2e-6)
    with pytest.raises(ValueError, match="bias_correction: quantized has no observed weight"):
        bias_correction(params, params, stats)
    bare = {"a": {"kernel": params["a"]["kernel"]}, "b": params["b"]}
    with pytest.raises(ValueError, match=r"bias_correction: found no bias.*biases="):
        bias_correction(bare, rtn(bare, bits=3), stats)
