"""What finds floats in integer programs finds the ones that are planted there."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.quantize.integer.floats import float_arithmetic

PARAMS = {"w": jnp.ones((4, 4), jnp.int8), "scale": jnp.float32(0.1)}
X = jnp.ones((2, 4))


def program(inside):
    """Quantizes, does something, multiplies integers, dequantizes."""

    def fn(params, x):
        codes = jnp.round(x / params["scale"]).astype(jnp.int8)
        codes = inside(params, codes)
        total = lax.dot_general(codes, params["w"], (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        return total.astype(jnp.float32) * params["scale"]

    return jax.make_jaxpr(fn)(PARAMS, X)


def in_floats(codes):
    return jnp.round(codes.astype(jnp.float32) * 0.5).astype(jnp.int8)


def in_scan(codes):
    return lax.scan(lambda c, _: (in_floats(c), None), codes, None, length=2)[0]


PLANTED = {
    "plain": lambda p, c: in_floats(c),
    "scale": lambda p, c: (c.astype(jnp.float32) * p["scale"]).astype(jnp.int8),
    "jit": lambda p, c: jax.jit(in_floats)(c),
    "scan": lambda p, c: in_scan(c),
    "while": lambda p, c: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, in_floats(s[1])), (0, c))[1],
    "cond": lambda p, c: lax.cond(c[0, 0] > 0, in_floats, lambda c: c, c),
    "custom": lambda p, c: jax.nn.relu(c.astype(jnp.float32)).astype(jnp.int8),
    "remat": lambda p, c: jax.checkpoint(in_floats)(c),
    "half": lambda p, c: (c.astype(jnp.bfloat16) + 1).astype(jnp.int8),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_float_is_found(name):
    assert float_arithmetic(program(PLANTED[name]), 2)


def test_float_product_behind_the_dequantization_is_found():
    closed = jax.make_jaxpr(lambda p, x: (x / p["scale"]).astype(jnp.int8).astype(jnp.float32) @ jnp.ones((4, 2)))(
        PARAMS, X
    )
    assert float_arithmetic(closed, 2) == ["dot_general computes with floats"]


CLEAN = {
    "nothing": lambda p, c: c,
    "shift": lambda p, c: jnp.right_shift(c, 1),
    "scan": lambda p, c: lax.scan(lambda c, _: (c + jnp.int8(1), None), c, None, length=2)[0],
    "cond": lambda p, c: lax.cond(c[0, 0] > 0, lambda c: -c, lambda c: c, c),
    "of_parameters": lambda p, c: c + (p["scale"] * 10).astype(jnp.int8),
}


@pytest.mark.parametrize("name", CLEAN)
def test_integers_are_not_accused(name):
    assert float_arithmetic(program(CLEAN[name]), 2) == []
