"""How deep weights are met, counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxcompress.core.depth import weight_depths
from tests.zoo import llama

X = jnp.ones((2, 3))
EYE = {name: jnp.eye(3) for name in "abcd"}


def test_branches_of_one_depth_and_their_join():
    def fn(p, x):
        y = jnp.tanh(x @ p["a"]) @ p["b"]
        return (y + x @ p["c"]) @ p["d"]

    assert weight_depths(fn, EYE, X) == {"a": 0, "b": 1, "c": 0, "d": 2}


def test_products_of_weights_count_once():
    """A low-rank pair that is multiplied first is one weight; biases and scales are none."""

    def fn(p, x):
        return (x @ (p["a"] @ p["b"]) * p["c"][:1]) @ p["d"]

    assert weight_depths(fn, EYE, X) == {"a": 0, "b": 0, "d": 1}


@pytest.mark.parametrize(
    "loop",
    [
        lambda w, x: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=3)[0],
        lambda w, x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w), x),
        lambda w, x: lax.while_loop(lambda c: jnp.sum(c) > 0, lambda c: c @ w - 1, x),
        lambda w, x: lax.cond(jnp.sum(x) > 0, lambda: x @ w, lambda: x),
        lambda w, x: jax.checkpoint(lambda x: x @ w)(x),
        lambda w, x: jax.jit(lambda x, w: x @ w)(x, w),
        lambda w, x: jax.nn.silu(x @ w),
    ],
    ids=["scan", "fori", "while", "cond", "remat", "jit", "custom"],
)
def test_control_flow_is_entered(loop):
    fn = lambda p, x: loop(p["b"], x @ p["a"]) @ p["c"]  # noqa: E731
    assert weight_depths(fn, EYE, X) == {"a": 0, "b": 1, "c": 2}


def test_a_transformer():
    """An embedding, then per layer the projections, the output, the gate and the last product; the tied head last."""
    fn, params, inputs, _ = llama.flax(llama.random)
    depths = {path.split("/")[-2]: depth for path, depth in weight_depths(fn, params, *inputs).items()}
    assert depths == {"emb": 5, "wq": 1, "wk": 1, "wv": 1, "wo": 2, "w1": 3, "w3": 3, "w2": 4}
