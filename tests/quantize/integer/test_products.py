"""Integer convolutions against their definition in 64-bit integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.integer.products import Conv, Dot
from tests.quantize.integer.reference import conv_sums

NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
CASES = {
    "plain": {},
    "one_tap": {"window": (1, 1)},
    "same": {"padding": ((1, 1), (1, 1))},
    "strided": {"strides": (2, 3), "padding": ((0, 1), (2, 0))},
    "dilated": {"dilation": (2, 1)},
    "transposed": {"input_dilation": (2, 2), "padding": ((2, 2), (1, 2))},
    "cropped": {"padding": ((-1, 0), (0, -2))},
    "groups": {"groups": 2, "padding": ((1, 1), (1, 1))},
    "depthwise": {"groups": 4, "strides": (2, 2), "padding": ((1, 1), (1, 1))},
}


def integers(seed, *shape):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize("name", CASES)
def test_convolution(name):
    case = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "input_dilation": (1, 1), "groups": 1}
    case |= CASES[name]
    window = case.pop("window", (3, 2))
    x, w = integers(0, 2, 7, 8, 4), integers(1, *window, 4 // case["groups"], 8)
    op = Conv(NHWC, case["strides"], case["padding"], case["input_dilation"], case["dilation"], case["groups"])
    ours = jax.jit(op.run)(x, jnp.int8(-7), w)
    assert ours.dtype == jnp.int32
    np.testing.assert_array_equal(ours, conv_sums(x, w, -7, **case))


def test_convolution_in_other_layouts():
    x, w = integers(2, 2, 5, 6, 3), integers(3, 3, 3, 3, 4)
    op = Conv(((0, 1, 2, 3), (0, 1, 2, 3), (2, 1, 0, 3)), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
    ours = op.run(jnp.asarray(x.transpose(0, 3, 1, 2)), jnp.int8(3), jnp.asarray(w.transpose(3, 2, 0, 1)))
    wanted = conv_sums(x, w, 3, padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(ours, np.einsum("nhwc->hcnw", wanted))


def test_convolution_over_one_axis_and_three():
    x, w = integers(4, 2, 9, 3), integers(5, 4, 3, 5)
    one = Conv(((0, 2, 1), (2, 1, 0), (0, 2, 1)), (2,), ((1, 0),), (1,), (1,), 1)
    wanted = conv_sums(x[:, None], w[None], 5, strides=(1, 2), padding=((0, 0), (1, 0)))
    np.testing.assert_array_equal(one.run(jnp.asarray(x), jnp.int8(5), jnp.asarray(w)), wanted[:, 0])
    three = Conv(((0, 4, 1, 2, 3), (4, 3, 0, 1, 2), (0, 4, 1, 2, 3)), (1, 1, 2), ((0, 0), (0, 0), (1, 0)), (1,) * 3,
                 (1,) * 3, 1)  # fmt: skip
    found = three.run(jnp.asarray(x[:, None, None]), jnp.int8(5), jnp.asarray(w[None, None]))
    np.testing.assert_array_equal(found[:, 0, 0], wanted[:, 0])


@pytest.mark.parametrize("weight_first", [False, True])
def test_dot(weight_first):
    """Channels of the result are where they are said to be."""
    x, w = integers(6, 2, 5, 3), integers(7, 3, 2, 4)  # contract x's last axis with w's first, x's 0 in step with w's 1
    op = Dot(((2,), (0,)), ((0,), (1,)), weight_first)
    ours = np.asarray(op.run(jnp.asarray(x), jnp.int8(0), jnp.asarray(w)))
    wanted = np.einsum("bpk,kbc->bcp" if weight_first else "bpk,kbc->bpc", x.astype(np.int64), w.astype(np.int64))
    np.testing.assert_array_equal(ours, wanted)
    assert op.channel_axes(3) == (1, 2)
    assert op.placed(3, 3) == ((0, 1) if weight_first else (0, 2))
    assert op.length(w.shape) == 3
