"""Elastic layers: a runtime choice, the static one and the extracted network agree; kernels are Once-for-All's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.search import Choice, IntRange, Space
from jaxcompress.search.supernet import find_normalizations, largest, recalibrated, smallest
from jaxcompress.search.supernet.elastic import (
    ElasticBatchNorm,
    ElasticConv,
    ElasticDense,
    ElasticDepth,
    OperationChoice,
    extract,
)
from tests.zoo.elastic import SPACE, ElasticNet
from tests.zoo.model import data, fill

WHOLE = jax.tree.map(lambda a: np.asarray(a).tolist(), SPACE.decode(largest(SPACE)))


@functools.cache
def network():
    module, x = ElasticNet(), data(3, 8, 8, 3)
    variables = fill(jax.eval_shape(functools.partial(module.init, genome=WHOLE), jax.random.key(0), x))
    return module, variables, x


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert float(jnp.max(jnp.abs(ours - theirs))) <= tolerance * float(jnp.max(jnp.abs(theirs)))


def test_extracted_is_masked_and_smaller(compilations):
    module, variables, x = network()

    def masked(variables, genes, x):
        return module.apply(variables, x, genome=SPACE.decode(genes))

    run = jax.jit(masked)
    some = SPACE.sample(jax.random.key(0), 2)
    genes = [largest(SPACE), *(jax.tree.map(lambda rows, i=i: rows[i], some) for i in range(2)), smallest(SPACE)]
    outs = [run(variables, one, x) for one in genes]
    assert compilations("masked") == 1
    sizes, flops = [], []
    for one, out in zip(genes, outs, strict=True):
        small = extract(module, variables, SPACE.decode(one), jax.ShapeDtypeStruct(x.shape, x.dtype))
        compiled = jax.jit(small.fn).lower(small.params, x).compile()
        close(compiled(small.params, x), out)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(small.params)))
        flops.append(compiled.cost_analysis()["flops"])
    assert sizes[-1] < 0.5 * sizes[0]
    assert flops[-1] < 0.5 * flops[0]
    assert "transform_5_to_3" not in str(jax.tree.structure(small.params))
    assert jax.jit(small.fn)(small.params, data(5, 8, 8, 3)).shape == (5, 5)  # another batch size


@pytest.mark.slow
def test_genomes_side_by_side():
    module, variables, x = network()
    genes = SPACE.sample(jax.random.key(4), 3)
    found = jax.jit(jax.vmap(lambda g: module.apply(variables, x, genome=SPACE.decode(g))))(genes)
    for i in range(3):
        genome = SPACE.decode(jax.tree.map(lambda rows, i=i: rows[i], genes))
        small = extract(module, variables, genome, x)
        close(jax.jit(small.fn)(small.params, x), found[i])


def test_kernels_are_centres_transformed_in_turn():
    """By hand in NumPy: 3x3 out of 5x5 out of 7x7, each by its own matrix, none of them the identity."""
    layer, x = ElasticConv(2, (3, 5, 7), use_bias=False), data(1, 9, 9, 3)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = fill(shapes)["params"]
    assert params["transform_7_to_5"].shape == (25, 25)
    seven = np.asarray(params["kernel"], np.float64)
    five = (np.asarray(params["transform_7_to_5"]) @ seven[1:6, 1:6].reshape(25, -1)).reshape(5, 5, 3, 2)
    three = (np.asarray(params["transform_5_to_3"]) @ five[1:4, 1:4].reshape(9, -1)).reshape(3, 3, 3, 2)
    for size, kernel in ((7, seven), (5, five), (3, three)):
        wanted = jax.lax.conv_general_dilated(
            x, jnp.asarray(kernel, jnp.float32), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        close(layer.apply({"params": params}, x, kernel=size), wanted)
        close(layer.apply({"params": params}, x, kernel=jnp.int32(size)), wanted)
    fresh = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(fresh["params"]["transform_5_to_3"], np.eye(9))


@pytest.mark.parametrize("ndim", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_strides_and_depthwise(ndim):
    x = data(2, *(9,) * ndim, 4)
    layer = ElasticConv(4, (1, 3, 5), strides=2, depthwise=True, ndim=ndim)
    params = fill(jax.eval_shape(layer.init, jax.random.key(0), x))
    for size in (1, 5):
        part = x * (jnp.arange(4) < 3).astype(x.dtype).reshape((1,) * (ndim + 1) + (4,))
        runtime = layer.apply(params, part, jnp.int32(3), jnp.int32(size))
        static = layer.apply(params, x[..., :3], 3, size)
        close(runtime[..., :3], static)
        assert not np.any(np.asarray(runtime[..., 3:]))


def test_gradients_reach_what_is_there_alone():
    module, variables, x = network()
    genome = SPACE.decode(smallest(SPACE))
    loss = lambda p: jnp.sum(module.apply({**variables, "params": p}, x, genome=genome) ** 2)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(variables["params"])
    stem = np.asarray(gradient["stem"]["kernel"])
    assert np.any(stem[..., :4])
    assert not np.any(stem[..., 4:])
    assert not np.any(np.asarray(gradient["block_1"]["expand"]["kernel"]))


class Skipped(nn.Module):
    """Blocks with batch norm, whose statistics are updated, skipped by ``cond``."""

    conditional: bool

    @nn.compact
    def __call__(self, x, genome, train):
        for i in range(2):
            x = ElasticDepth(Block(), conditional=self.conditional)(x, i < genome["depth"], train=train)
        return OperationChoice((nn.Dense(4), nn.tanh), conditional=self.conditional)(x, genome["operation"])


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x + ElasticBatchNorm(use_running_average=not train)(ElasticDense(4)(x))


def test_conditionals_agree_with_selections():
    space = Space({"depth": IntRange(0, 2), "operation": Choice(("dense", "tanh"))})
    x = data(6, 4)
    modules = [Skipped(conditional) for conditional in (False, True)]
    whole = {"depth": 2, "operation": 0}
    variables = fill(jax.eval_shape(functools.partial(modules[0].init, train=False), jax.random.key(0), x, whole))
    genes = space.enumerate()
    outs = [
        jax.jit(lambda g, m=m: jax.lax.map(lambda g: m.apply(variables, x, space.decode(g), train=False), g))(genes)
        for m in modules
    ]
    np.testing.assert_allclose(*outs, rtol=1e-6, atol=1e-6)
    for i, config in enumerate(space.config(genes)):
        genome = {"depth": config["depth"], "operation": int(config["operation"] == "tanh")}
        small = extract(modules[1], variables, genome, x, train=False)
        close(small.fn(small.params, x, train=False), outs[0][i])
        assert len(small.params.get("params", {})) == config["depth"] + (config["operation"] == "dense")
    genome = {"depth": jnp.int32(1), "operation": jnp.int32(1)}
    _, updates = modules[1].apply(variables, x, genome, train=True, mutable=["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), updates["batch_stats"], variables["batch_stats"])
    assert moved["Block_0"]["ElasticBatchNorm_0"]["mean"]
    assert not moved["Block_1"]["ElasticBatchNorm_0"]["mean"]


def test_batch_norm_is_linens():
    """In both modes; in training, statistics of channels that are not there stay."""
    x = data(8, 3, 6)
    theirs, ours = (nn.BatchNorm, ElasticBatchNorm)
    variables = fill(jax.eval_shape(ours(use_running_average=True).init, jax.random.key(0), x))
    for still in (True, False):
        settings = {"use_running_average": still, "momentum": 0.9}
        wanted, updates = theirs(**settings).apply(variables, x, mutable=["batch_stats"])
        found, own = ours(**settings).apply(variables, x, mutable=["batch_stats"])
        close(found, wanted)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), own, updates)
    _, part = ours().apply(variables, x, jnp.int32(4), mutable=["batch_stats"])
    np.testing.assert_array_equal(part["batch_stats"]["mean"][4:], variables["batch_stats"]["mean"][4:])
    np.testing.assert_allclose(part["batch_stats"]["mean"][:4], own["batch_stats"]["mean"][:4], rtol=1e-6)
    assert [one.mean[0] for one in find_normalizations(ours(use_running_average=True).apply, variables, x)] == [
        "batch_stats/mean"
    ]


def test_a_subnet_is_recalibrated():
    """Statistics of a runtime subnet and of the extracted one agree."""
    module, variables, _ = network()
    batches = 2.0 * data(2, 8, 8, 8, 3) + 0.5
    genome = SPACE.decode(smallest(SPACE))
    fn = functools.partial(module.apply, genome=genome)
    whole = jax.jit(lambda v, b: recalibrated(lambda v, x: fn(v, x), v, b))(variables, batches)
    small = extract(module, variables, genome, batches[0])
    own = recalibrated(small.fn, small.params, batches)
    close(jax.jit(small.fn)(own, batches[0]), jax.jit(fn)(whole, batches[0]), 1e-4)


def test_mistakes_are_named():
    x = data(1, 8, 8, 3)
    with pytest.raises(ValueError, match=r"kernel_sizes must be odd and ascending, got \(3, 4\)"):
        ElasticConv(4, (3, 4)).init(jax.random.key(0), x)
    conv = ElasticConv(4, (3,))
    variables = conv.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"kernel must be one of \(3,\), got 5"):
        conv.apply(variables, x, kernel=5)
    with pytest.raises(ValueError, match="width must be 1 to 4, got 5"):
        conv.apply(variables, x, width=5)
    with pytest.raises(TypeError, match=r"width must be a whole number, got 2\.5"):
        conv.apply(variables, x, width=2.5)
    with pytest.raises(ValueError, match="a depthwise layer of 4 features reads as many channels, got 3"):
        ElasticConv(4, (3,), depthwise=True).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="the input has 4 channels, the kernel reads 3; initialize with the largest"):
        conv.apply(variables, data(1, 8, 8, 4))
    with pytest.raises(ValueError, match="what can be skipped must keep shape"):
        ElasticDepth(nn.Dense(2)).init(jax.random.key(0), data(1, 3), True)
    with pytest.raises(ValueError, match="results differ in shape"):
        OperationChoice((nn.Dense(2), nn.Dense(3))).init(jax.random.key(0), data(1, 3), 0)
    with pytest.raises(ValueError, match="choice must be 0 to 0, got 3"):
        OperationChoice((nn.Dense(2),)).init(jax.random.key(0), data(1, 3), 3)
    net = Stiff()
    variables = net.init(jax.random.key(0), data(1, 3), 4)
    with pytest.raises(ValueError, match="a layer that is not elastic reads elastic channels"):
        extract(net, variables, 2, data(1, 3))


class Stiff(nn.Module):
    @nn.compact
    def __call__(self, x, genome):
        x = ElasticDense(4)(x, genome)
        return nn.Dense(2)(x)


@pytest.mark.slow
def test_structured_pruning_takes_over():
    """An extracted network is a function like any other."""
    module, variables, x = network()
    small = extract(module, variables, SPACE.decode(largest(SPACE)), x)
    groups = jc.groups(small.fn, small.params, x)
    keep = jc.prune.channels(groups, small.params, flops=0.6, round_to=1)
    assert jc.verify(small.fn, small.params, keep, x)
