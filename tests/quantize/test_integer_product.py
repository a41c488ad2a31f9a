"""Products of codes against NumPy in 64 bits: every zero point, every place of the axes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.quantize.integer_product import Codes, integer_conv, integer_matmul

ZEROS = list(itertools.product((False, True), repeat=2))
CASES = {
    "rows": ((3, 5), (5, 4), ((1,), (0,)), ((), ())),
    "transposed": ((5, 3), (4, 5), ((0,), (1,)), ((), ())),
    "batched, two contracted axes": ((2, 3, 5, 7), (5, 2, 7, 4), ((2, 3), (0, 2)), ((0,), (1,))),
    "no free axis": ((5,), (5,), ((0,), (0,)), ((), ())),
}


def codes(seed: int, shape: tuple[int, ...], summed: tuple[int, ...], zero: bool) -> Codes:
    rng = np.random.RandomState(seed)
    small = [1 if axis in summed else n for axis, n in enumerate(shape)]
    scale = jnp.asarray(rng.uniform(0.1, 2.0, small), jnp.float32)
    zeros = jnp.asarray(rng.randint(-128, 128, small), jnp.int32) if zero else None
    return Codes(jnp.asarray(rng.randint(-128, 128, shape), jnp.int8), scale, zeros)


def exact(c: Codes) -> np.ndarray:
    zero = 0 if c.zero_point is None else np.asarray(c.zero_point, np.float64)
    return (np.asarray(c.codes, np.float64) - zero) * np.asarray(c.scale, np.float64)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("zeros", ZEROS)
def test_matmul_is_the_product_of_the_values(name: str, zeros: tuple[bool, bool]) -> None:
    x_shape, w_shape, contract, batch = CASES[name]
    x, w = codes(0, x_shape, contract[0], zeros[0]), codes(1, w_shape, contract[1], zeros[1])
    out = integer_matmul(x, w, contract, batch)
    with jax.enable_x64(True):
        expected = lax.dot_general(jnp.asarray(exact(x)), jnp.asarray(exact(w)), (contract, batch))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-6)  # one rounding of the sum, two of the scales
    np.testing.assert_allclose(x.decode(), exact(x), rtol=1e-6)


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_pads_with_zeros_not_with_codes(zeros: tuple[bool, bool], groups: int) -> None:
    x = codes(0, (2, 6, 5, 4), (1, 2, 3), zeros[0])
    w = codes(1, (3, 2, 4 // groups, 6), (0, 1, 2), zeros[1])

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        options = {"rhs_dilation": (1, 2), "feature_group_count": groups, "dimension_numbers": layout}
        return lax.conv_general_dilated(x, w, (2, 1), ((1, 1), (0, 2)), **options)

    (eqn,) = jax.make_jaxpr(conv)(x.decode(), w.decode()).eqns[-1:]
    out = integer_conv(x, w, **eqn.params)
    with jax.enable_x64(True):
        expected = conv(jnp.asarray(exact(x)), jnp.asarray(exact(w)))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
