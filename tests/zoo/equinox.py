"""Equinox modules: kernels are (out, in) and layers are vmapped by the user."""

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.zoo.model import data, entry, fill


def module(make, *inputs, weights):
    """Factory result for an Equinox module of one example."""
    abstract = eqx.filter_eval_shape(make, jax.random.key(0))
    shapes, static = eqx.partition(abstract, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def fn(params, *inputs):
        return jax.vmap(eqx.combine(params, static))(*inputs)

    return fn, fill(shapes), inputs, {"weights": weights}


class ConvNet(eqx.Module):
    """Channels first, as Equinox has them."""

    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
        self.head = eqx.nn.Linear(8 * 4 * 4, 5, key=key)

    def __call__(self, x):
        return self.head(jnp.ravel(jax.nn.relu(self.conv(x))))


def mlp():
    def make(key):
        return eqx.nn.MLP(16, 5, 24, 2, key=key)

    return module(make, data(4, 16), weights={f"layers/{i}/weight": "oi" for i in range(3)})


def conv():
    return module(ConvNet, data(2, 3, 6, 6), weights={"conv/weight": "oiii", "head/weight": "oi"})


MODELS = (
    entry("equinox_mlp", mlp),
    entry("equinox_conv", conv),
)
