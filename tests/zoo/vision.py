"""Networks for images, the size of a stamp: what a user prunes most, each in the style of its paper.

Every kernel is Linen's, so its last axis is the output and every other one is contracted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxcompress.core.paths import flatten_with_paths
from tests.zoo.model import data, entry, linen

IMAGE = (2, 8, 8, 3)


def norm():
    return nn.BatchNorm(use_running_average=True)


def convolution(x, features, size=3, stride=1, groups=1):
    """Convolution without bias, then batch norm."""
    return norm()(nn.Conv(features, (size, size), stride, feature_group_count=groups, use_bias=False)(x))


class LeNet5(nn.Module):
    """LeCun et al., 1998: two convolutions, pooling, three dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(6, (5, 5))(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.relu(nn.Conv(10, (5, 5))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(5)(nn.relu(nn.Dense(12)(x)))


class VGG(nn.Module):
    """Simonyan & Zisserman, 2015, with batch norm."""

    @nn.compact
    def __call__(self, x):
        for widths in ((6, 8), (10,)):
            for features in widths:
                x = nn.relu(norm()(nn.Conv(features, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(5)(nn.relu(nn.Dense(12)(x.reshape(x.shape[0], -1))))


class Residual(nn.Module):
    """He et al., 2016: shortcuts of option A (strided, padded with zero channels) or B (projected)."""

    option: str
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = convolution(nn.relu(convolution(x, self.features, stride=self.stride)), self.features)
        if self.stride > 1 and self.option == "B":
            x = convolution(x, self.features, 1, self.stride)
        elif self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Two stages of the CIFAR network."""

    option: str

    @nn.compact
    def __call__(self, x):
        x = nn.relu(convolution(x, 4))
        for features, stride in ((4, 1), (8, 2), (8, 1)):
            x = Residual(self.option, features, stride)(x)
        return nn.Dense(5)(x.mean((1, 2)))


class DenseNet(nn.Module):
    """Huang et al., 2017: each layer reads all before it, norm and activation first."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        for _ in range(2):
            y = nn.Conv(8, (1, 1), use_bias=False)(nn.relu(norm()(x)))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3), use_bias=False)(nn.relu(norm()(y)))], -1)
        x = nn.avg_pool(nn.Conv(6, (1, 1), use_bias=False)(nn.relu(norm()(x))), (2, 2), (2, 2))
        return nn.Dense(5)(nn.relu(norm()(x)).mean((1, 2)))


class Inception(nn.Module):
    """Szegedy et al., 2015: four branches, one of them pooled."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(convolution(x, 6))
        branches = [
            convolution(x, 4, 1),
            convolution(nn.relu(convolution(x, 6, 1)), 8),
            convolution(nn.relu(convolution(x, 4, 1)), 4, 5),
            convolution(nn.max_pool(x, (3, 3), padding="SAME"), 4, 1),
        ]
        return nn.Dense(5)(nn.relu(jnp.concatenate(branches, -1)).mean((1, 2)))


class MobileNet(nn.Module):
    """Howard et al., 2017: depthwise, then pointwise."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(convolution(x, 6, stride=2))
        for features in (8, 10):
            x = nn.relu6(convolution(x, x.shape[-1], groups=x.shape[-1]))
            x = nn.relu6(convolution(x, features, 1))
        return nn.Dense(5)(x.mean((1, 2)))


class Inverted(nn.Module):
    """Sandler et al., 2018 and Howard et al., 2019: expand, depthwise, squeeze and excite, project linearly."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.swish(convolution(x, 2 * x.shape[-1], 1))
        y = nn.swish(convolution(y, y.shape[-1], stride=self.stride, groups=y.shape[-1]))
        gate = nn.Dense(y.shape[-1])(nn.relu(nn.Dense(4)(y.mean((1, 2)))))
        y = convolution(y * nn.hard_sigmoid(gate)[:, None, None], self.features, 1)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Two inverted residual blocks, one with its shortcut."""

    @nn.compact
    def __call__(self, x):
        x = nn.swish(convolution(x, 6))
        x = Inverted(8, 2)(Inverted(6)(x))
        return nn.Dense(5)(nn.swish(convolution(x, 12, 1)).mean((1, 2)))


class GroupNormed(nn.Module):
    """A residual network with group norm (Wu & He, 2018), weights in four groups of channels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(8, (3, 3))(x)))
        y = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(12, (3, 3))(x)))
        x = x + nn.GroupNorm(num_groups=4)(nn.Conv(8, (3, 3))(y))
        return nn.Dense(5)(x.mean((1, 2)))


class Video(nn.Module):
    """Convolutions over time and space, (2+1)-dimensional at the end (Tran et al., 2018)."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(norm()(nn.Conv(6, (3, 3, 3))(x)))
        x = nn.max_pool(x, (1, 2, 2), (1, 2, 2))
        x = nn.relu(norm()(nn.Conv(8, (1, 3, 3))(x)))
        x = nn.relu(norm()(nn.Conv(4, (3, 1, 1))(x)))
        return nn.Dense(5)(x.mean((1, 2, 3)))


class ShuffleNet(nn.Module):
    """Zhang et al., 2018: grouped pointwise convolutions, a channel shuffle, a depthwise convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(convolution(x, 8))
        y = nn.relu(convolution(x, 8, 1, groups=2))
        y = y.reshape(*y.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(y.shape)
        y = convolution(convolution(y, 8, groups=8), 8, 1, groups=2)
        return nn.Dense(5)(nn.relu(x + y).mean((1, 2)))


class ShuffleNetV2(nn.Module):
    """Ma et al., 2018: half of the channels pass, then the halves are shuffled."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(convolution(x, 8))
        for _ in range(2):
            left, right = jnp.split(x, 2, -1)
            right = nn.relu(convolution(convolution(nn.relu(convolution(right, 6, 1)), 6, groups=6), 4, 1))
            x = jnp.stack([left, right], -1).reshape(x.shape)
        return nn.Dense(5)(x.mean((1, 2)))


class UpSampler(nn.Module):
    """Down by a stride, up by a transposed convolution with a skip, up again by a pixel shuffle (Shi et al., 2016)."""

    @nn.compact
    def __call__(self, x):
        skip = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.relu(nn.Conv(10, (3, 3), 2)(skip))
        x = nn.relu(nn.ConvTranspose(8, (3, 3), (2, 2))(x))
        x = nn.Conv(12, (3, 3))(jnp.concatenate([x, skip], -1))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
        return nn.Conv(3, (1, 1))(x.reshape(batch, 2 * height, 2 * width, channels // 4))


class ViT(nn.Module):
    """Dosovitskiy et al., 2021: patches, a class token, learned positions."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(12, (4, 4), (4, 4))(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])), x], 1)
        x = x + self.param("positions", nn.initializers.normal(1.0), (1, *x.shape[1:]))
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(3)(h, h)
            x = x + nn.Dense(12)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(5)(nn.LayerNorm()(x)[:, 0])


ATTENTION = {f"{name}/kernel": "ioo" for name in ("query", "key", "value")} | {"out/kernel": "iio"}


def model(module, *inputs, **kwargs):
    """Factory result whose weights are all kernels of the module."""
    fn, params, inputs, more = linen(module, *inputs, weights={}, **kwargs)
    paths, leaves, _ = flatten_with_paths(params)
    ndim = {path: leaf.ndim for path, leaf in zip(paths, leaves, strict=True) if path.endswith("kernel")}
    for path in ndim:
        tail = "/".join(path.split("/")[-2:])
        more["weights"][path] = ATTENTION.get(tail, "i" * (ndim[path] - 1) + "o")
    return fn, params, inputs, more


NETWORKS = {
    "lenet5": (LeNet5(), (2, 8, 8, 1)),
    "vgg": (VGG(), IMAGE),
    "resnet_a": (ResNet("A"), IMAGE),
    "resnet_b": (ResNet("B"), IMAGE),
    "densenet": (DenseNet(), IMAGE),
    "inception": (Inception(), IMAGE),
    "mobilenet": (MobileNet(), IMAGE),
    "mobilenet_v2": (MobileNetV2(), IMAGE),
    "group_norm": (GroupNormed(), IMAGE),
    "video": (Video(), (2, 3, 4, 4, 2)),
    "shufflenet": (ShuffleNet(), IMAGE),
    "shufflenet_v2": (ShuffleNetV2(), IMAGE),
    "up_sampler": (UpSampler(), IMAGE),
    "vit": (ViT(), IMAGE),
}


def network(name):
    module, shape = NETWORKS[name]
    return model(module, data(*shape))


PROMOTING = ("lenet5", "densenet")  # `nn.avg_pool` divides by an integer array

MODELS = tuple(
    entry(f"vision_{name}", functools.partial(network, name), *(["relaxed"] if name in PROMOTING else []))
    for name in NETWORKS
)
