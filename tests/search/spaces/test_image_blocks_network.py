"""The masked network of image blocks computes and learns what the one in Flax does; its padding never learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.spaces import ImageBlocks, ImageBlocksNetwork
from tests.search.spaces.networks import Images

BLOCKS = ImageBlocks(classes=3, channels=2, size=9, widths=(16, 32), stages=2, depth=(1, 2))
NETWORK, SPACE = ImageBlocksNetwork(BLOCKS), BLOCKS.space()
CONFIGS = {
    "plain": [(32, [{"kind": "plain", "kernel": 5}]), (16, [{"kind": "plain", "kernel": 3}])],
    "residual": [
        (16, [{"kind": "residual", "kernel": 3}, {"kind": "residual", "kernel": 5}]),
        (16, [{"kind": "residual", "kernel": 5}]),
    ],
    "inception": [
        (16, [{"kind": "inception", "split": (2, 4, 1, 1)}]),
        (32, [{"kind": "inception", "split": (0, 4, 4, 0)}, {"kind": "inception", "split": (1, 3, 3, 1)}]),
    ],
    "dilated": [
        (16, [{"kind": "dilated", "dilation": 2}]),
        (16, [{"kind": "dilated", "dilation": 4}, {"kind": "residual", "kernel": 3}]),
    ],
}
IMAGES = jax.random.normal(jax.random.key(3), (4, 9, 9, 2))
INIT, APPLY = jax.jit(NETWORK.init), jax.jit(NETWORK.apply)


def config(name):
    return {"stages": [{"width": width, "blocks": blocks} for width, blocks in CONFIGS[name]]}


def genome(name):
    return SPACE.decode(SPACE.encode(config(name)))


@jax.jit
def learning(params, genome):
    """Gradients of some loss, and the logits."""

    def loss(params):
        logits = NETWORK.apply(params, genome, IMAGES)
        return jnp.sum(logits[:, 0] ** 2 + logits[:, 1] - logits[:, 2] / 2), logits

    return jax.grad(loss, has_aux=True)(params)


def in_flax(small, own):
    """The same network as a module: logits with the statistics of the batch."""
    module = Images(own, BLOCKS.classes, train=True)
    order = [small["stem"]]
    for stage in small["stages"]:
        for layers in stage:
            names = ("first", "second", "one", "before_three", "three", "before_five", "five", "pool", "shortcut")
            order += [layers[name] for name in names if name in layers]
    params = {"Dense_0": small["head"]}
    for i, layer in enumerate(order):
        params[f"Conv_{i}"] = {"kernel": layer["kernel"]}
        params[f"BatchNorm_{i}"] = {"scale": layer["scale"], "bias": layer["offset"]}
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes["params"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["batch_stats"])
    variables = {"params": params, "batch_stats": zeros}
    return jax.jit(lambda v: module.apply(v, IMAGES, mutable=["batch_stats"])[0])(variables)


@pytest.mark.parametrize("name", CONFIGS)
def test_as_the_small_network(name):
    """The network that is cut out computes the same, of as many parameters as costs say."""
    own = genome(name)
    params = INIT(own, jax.random.key(2))
    fn, small = NETWORK.extract(params, config(name))
    assert sum(leaf.size for leaf in jax.tree.leaves(small)) == int(BLOCKS.costs(own).parameters)
    np.testing.assert_allclose(jax.jit(fn)(small, IMAGES), APPLY(params, own, IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # compiles for 20 seconds
@pytest.mark.parametrize("name", CONFIGS)
def test_learns_as_the_module_in_flax(name):
    """Logits after a step of training; what begins as zero is padding and stays it."""
    own = genome(name)
    params = INIT(own, jax.random.key(2))
    moved = jax.tree.map(lambda p, g: p - 0.05 * g, params, learning(params, own)[0])
    small = NETWORK.extract(moved, config(name))[1]
    np.testing.assert_allclose(in_flax(small, config(name)), learning(moved, own)[1], rtol=1e-4, atol=1e-4)
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(small))
    assert sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(moved)) == int(BLOCKS.costs(own).parameters)


def test_one_program(compilations):
    """Kinds, kernels, dilations, splits, widths and depths are data."""
    APPLY(INIT(genome("plain"), jax.random.key(0)), genome("plain"), IMAGES)
    before = compilations("apply"), compilations("init")
    genes = jax.jit(lambda key: SPACE.decode(SPACE.sample(key, 8)))(jax.random.key(0))
    for i in range(8):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], genes)
        assert np.isfinite(APPLY(INIT(own, jax.random.key(i)), own, IMAGES)).all()
    assert (compilations("apply"), compilations("init")) == before


def test_a_config_of_another_space_is_refused():
    with pytest.raises(ValueError, match="64 is not one of"):
        NETWORK.extract(INIT(genome("plain"), jax.random.key(0)), {"stages": [{"width": 64, "blocks": [{}]}] * 2})
