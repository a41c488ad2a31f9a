"""A network of elastic layers, at one genome of runtime arrays."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search import Choice, IntRange, Repeated, Space
from jaxcompress.search.supernet import largest
from jaxcompress.search.supernet.elastic import (
    ElasticBatchNorm,
    ElasticConv,
    ElasticDense,
    ElasticDepth,
    OperationChoice,
)
from tests.zoo.model import data, entry, fill

SPACE = Space(
    {
        "width": Choice((4, 6)),
        "depth": IntRange(0, 2),
        "blocks": Repeated({"kernel": Choice((3, 5)), "expansion": Choice((6, 9, 12))}, times=2),
        "operation": Choice(("mean", "max")),
    }
)


class Inverted(nn.Module):
    """An inverted residual block: expand, depthwise, project (Once-for-All)."""

    @nn.compact
    def __call__(self, x, width, expansion, kernel):
        y = nn.relu(norm()(ElasticConv(12, (1,), use_bias=False, name="expand")(x, expansion), expansion))
        y = ElasticConv(12, (3, 5), depthwise=True, name="depthwise")(y, expansion, kernel)
        return x + norm()(ElasticConv(6, (1,), name="project")(nn.relu(y), width), width)


class ElasticNet(nn.Module):
    """A stem, blocks that can be skipped, one of two poolings."""

    blocks: int = 2

    @nn.compact
    def __call__(self, x, genome):
        width, chosen = genome["width"], genome["blocks"]
        x = nn.relu(norm()(ElasticConv(6, strides=2, name="stem")(x, width), width))
        for i in range(self.blocks):
            block = ElasticDepth(Inverted(name=f"block_{i}"))
            x = block(x, i < genome["depth"], width, chosen["expansion"][i], chosen["kernel"][i])
        pools = (lambda x: x.mean((1, 2)), lambda x: x.max((1, 2)))
        x = OperationChoice(pools)(x, genome["operation"])
        return ElasticDense(5, name="head")(x)


def norm():
    return ElasticBatchNorm(use_running_average=True)


def network():
    module, x = ElasticNet(blocks=1), data(2, 8, 8, 3)
    whole = jax.tree.map(lambda a: np.asarray(a).tolist(), SPACE.decode(largest(SPACE)))
    params = fill(jax.eval_shape(functools.partial(module.init, genome=whole), jax.random.key(0), x))
    genome = {
        "width": jnp.int32(4), "depth": jnp.int32(1), "operation": jnp.int32(0),
        "blocks": {"kernel": jnp.array([3, 5], jnp.int32), "expansion": jnp.array([9, 12], jnp.int32)},
    }  # fmt: skip
    kernels = {"expand/kernel": "iiio", "project/kernel": "iiio"}
    kernels |= {"depthwise/kernel": "iioo", "depthwise/transform_5_to_3": "oi"}  # of small kernels, one into the other
    weights = {f"params/block_0/{name}": axes for name, axes in kernels.items()}
    weights |= {"params/stem/kernel": "iiio", "params/head/kernel": "io"}
    return module.apply, params, (x,), {"kwargs": {"genome": genome}, "weights": weights}


MODELS = (entry("elastic_net", network),)
