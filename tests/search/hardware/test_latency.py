"""Measured times: what is longer takes longer; nothing is reported that was not measured."""

import time

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxcompress.core.timing import filled, interleaved_ms, median_ms
from jaxcompress.search.hardware import cost, latencies_ms, latency_ms


def test_interleaved_calls_are_taken_in_turn():
    order = []
    times = interleaved_ms([lambda: order.append(0) or time.sleep(0.006), lambda: time.sleep(0.012)], samples=3)
    assert times[0] >= 6.0
    assert times[1] >= 12.0
    assert len(order) == 2 + 3  # two calls that are not counted, one call a sample: it is longer than 5 ms


def test_short_calls_are_timed_in_runs():
    calls = []
    median_ms(lambda _: calls.append(0), None)
    assert len(calls) > 11 * 10


def test_more_work_takes_longer():
    x = jax.ShapeDtypeStruct((400, 400), jnp.float32)
    found = latencies_ms({"one": (jnp.dot, (x, x)), "twenty": (lambda a, b: _products(a, b), (x, x))}, samples=5)
    assert found["twenty"] / found["one"] > 2


def _products(a, b):
    for _ in range(20):
        a = a @ b
    return a


def test_arguments_may_be_trees_of_shapes_integers_and_keys():
    tree = {"w": jax.ShapeDtypeStruct((4, 4), jnp.float32), "i": jax.ShapeDtypeStruct((2,), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert latency_ms(lambda t, k: t["w"][t["i"]] + jax.random.normal(k, (2, 4)), tree, key, samples=1) > 0
    assert filled(key) == jax.random.key(0)
    assert filled(3) == 3


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: latencies_ms({}), "candidates= is empty"),
        (lambda: interleaved_ms([]), "nothing to measure with 0 calls"),
        (lambda: latency_ms(jnp.sin, jnp.ones(2), samples=0), "samples=0"),
        (lambda: jax.jit(lambda x: latency_ms(jnp.sin, x))(jnp.ones(2)), "'fn': an argument is traced.*search.python"),
    ],
)  # fmt: skip
def test_nothing_measured_is_an_error(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()


def test_flops_and_bytes_of_a_product():
    found = cost(lambda w, x: x @ w, jax.ShapeDtypeStruct((16, 32), jnp.float32), jnp.ones((8, 16)))
    assert found.flops == 2 * 8 * 16 * 32
    assert found.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)


def test_flops_of_a_convolution_and_of_its_compiled_form():
    def fn(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    arrays = jnp.ones((3, 3, 4, 8)), jnp.ones((2, 10, 10, 4))
    assert cost(fn, *arrays).flops == 2 * 2 * 8 * 8 * 9 * 4 * 8
    assert cost(fn, *arrays, optimized=True).flops > 0


@pytest.mark.parametrize(
    ("loop", "name"),
    [
        (lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=10)[0], "scan"),
        (lambda x: jax.jit(lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x))(x), "while"),
    ],
)
def test_loops_are_not_counted_once_in_silence(loop, name):
    with pytest.raises(ValueError, match=rf"loops \({name}\), whose bodies XLA counts once.*latency_ms"):
        cost(loop, jnp.ones((4, 4)))
    assert cost(lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=1)[0], jnp.ones((4, 4))).flops >= 128


def test_roofline_is_the_longer_of_both():
    found = cost(lambda w, x: x @ w, jnp.ones((16, 32)), jnp.ones((8, 16)))
    assert found.roofline_ms(flops_per_second=8192e3, bytes_per_second=1e15) == pytest.approx(1.0)
    assert found.roofline_ms(flops_per_second=1e15, bytes_per_second=3584e2) == pytest.approx(10.0)
