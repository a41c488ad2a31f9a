"""Every operation that has an integer form: near the float function, in integers alone, the same in every batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from tests.quantize.integer.floats import float_arithmetic
from tests.quantize.integer.simulation import simulated
from tests.zoo.model import data

X = data(4, 6, 6, 3)
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, w, strides=(1, 1), padding="SAME", **more):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC, **more)


def pool(x, window, init, op, padding="VALID"):
    return lax.reduce_window(x, init, op, (1, window, window, 1), (1, 2, 2, 1), padding)


W = {
    "k": 0.3 * data(3, 3, 3, 4, seed=1),
    "k2": 0.3 * data(3, 3, 3, 4, seed=2),
    "depth": data(3, 3, 1, 6, seed=3),
    "half": data(3, 3, 2, 4, seed=4),
    "d": 0.2 * data(108, 5, seed=5),
    "heads": 0.5 * data(3, 2, 4, seed=6),
    "channel": 1 + 0.5 * data(3, seed=7),
    "bias": data(4, seed=8),
    "position": data(6, 6, seed=9),
    "variance": jnp.square(data(4, seed=10)) + 0.1,
}


@jax.custom_vjp
def straight_through(x):
    return jnp.maximum(x, 0.0)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


def batchnorm(p, y):
    return (y - p["bias"][None, None, None]) * lax.rsqrt(p["variance"][None, None, None] + 1e-5) + 0.5


# Several functions of one kind make one program, whose results are told apart by name.
CASES = {
    "convolutions": {
        "conv": lambda p, x: conv(x, p["k"]),
        "strided": lambda p, x: conv(x, p["k"], (2, 2)),
        "dilated": lambda p, x: conv(x, p["k"], rhs_dilation=(2, 2)),
        "transposed": lambda p, x: lax.conv_transpose(x, p["k"], (2, 2), "SAME", dimension_numbers=NHWC),
        "depthwise": lambda p, x: conv(x, p["depth"], feature_group_count=3),
        "grouped": lambda p, x: conv(jnp.concatenate([x, x[..., :1]], -1), p["half"], feature_group_count=2),
        "valid": lambda p, x: conv(x, p["k"], padding="VALID"),
    },
    "dense": {
        "dense": lambda p, x: x.reshape(len(x), -1) @ p["d"],
        "left": lambda p, x: p["d"].T @ x.reshape(len(x), -1).T,
        "heads": lambda p, x: jnp.einsum("nhwc,cij->nihwj", x, p["heads"]),
        "bias": lambda p, x: conv(x, p["k"]) + p["bias"][None, None, None],
        "reshaped": lambda p, x: (x.reshape(-1, 3) @ p["k"][1, 1]).reshape(-1, 6, 6, 4) + p["bias"][None, None, None],
        "spread": lambda p, x: conv(x, p["k"]) - jnp.broadcast_to(p["bias"], (len(x), 6, 6, 4)),
        "of_positions": lambda p, x: conv(x, p["k"]) + p["position"][None, :, :, None],
        "channels_first": lambda p, x: conv(x, p["k"]).transpose(0, 3, 1, 2).reshape(len(x), -1) + 0.5,
        "channels_kept": lambda p, x: conv(x, p["k"]).transpose(0, 3, 1, 2)[:, :, ::2] * p["bias"][None, :, None, None],
    },
    "bounds": {
        "relu": lambda p, x: jax.nn.relu(conv(x, p["k"])),
        "relu6": lambda p, x: jax.nn.relu6(4 * conv(x, p["k"])),
        "clip": lambda p, x: jnp.clip(conv(x, p["k"]), -0.5, 0.75),
        "clamp": lambda p, x: lax.clamp(-0.5, conv(x, p["k"]), 0.75),
        "custom_vjp": lambda p, x: straight_through(conv(x, p["k"])),
        "remat": lambda p, x: jax.checkpoint(lambda x: jax.nn.relu(conv(x, p["k"])))(x),
        "of_codes": lambda p, x: jax.nn.relu(jnp.flip(x, 1)),
    },
    "scales": {
        "batchnorm": lambda p, x: jax.nn.relu(batchnorm(p, conv(x, p["k"]))),
        "of_sum": lambda p, x: batchnorm(p, conv(x, p["k"]) + conv(x, p["k2"])),
        "negative": lambda p, x: 1.0 - conv(x, p["k"]) / -p["variance"][None, None, None],
        "of_codes": lambda p, x: (x - 0.25) * p["channel"][None, None, None],
        "widened": lambda p, x: x.mean((1, 2), keepdims=True) * p["position"][None, :, :, None],
    },
    "sums": {
        "residual": lambda p, x: jax.nn.relu(x + conv(x, p["k"])[..., :3]),
        "difference": lambda p, x: x - jnp.flip(x, 2),
        "three": lambda p, x: x + jnp.flip(x, 2) - 2 * jnp.flip(x, 1),
        "doubled": lambda p, x: twice(conv(x, p["k"])),
        "used_twice": lambda p, x: relu_minus(conv(x, p["k"])),
    },
    "joined": {
        "concatenate": lambda p, x: jnp.concatenate([4 * x, conv(x, p["k"]), jax.nn.relu(x)], -1),
        "stack": lambda p, x: jnp.stack([x, conv(x, p["k"])[..., :3]], 1),
        "maximum": lambda p, x: jnp.maximum(x, conv(x, p["k"])[..., :3]),
        "minimum_of_one": lambda p, x: jnp.minimum(x[:, ::2], x[:, 1::2]),
    },
    "pools": {
        "max_pool": lambda p, x: pool(conv(x, p["k"]), 3, -jnp.inf, lax.max, "SAME"),
        "avg_pool": lambda p, x: pool(x, 2, 0.0, lax.add) / 4,
        "padded": lambda p, x: pool(x, 3, 0.0, lax.add, "SAME") / pool(jnp.ones((1, 6, 6, 1)), 3, 0.0, lax.add, "SAME"),
        "mean": lambda p, x: conv(x, p["k"]).mean((1, 2)),
        "mean_kept": lambda p, x: jax.nn.relu(x.mean((1, 2), keepdims=True) + 0.01),
        "sum": lambda p, x: x.sum(3),
        "reduce_max": lambda p, x: x.max((1, 2)),
    },
    "moved": {
        "rot90": lambda p, x: jnp.rot90(x, axes=(1, 2))[:, 1:5:2, None].repeat(2, 2),
        "pad": lambda p, x: jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (1, 0), (0, 2))),
        "pad_with_one": lambda p, x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1.0),
        "split": lambda p, x: jnp.add(*jnp.split(x, 2, 1)),
        "dynamic_slice": lambda p, x: lax.dynamic_slice_in_dim(x, 2, 3, 1),
    },
}  # fmt: skip


def twice(y):
    return y + y


def relu_minus(y):
    return jax.nn.relu(y) - y


def distances(wanted, found):
    """The largest distance of every result, in steps of its grid: the least difference between two of its entries."""
    steps = {}
    for name in found:
        codes = np.unique(np.asarray(found[name]))
        step = np.diff(codes).min() if len(codes) > 1 else 1.0
        steps[name] = float(np.abs(np.asarray(wanted[name]) - np.asarray(found[name])).max() / step)
    return steps


@pytest.mark.parametrize("group", CASES)
def test_rule(group):
    """A step for the last rounding, and one for what earlier ones made otherwise than the simulation: two steps."""
    fn = lambda p, x: {name: case(p, x) for name, case in CASES[group].items()}  # noqa: E731
    int_fn = jc.quantize.integer_only(fn, W, [X])
    found, wanted, exact = int_fn(X), simulated(int_fn, W, X), jax.jit(fn)(W, X)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {n: (a.shape, a.dtype) for n, a in exact.items()}
    assert {n: d for n, d in distances(wanted, found).items() if d > 2.01} == {}
    for name in found:  # and the roundings themselves are small
        assert jnp.abs(found[name] - exact[name]).mean() < 0.01 * jnp.abs(exact[name]).max(), name
    assert float_arithmetic(jax.make_jaxpr(int_fn.apply)(int_fn.params, X), len(jax.tree.leaves(int_fn.params))) == []


def test_argmax_is_of_the_codes():
    fn = lambda p, x: jnp.argmax(conv(x, p["k"]), -1)  # noqa: E731
    int_fn = jc.quantize.integer_only(fn, W, [X])
    found = int_fn(X)
    assert found.dtype == jnp.int32
    assert (found == fn(W, X)).mean() > 0.95  # ties and near ties
    assert int_fn.report.tail is None


def test_integer_images():
    """uint8 images become floats in the function; there the grid begins, and holds them exactly."""
    images = jnp.arange(4 * 6 * 6 * 3, dtype=jnp.int32).reshape(4, 6, 6, 3).astype(jnp.uint8)
    fn = lambda p, x: conv(x.astype(jnp.float32) / 255, p["k"])  # noqa: E731
    int_fn = jc.quantize.integer_only(fn, W, [images])
    grid = next(iter(int_fn.report.grids.values()))
    assert (grid.scale, grid.zero_point) == (1.0, -128)
    np.testing.assert_allclose(int_fn(images), simulated(int_fn, W, images), atol=0.02)


def test_two_inputs_two_results():
    fn = lambda p, x, y, *, sign: {"sum": x + sign * y, "kept": jnp.flip(x, 1)}  # noqa: E731
    int_fn = jc.quantize.integer_only(fn, W, [{"a": X, "b": 0.1 * X}], inputs=lambda b: (b["a"], b["b"]), sign=-1.0)
    found = int_fn(X, 0.1 * X)
    np.testing.assert_allclose(found["sum"], 0.9 * X, atol=0.03)
    np.testing.assert_allclose(found["kept"], jnp.flip(X, 1), atol=0.02)


def test_bfloat16_in_between_is_no_rounding():
    fn = lambda p, x: conv(x.astype(jnp.bfloat16), p["k"].astype(jnp.bfloat16)).astype(jnp.float32)  # noqa: E731
    int_fn = jc.quantize.integer_only(fn, W, [X])
    assert int_fn(X).dtype == jnp.float32
    assert jnp.abs(int_fn(X) - fn(W, X)).mean() < 0.01 * jnp.abs(fn(W, X)).max()
