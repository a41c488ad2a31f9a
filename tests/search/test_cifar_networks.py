"""The space of `benchmarks.nas_cifar`: multiply-adds are those of the arrays, and ResNet-8 is the one of the paper."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from benchmarks import cifar_networks, nas_cifar, resnet

SPACE = nas_cifar.space()
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def test_multiply_adds_are_those_of_the_arrays(monkeypatch):
    """Each convolution, as it is traced, has its output times what one entry of it sums."""
    counted = []

    def counting(convolution, summed):
        def count(x, kernel, stride=1):
            y = convolution(x, kernel, stride)
            counted.append(y.size * summed(kernel))
            return y

        return count

    monkeypatch.setattr(
        cifar_networks, "convolve", counting(cifar_networks.convolve, lambda kernel: kernel.size // kernel.shape[-1])
    )
    monkeypatch.setattr(cifar_networks, "depthwise", counting(cifar_networks.depthwise, lambda kernel: 9))
    genes = SPACE.sample(jax.random.key(0), 12)
    wanted = jax.jit(jax.vmap(cifar_networks.multiply_adds))(SPACE.decode(genes))
    kinds = set()
    for number, total in enumerate(wanted.tolist()):
        config = SPACE.config(jax.tree.map(lambda x, at=number: x[at], genes))
        kinds |= {len(config["pixels 32"]["blocks"]), 4 * len(config["pixels 4"]["blocks"])}
        kinds |= {block.kind for block in cifar_networks.blocks(config)}
        counted.clear()
        params = jax.eval_shape(lambda key, config=config: cifar_networks.init(config, key), jax.random.key(0))
        jax.eval_shape(lambda p, x, config=config: cifar_networks.apply(p, config, x), params, IMAGES)
        assert sum(counted) + params["head"]["kernel"].size == total
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == cifar_networks.parameters(config)
    assert kinds == {0, 1, 4, 8, *cifar_networks.KINDS}  # all of the space was met


class ResNet8(nn.Module):
    """That of `benchmarks.resnet` with one block a stage."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(resnet.convolution(x, 8, 1, train))
        for stage in range(3):
            x = resnet.Block(8 * 2**stage, 2 if stage else 1)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.standard_promotion
def test_the_one_to_beat_is_a_resnet():
    """The same multiply-adds and parameters as the Flax module, which `jaxcompress.sites` counts."""
    model, x = ResNet8(), jnp.zeros((1, 32, 32, 3))
    variables = model.init(jax.random.key(0), x)
    total = sum(site.macs for site in jc.sites(model.apply, variables, x))
    recipe = {"learning_rate": 0.01, "weight_decay": 0.01, "label_smoothing": 0.0}
    assert nas_cifar.multiply_adds(cifar_networks.RESNET8 | recipe) == nas_cifar.MULTIPLY_ADDS == total
    entries = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert cifar_networks.parameters(cifar_networks.RESNET8) == entries


def test_given_moments_are_used():
    """With the moments that a batch has, single images get the logits that they had in it."""
    config = cifar_networks.RESNET8
    params = cifar_networks.init(config, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    logits, moments = cifar_networks.apply(params, config, images)
    alone, _ = cifar_networks.apply(params, config, images[:1], moments)
    np.testing.assert_allclose(alone, logits[:1], atol=1e-5)
