"""Linen's convolutions in all their forms: one kernel shape rule, many dimension numbers."""

import functools

import flax.linen as nn

from tests.zoo.model import data, entry, linen

IMAGES = (2, 7, 7, 6)

# name -> (options of the layer, input shape, reading of the kernel's axes)
CONVOLUTIONS = {
    "same": (dict(features=8, kernel_size=(3, 3)), IMAGES, "iiio"),
    "valid": (dict(features=8, kernel_size=(3, 2), padding="VALID"), IMAGES, "iiio"),
    "circular": (dict(features=8, kernel_size=(3, 3), padding="CIRCULAR"), IMAGES, "iiio"),
    "strided": (dict(features=8, kernel_size=(3, 3), strides=(2, 1)), IMAGES, "iiio"),
    "dilated": (dict(features=8, kernel_size=(3, 3), kernel_dilation=2), IMAGES, "iiio"),
    "input_dilated": (dict(features=8, kernel_size=(3, 3), input_dilation=2, padding=((1, 1), (2, 0))), IMAGES, "iiio"),
    "grouped": (dict(features=8, kernel_size=(3, 3), feature_group_count=2), IMAGES, "iiio"),
    "depthwise": (dict(features=6, kernel_size=(3, 3), feature_group_count=6), IMAGES, "iiio"),
    "pointwise": (dict(features=8, kernel_size=(1, 1)), IMAGES, "iiio"),
    "1d": (dict(features=8, kernel_size=(3,)), (2, 9, 6), "iio"),
    "1d_causal": (dict(features=8, kernel_size=(3,), padding="CAUSAL"), (2, 9, 6), "iio"),
    "3d": (dict(features=4, kernel_size=(2, 3, 2)), (2, 4, 5, 4, 3), "iiiio"),
}
TRANSPOSED = {
    "": dict(features=8, kernel_size=(3, 3)),
    "_strided": dict(features=8, kernel_size=(3, 3), strides=(2, 2)),
    "_kernel": dict(features=8, kernel_size=(3, 3), strides=(2, 2), transpose_kernel=True),
}


def convolution(name):
    options, shape, axes = CONVOLUTIONS[name]
    return linen(nn.Conv(**options), data(*shape), weights={"params/kernel": axes})


def transposed(name):
    axes = "iioi" if TRANSPOSED[name].get("transpose_kernel") else "iiio"
    return linen(nn.ConvTranspose(**TRANSPOSED[name]), data(2, 5, 5, 6), weights={"params/kernel": axes})


def local():
    """Every position has its own kernel: (height, width, in, out) with the positions in step."""
    return linen(nn.ConvLocal(4, (3, 3), padding="VALID"), data(2, 5, 5, 3), weights={"params/kernel": "ssio"})


MODELS = (
    *(entry(f"conv_{name}", functools.partial(convolution, name)) for name in CONVOLUTIONS),
    *(entry(f"conv_transpose{name}", functools.partial(transposed, name)) for name in TRANSPOSED),
    entry("conv_local", local),
)
