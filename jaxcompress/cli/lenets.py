"""The two networks of the demo, as plain functions of a parameter dict (LeCun et al. 1998, as in Han et al. 2016)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Model:
    """A network: its function and the shapes of its kernels.

    Attributes:
        title: its name for people.
        fn: ``fn(params, images) -> logits``; images ``(n, 28, 28)`` float32 in ``[0, 1]``, logits ``(n, 10)``.
        kernels: layer name to kernel shape; the last axis is the layer's output.
    """

    title: str
    fn: Callable[[Any, jax.Array], jax.Array]
    kernels: dict[str, tuple[int, ...]]

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters: He-normal kernels, zero biases."""
        params = {}
        for name, layer_key in zip(self.kernels, jax.random.split(key, len(self.kernels)), strict=True):
            shape = self.kernels[name]
            scale = math.sqrt(2.0 / math.prod(shape[:-1]))
            kernel = jax.random.normal(layer_key, shape, jnp.float32) * scale
            params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[-1], jnp.float32)}
        return params


def lenet300(params: Params, images: jax.Array) -> jax.Array:
    """LeNet-300-100: three fully connected layers, 266,610 parameters."""
    x = images.reshape(len(images), 784)
    x = jax.nn.relu(_dense(params["dense_0"], x))
    x = jax.nn.relu(_dense(params["dense_1"], x))
    return _dense(params["dense_2"], x)


def lenet5(params: Params, images: jax.Array) -> jax.Array:
    """LeNet-5 in its Caffe form (20-50-500-10): two convolutions, two fully connected layers, 431,080 parameters."""
    x = _halve(_conv(params["conv_0"], images[..., None]))
    x = _halve(_conv(params["conv_1"], x))
    x = jax.nn.relu(_dense(params["dense_0"], x.reshape(len(images), 800)))
    return _dense(params["dense_1"], x)


MODELS = {
    "lenet300": Model("LeNet-300-100", lenet300, {"dense_0": (784, 300), "dense_1": (300, 100), "dense_2": (100, 10)}),
    "lenet5": Model(
        "LeNet-5",
        lenet5,
        {"conv_0": (5, 5, 1, 20), "conv_1": (5, 5, 20, 50), "dense_0": (800, 500), "dense_1": (500, 10)},
    ),
}


def _dense(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"][None, :]


def _conv(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + layer["bias"][None, None, None, :]


def _halve(x: jax.Array) -> jax.Array:
    """2 x 2 max-pooling. The reshaped maximum has a gradient that is far cheaper on a CPU than `reduce_window`'s."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
