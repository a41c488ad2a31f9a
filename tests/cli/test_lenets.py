import jax
import numpy as np
import pytest
from scipy.signal import correlate

from jaxcompress.cli.lenets import MODELS


def parameters(name):
    params = MODELS[name].init(jax.random.key(0))
    biases = iter(np.random.default_rng(1).normal(size=(4, 500)).astype(np.float32) / 8)
    return {layer: {**arrays, "bias": next(biases)[: arrays["bias"].size]} for layer, arrays in params.items()}


@pytest.mark.parametrize(("name", "count"), [("lenet300", 266_610), ("lenet5", 431_080)])
def test_parameter_counts_are_those_of_the_papers(name, count):
    """Han et al. 2016: 266k (784-300-100-10) and 431k (20-50-500-10)."""
    assert sum(leaf.size for leaf in jax.tree.leaves(MODELS[name].init(jax.random.key(0)))) == count


def test_lenet300_in_numpy():
    params, images = parameters("lenet300"), np.random.default_rng(0).random((3, 28, 28), np.float32)
    x = images.reshape(3, 784).astype(np.float64)
    for layer in ("dense_0", "dense_1", "dense_2"):
        x = x @ np.asarray(params[layer]["kernel"], np.float64) + params[layer]["bias"]
        x = np.maximum(x, 0) if layer != "dense_2" else x
    # float32 sums of 784 terms: about 784 * 6e-8 relative
    np.testing.assert_allclose(MODELS["lenet300"].fn(params, images), x, rtol=1e-4, atol=1e-5)


def test_lenet5_in_numpy():
    params, images = parameters("lenet5"), np.random.default_rng(0).random((2, 28, 28), np.float32)
    x = images[..., None].astype(np.float64)
    for layer in ("conv_0", "conv_1"):
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        maps = [[correlate(image, kernel[..., o], "valid")[..., 0] for o in range(kernel.shape[-1])] for image in x]
        x = np.moveaxis(np.array(maps), 1, -1) + params[layer]["bias"]
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    x = x.reshape(2, 800)
    x = np.maximum(x @ np.asarray(params["dense_0"]["kernel"], np.float64) + params["dense_0"]["bias"], 0)
    x = x @ np.asarray(params["dense_1"]["kernel"], np.float64) + params["dense_1"]["bias"]
    np.testing.assert_allclose(MODELS["lenet5"].fn(params, images), x, rtol=1e-4, atol=1e-5)
