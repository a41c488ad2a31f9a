"""Whole networks: near their simulation, in integers alone, the same bits in every batch size, compiled or not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcompress as jc
from benchmarks.lenets import LeNet5
from benchmarks.resnet import Block, ResNet20, convolution
from benchmarks.vgg import VGGSmall
from tests.quantize.integer.floats import float_arithmetic
from tests.quantize.integer.simulation import simulated
from tests.zoo.model import data, fill

pytestmark = pytest.mark.usefixtures("rank_promotion")


@pytest.fixture
def rank_promotion():
    """The networks of the benchmarks add a bias to images as people do."""
    with jax.numpy_rank_promotion("allow"):
        yield


class SmallResNet(nn.Module):
    """The first blocks of ResNet-20, with one that halves the image and doubles the channels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(convolution(x, 8, 1, False))
        for features, stride in ((8, 1), (16, 2)):
            x = Block(features, stride)(x, False)
        return nn.Dense(10)(x.mean((1, 2)))


class Mixed(nn.Module):
    """Depthwise and branching convolutions, a concatenation, average pooling, ReLU6, and a residual."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3), 2, use_bias=False)(x)))
        y = nn.relu6(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(x))
        x = x + nn.Conv(8, (1, 1))(y)
        x = jnp.concatenate([nn.relu(nn.Conv(4, (1, 1))(x)), averages(x, 3, 1, "SAME")], -1)
        x = averages(x, 2, 2, "VALID")
        return nn.Dense(5)(x.reshape(len(x), -1))


def averages(x, window, stride, padding):
    """`nn.avg_pool`, which divides floats by integers, under strict promotion."""
    return nn.pooling.pool(x, 0.0, jax.lax.add, (window, window), (stride, stride), padding) / float(window**2)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def linen(module, x):
    """A module with weights of the usual size, and running statistics that are not trivial."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = fill(shapes)
    return module.apply, variables, x


def from_nnx():
    fn, variables = jc.nnx.split(NNXNet(nnx.Rngs(0)))
    variables["norm"]["mean"] = data(8, seed=3) * 0.3
    variables["norm"]["var"] = jnp.abs(data(8, seed=4)) + 0.5
    return fn, variables, data(6, 8, 8, 3)


MODELS = {
    "lenet5": lambda: linen(LeNet5(), data(6, 28, 28)),
    "resnet": lambda: linen(SmallResNet(), data(6, 12, 12, 3)),
    "vgg": lambda: linen(VGGSmall(8, stages=2), data(6, 8, 8, 3)),
    "mixed": lambda: linen(Mixed(), data(6, 12, 12, 3)),
    "nnx": from_nnx,
}


@functools.cache
def made(name):
    with jax.numpy_rank_promotion("allow"):
        fn, variables, x = MODELS[name]()
        return fn, variables, x, jc.quantize.integer_only(fn, variables, [x])


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name == "vgg" else []) for name in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_model_is_near_its_simulation(name):
    """Roundings that fall otherwise than in the simulation add up over the layers, to two steps of the result here."""
    fn, variables, x, int_fn = made(name)
    found, wanted = int_fn(x), simulated(int_fn, variables, x)
    step = int_fn.report.grids[int_fn.report.sites[-1].name].scale
    assert np.abs(np.asarray(found) - np.asarray(wanted)).max() <= 2.01 * step
    exact = jax.jit(fn)(variables, x)
    assert jnp.abs(found - exact).mean() < 0.02 * jnp.abs(exact).max()
    assert float(jnp.std(found)) > 10 * step  # the network does something


@pytest.mark.parametrize("name", NAMES)
def test_model_computes_in_integers_alone(name):
    _, _, x, int_fn = made(name)
    closed = jax.make_jaxpr(int_fn.apply)(int_fn.params, x)
    assert float_arithmetic(closed, len(jax.tree.leaves(int_fn.params))) == []
    floats = [leaf for leaf in jax.tree.leaves(int_fn.params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) == 2  # of the input and of the result
    assert all(leaf.shape == () for leaf in floats)


@pytest.mark.parametrize("name", [pytest.param("lenet5", marks=pytest.mark.slow), "mixed"])
def test_batch_sizes_give_the_same_bits(name):
    _, _, x, int_fn = made(name)
    whole = int_fn(jnp.tile(x, (11,) + (1,) * (x.ndim - 1))[:64])
    np.testing.assert_array_equal(int_fn(x[:1]), whole[:1])
    np.testing.assert_array_equal(int_fn(x), whole[: len(x)])
    np.testing.assert_array_equal(whole[len(x) : 2 * len(x)], whole[: len(x)])


def test_compiled_or_not_gives_the_same_bits():
    params = {"w": data(8, 8, seed=1)}
    fn = lambda p, x: jax.nn.relu(x @ p["w"])  # noqa: E731
    x = data(8, 8)
    int_fn = jc.quantize.integer_only(fn, params, [x])
    eager = int_fn.apply(int_fn.params, x)
    np.testing.assert_array_equal(eager, int_fn(x))
    np.testing.assert_array_equal(eager, jax.jit(lambda x: int_fn(x))(x))  # parameters as constants of the program
    np.testing.assert_array_equal(eager, jax.jit(jax.vmap(lambda row: int_fn(row[None])[0]))(x))


def test_second_call_compiles_nothing(compilations):
    _, _, x, int_fn = made("nnx")
    int_fn(x)
    x = x + 1
    before = compilations()
    int_fn(x)
    assert compilations() == before


def test_size_and_report():
    _, variables, _, int_fn = made("lenet5")
    report = int_fn.report
    assert report.float_bytes == jc.stored_bytes(variables)
    assert report.integer_bytes == jc.stored_bytes(int_fn.params)
    assert 3.9 < report.float_bytes / report.integer_bytes <= 4
    assert [site.parameters for site in report.sites[1:]] == [
        (f"params/{layer}/kernel",) for layer in ("conv1", "conv2", "fc1", "fc2")
    ]
    assert "no float arithmetic" in str(report)
    assert "lenets.py" in str(report)
    assert "params/conv1/kernel" in report._repr_html_()


def test_parameters_are_not_changed():
    fn, variables, x, _ = made("nnx")
    before = jax.tree.map(np.array, variables)
    jc.quantize.integer_only(fn, variables, [x])
    jax.tree.map(np.testing.assert_array_equal, before, variables)


@pytest.mark.slow
def test_whole_resnet20():
    fn, variables, x = linen(ResNet20(8), data(6, 32, 32, 3))
    int_fn = jc.quantize.integer_only(fn, variables, [x])
    exact = jax.jit(fn)(variables, x)
    assert jnp.abs(int_fn(x) - exact).mean() < 0.03 * jnp.abs(exact).max()
    np.testing.assert_array_equal(int_fn(x)[:1], int_fn(x[:1]))
    closed = jax.make_jaxpr(int_fn.apply)(int_fn.params, x)
    assert float_arithmetic(closed, len(jax.tree.leaves(int_fn.params))) == []
