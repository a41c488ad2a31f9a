"""Whole layers, bit by bit against NumPy with 64-bit integers; goldens by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from tests.quantize.integer import reference
from tests.zoo.model import data

NHWC = ("NHWC", "HWIO", "NHWC")


def entering(int_fn, x):
    """The input's codes."""
    grid = int_fn.report.grids["000_input"]
    codes = np.clip(np.round(np.asarray(x, np.float32) / np.float32(grid.scale)) + grid.zero_point, -128, 127)
    return codes.astype(np.int64)


def leaving(int_fn, y):
    """The codes of a result."""
    grid = int_fn.report.grids[int_fn.report.sites[-1].name]
    return np.round(np.asarray(y, np.float64) / grid.scale).astype(np.int64) + grid.zero_point


def test_dense_layer():
    params = {"w": data(16, 8, seed=1), "b": data(8, seed=2)}
    fn = lambda p, x: jax.nn.relu6(x @ p["w"] + p["b"][None])  # noqa: E731
    x = data(32, 16)
    int_fn = jc.quantize.integer_only(fn, params, [x])
    wanted = reference.dense(entering(int_fn, x), int_fn.params["001_dot"])
    np.testing.assert_array_equal(leaving(int_fn, int_fn(x)), wanted)
    assert len(np.unique(wanted)) > 50


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_layer(groups):
    """SAME padding stands for zero although the zero point is not zero."""
    params = {"w": data(3, 3, 4 // groups, 8, seed=1), "b": data(8, seed=2)}

    def fn(p, x):
        y = lax.conv_general_dilated(x, p["w"], (2, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups)
        return y + p["b"][None, None, None]

    x = data(2, 6, 5, 4) + 0.7
    int_fn = jc.quantize.integer_only(fn, params, [x])
    assert int_fn.report.grids["000_input"].zero_point not in (-128, 0, 127)
    wanted = reference.conv(
        entering(int_fn, x), int_fn.params["001_conv"], (2, 1), ((0, 1), (1, 1)), groups=groups
    )  # of 6 rows by 2 XLA pads none above and one below
    np.testing.assert_array_equal(leaving(int_fn, int_fn(x)), wanted)


def test_addition_is_litert_s():
    x, y = data(64, 9), 3 * data(64, 9, seed=1) + 1
    int_fn = jc.quantize.integer_only(lambda p, x, y: x + y, {}, [(x, y)])
    grids = [int_fn.report.grids[site.name] for site in int_fn.report.sites]
    codes = [
        np.clip(np.round(np.asarray(v, np.float32) / np.float32(g.scale)) + g.zero_point, -128, 127)
        for v, g in zip((x, y), grids, strict=False)
    ]
    wanted = reference.add(*(c.astype(np.int64) for c in codes), *grids)
    np.testing.assert_array_equal(leaving(int_fn, int_fn(x, y)), wanted)


def test_dense_layer_by_hand():
    """Scales are 1 in and out of the sum, so every number can be read off.

    Inputs -128 .. 127 have scale 1 and zero point 0; weights 127 and -63.5 scale 1 (127 and -64, halves to even); the
    bias 100 is 100 on the scale of the sum. Results lie in -128 * 127 + 100 .. 127 * 127 + 100.
    """
    params = {"w": jnp.array([[127.0, -63.5]]), "b": jnp.array([100.0, 0.0])}
    x = jnp.array([[-128.0], [127.0], [2.0]])
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["w"] + p["b"][None], params, [x])
    node = int_fn.params["001_dot"]
    assert node["weight_0"].tolist() == [[127, -127]]
    assert node["bias"].tolist() == [100, 0]
    assert int_fn.report.grids["000_input"].scale == 1.0
    assert (int(node["zero_0"]), node["weight_0"].dtype, node["bias"].dtype) == (0, jnp.int8, jnp.int32)


def test_zero_point_is_in_the_bias():
    """Inputs 0 .. 255: zero point -128, so the bias holds +128 times the sum of the weights (127 + 64)."""
    params = {"w": jnp.array([[1.0], [64 / 127]])}
    x = jnp.array([[0.0, 255.0], [255.0, 0.0]])
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["w"], params, [x])
    assert int_fn.params["001_dot"]["weight_0"].ravel().tolist() == [127, 64]
    assert int_fn.params["001_dot"]["bias"].tolist() == [128 * (127 + 64)]


def test_batchnorm_goes_into_the_weights():
    """A scale per channel changes the multiplier, not the codes; a negative one turns their sign."""
    params = {"w": data(6, 3, seed=1), "s": jnp.array([2.0, 0.5, -1.0])}
    x = data(20, 6)
    plain = jc.quantize.integer_only(lambda p, x: x @ p["w"], params, [x]).params["001_dot"]
    scaled = jc.quantize.integer_only(lambda p, x: (x @ p["w"]) * p["s"][None], params, [x]).params["001_dot"]
    np.testing.assert_array_equal(plain["weight_0"] * jnp.array([[1, 1, -1]], jnp.int8), scaled["weight_0"])
    reals = [np.asarray(n["multiplier"]) * 2.0 ** np.asarray(n["shift"]) for n in (plain, scaled)]
    np.testing.assert_allclose((reals[1] / reals[0])[:2] / (reals[1] / reals[0])[2], [2.0, 0.5], rtol=1e-6)


def test_dead_channel_keeps_its_bias():
    params = {"w": jnp.array([[1.0, 0.0]]), "b": jnp.array([0.0, 3.0])}
    x = jnp.array([[1.0], [-1.0]])
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["w"] + p["b"][None], params, [x])
    np.testing.assert_allclose(int_fn(x)[:, 1], 3.0, atol=0.02)


