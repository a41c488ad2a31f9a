"""The elastic network of the MobileNet space: its costs are the space's, and it computes what the space says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.search.spaces import MobileNet, Stage
from jaxcompress.search.supernet import largest
from jaxcompress.search.supernet.elastic import ElasticMobileNet, ElasticNetwork, extract, plain
from tests.zoo.model import data, fill

FAMILY = MobileNet(
    classes=5, stages=(Stage(16, stride=1, squeeze=True), Stage(24)), kernels=(3, 5), expansions=(3, 4), depths=(1, 2),
    widths=(0.5, 1.0), resolutions=(20, 26), last=32, features=40,
)  # fmt: skip
SPACE = FAMILY.space()
MODULE = ElasticMobileNet(FAMILY, rectified=1)
CONFIGS = (
    {"width": 1.0, "resolution": 26, "stages": [{"blocks": [{"kernel": 5, "expansion": 4}] * n} for n in (2, 2)]},
    {"width": 0.5, "resolution": 20, "stages": [
        {"blocks": [{"kernel": 3, "expansion": 4}]},
        {"blocks": [{"kernel": 5, "expansion": 3}, {"kernel": 3, "expansion": 3}]},
    ]},
)  # fmt: skip


@functools.cache
def variables():
    whole = plain(SPACE.decode(largest(SPACE)))
    shapes = jax.eval_shape(functools.partial(MODULE.init, genome=whole), jax.random.key(0), data(1, 26, 26, 3))
    return fill(shapes)


def by_hand(variables, config, x):
    """The network of a config in plain JAX, from its own (small) variables."""
    params, statistics = variables["params"], variables["batch_stats"]

    def convolved(x, own, name, stride=1, groups=1):
        kernel = own["params"][name]["kernel"]
        side = kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(side, side)] * 2, feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def normed(x, own, name):
        told = {**own["batch_stats"][name], **own["params"][name]}
        mean, var, gain, bias = (told[field][None, None, None] for field in ("mean", "var", "scale", "bias"))
        return (x - mean) / jnp.sqrt(var + 1e-5) * gain + bias

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"][None]

    def block(x, name, stride, act, squeeze):
        own, y = {"params": params[name], "batch_stats": statistics[name]}, x
        if name != "first":
            y = act(normed(convolved(y, own, "widen"), own, "widen_norm"))
        y = act(normed(convolved(y, own, "depthwise", stride, groups=y.shape[-1]), own, "depthwise_norm"))
        if squeeze:
            weights = dense(jax.nn.relu(dense(y.mean((1, 2)), own["params"]["squeeze"])), own["params"]["excite"])
            y = y * jnp.clip(weights / 6 + 0.5, 0, 1)[:, None, None]
        y = normed(convolved(y, own, "narrow"), own, "narrow_norm")
        return x + y if x.shape == y.shape else y

    def swish(x):
        return x * jnp.clip(x / 6 + 0.5, 0, 1)

    x = block(swish(normed(convolved(x, variables, "stem", 2), variables, "stem_norm")), "first", 1, jax.nn.relu, False)
    for s, (stage, told) in enumerate(zip(FAMILY.stages, config["stages"], strict=True)):
        for i in range(len(told["blocks"])):
            act = jax.nn.relu if s < 1 else swish
            x = block(x, f"stage_{s}_block_{i}", stage.stride if i == 0 else 1, act, stage.squeeze)
    x = swish(normed(convolved(x, variables, "last"), variables, "last_norm")).mean((1, 2))
    x = swish(x @ params["features"]["kernel"])
    return dense(x, params["classifier"])


@functools.cache
def masked():
    return jax.jit(lambda variables, genome, x: MODULE.apply(variables, x, genome=genome))


@pytest.mark.parametrize("config", CONFIGS, ids=["whole", "small"])
def test_a_candidate_is_the_network_that_the_space_counts(config):
    genome, side = SPACE.decode(SPACE.encode(config)), config["resolution"]
    x = data(2, side, side, 3)
    small = extract(MODULE, variables(), genome, x[:1])
    cost = jax.jit(FAMILY.costs)(genome)
    assert sum(leaf.size for leaf in jax.tree.leaves(small.params["params"])) == int(cost.parameters)
    macs = sum(site.macs for site in jc.sites(small.fn, small.params, x[:1]))
    np.testing.assert_allclose(2 * macs, float(cost.flops), rtol=1e-6)
    wanted = jax.jit(functools.partial(by_hand, config=config))(small.params, x=x)
    scale = float(jnp.abs(wanted).max())
    for found in (masked()(variables(), genome, x), jax.jit(small.fn)(small.params, x)):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * scale)


def test_the_published_space():
    """MobileNet() at full size, traced alone: parameters and FLOPs of its largest network."""
    family = MobileNet()
    module, genome = ElasticMobileNet(family), plain(family.space().decode(largest(family.space())))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(module.init, genome=genome), jax.random.key(0), x)
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])}
    cost = jax.jit(family.costs)(family.space().decode(largest(family.space())))
    assert sum(leaf.size for path, leaf in paths.items() if "transform" not in path) == int(cost.parameters)
    found = jc.sites(lambda variables, x: module.apply(variables, x, genome=genome), shapes, x)
    np.testing.assert_allclose(2 * sum(site.macs for site in found), float(cost.flops), rtol=1e-6)


def test_what_it_refuses():
    x = jnp.ones((1, 26, 26, 3))
    for wrong, match in (({"expansions": (1, 4)}, "has no first convolution"), ({"depths": (0, 1)}, "is always there")):
        family = MobileNet(**wrong)
        net = ElasticNetwork(ElasticMobileNet(family), family.space())
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(net.init, jax.random.key(0), x)
    genome = plain(SPACE.decode(largest(SPACE)))
    with pytest.raises(ValueError, match=r"images of \(20, 20\), where the genome has resolution=26"):
        jax.eval_shape(functools.partial(MODULE.apply, genome=genome), variables(), x[:, :20, :20])
