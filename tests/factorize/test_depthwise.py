import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.factorize.depthwise import Window, depthwise

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


WINDOWS = {
    "plain": ((3, 2), [Window(), Window()]),
    "strided": ((3, 2), [Window(2, (1, 1)), Window(3, (0, 2))]),
    "dilated": ((2, 3), [Window(1, (2, 0), 1, 2), Window(2, (1, 1), 3, 2)]),
    "negative padding": ((2, 2), [Window(1, (-1, 2)), Window(2, (0, -2), 2)]),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_is_the_grouped_convolution(name):
    sizes, windows = WINDOWS[name]
    x, kernel = normal(2, 7, 8, 5), normal(*sizes, 5)
    expected = lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        [w.stride for w in windows],
        [w.padding for w in windows],
        [w.lhs_dilation for w in windows],
        [w.rhs_dilation for w in windows],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    out = jax.jit(lambda x, k: depthwise(x, k, (1, 2), windows))(x, kernel)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_a_window_larger_than_the_data_gives_nothing():
    assert depthwise(normal(1, 2, 3), normal(4, 3), (1,), [Window()]).shape == (1, 0, 3)