def test_products_share_their_scale():
    """Two products into one sum: one scale per channel, so that their codes may be added as they are."""
    params = {"a": jnp.array([[1.0]]), "b": jnp.array([[0.25]])}
    x = jnp.array([[127.0], [-128.0]])
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["a"] + (2 * x[::-1]) @ p["b"], params, [x])
    (name,) = (site.name for site in int_fn.report.sites if len(site.parameters) == 2)
    node = int_fn.params[name]
    assert int(node["weight_0"][0, 0]) == 127
    assert int(node["weight_1"][0, 0]) in (63, 64)  # a quarter, of inputs whose step is twice as large
    np.testing.assert_allclose(int_fn(x), x + 0.5 * x[::-1], atol=1.0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_width_of_weights(bits):
    params = {"w": data(16, 8, seed=1)}
    x = data(32, 16)
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["w"], params, [x], bits={"w": bits})
    assert int(jnp.abs(int_fn.params["001_dot"]["weight_0"]).max()) == 2 ** (bits - 1) - 1


def test_width_of_activations():
    int_fn = jc.quantize.integer_only(lambda p, x: jax.nn.relu(x), {}, [data(32, 16)], activation_bits=4)
    assert len(np.unique(int_fn(data(32, 16)))) <= 16


def test_per_tensor():
    params = {"w": jnp.array([[1.0, 0.01]])}
    made = {
        granularity: jc.quantize.integer_only(
            lambda p, x: x @ p["w"], params, [data(8, 1)], granularity=granularity
        ).params["001_dot"]
        for granularity in ("channel", "tensor")
    }
    assert made["channel"]["weight_0"].tolist() == [[127, 127]]
    assert made["tensor"]["weight_0"].tolist() == [[127, 1]]


def test_quantized_weights_keep_their_codes():
    """Weights that another method put on an int8 grid per channel are taken as they are."""
    x, packed = data(8, 16), jc.quantize.rtn({"w": data(16, 8, seed=1)}, bits=8)
    int_fn = jc.quantize.integer_only(lambda p, x: x @ p["w"], packed, [x])
    np.testing.assert_array_equal(int_fn.params["001_dot"]["weight_0"], packed["w"].qvalue)
