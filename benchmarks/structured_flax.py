"""The architectures of `benchmarks.structured` in Flax; `structured_torch` has the same in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def norm(x: jax.Array) -> jax.Array:
    return nn.BatchNorm(use_running_average=True)(x)


def conv(x: jax.Array, features: int, size: int = 3, stride: int = 1, groups: int = 1) -> jax.Array:
    """Convolution without bias, batch norm."""
    return norm(nn.Conv(features, (size, size), stride, feature_group_count=groups, use_bias=False)(x))


class Basic(nn.Module):
    """Two convolutions beside a shortcut, projected where the shape changes (He et al., 2016, option B)."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv(nn.relu(conv(x, self.features, stride=self.stride)), self.features)
        return nn.relu(y + (x if x.shape == y.shape else conv(x, self.features, 1, self.stride)))


class ResNet20(nn.Module):
    """Images (batch, 32, 32, 3) to 10 logits."""

    width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(conv(x, self.width))
        for stage in range(3):
            for block in range(3):
                x = Basic(self.width * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(10)(x.mean((1, 2)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(conv(nn.relu(conv(x, self.features, 1)), self.features, 3, self.stride))
        y = conv(y, 4 * self.features, 1)
        return nn.relu(y + (x if x.shape == y.shape else conv(x, 4 * self.features, 1, self.stride)))


class ResNet50(nn.Module):
    """ImageNet's, 25.6 M parameters by default."""

    width: int = 64
    blocks: Sequence[int] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.relu(conv(x, self.width, 7, 2)), (3, 3), (2, 2), "SAME")
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = Bottleneck(self.width * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class ViT(nn.Module):
    """ViT-B/16 by default, 86 M parameters."""

    dim: int = 768
    heads: int = 12
    layers: int = 12
    patch: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.dim, (self.patch, self.patch), self.patch)(x)
        x = x.reshape(x.shape[0], -1, self.dim)
        token = self.param("token", nn.initializers.normal(0.02), (1, 1, self.dim))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.dim)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.layers):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(h, h)
            x = x + nn.Dense(self.dim)(nn.gelu(nn.Dense(4 * self.dim)(nn.LayerNorm()(x))))
        return nn.Dense(1000)(nn.LayerNorm()(x)[:, 0])


class MobileNet(nn.Module):
    """Depthwise separable convolutions (Howard et al., 2017) for images of 32 x 32."""

    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(conv(x, self.width))
        for factor, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (16, 1)):
            x = nn.relu(conv(x, x.shape[-1], 3, stride, x.shape[-1]))
            x = nn.relu(conv(x, factor * self.width, 1))
        return nn.Dense(10)(x.mean((1, 2)))


class DenseNet(nn.Module):
    """Three dense blocks of four layers (Huang et al., 2017) for images of 32 x 32."""

    growth: int = 12

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(2 * self.growth, (3, 3), use_bias=False)(x)
        for block in range(3):
            for _ in range(4):
                y = nn.Conv(4 * self.growth, (1, 1), use_bias=False)(nn.relu(norm(x)))
                y = nn.Conv(self.growth, (3, 3), use_bias=False)(nn.relu(norm(y)))
                x = jnp.concatenate([x, y], -1)
            if block < 2:
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(norm(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(nn.relu(norm(x)).mean((1, 2)))


class LSTM(nn.Module):
    """A dense layer, an LSTM over time, a head on the last state."""

    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(self.width))(nn.relu(nn.Dense(64)(x)))[:, -1])


class FusedGQA(nn.Module):
    """A block with one projection for queries, keys and values, shared key heads, and a gated MLP."""

    dim: int = 128
    heads: int = 8
    kv_heads: int = 2

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(100, self.dim)(tokens)
        (batch, length, _), width = x.shape, self.dim // self.heads
        sizes = self.heads * width, self.kv_heads * width
        fused = nn.Dense(sizes[0] + 2 * sizes[1], use_bias=False)(nn.LayerNorm()(x))
        parts = jnp.split(fused, [sizes[0], sizes[0] + sizes[1]], axis=-1)
        q, k, v = (part.reshape(batch, length, -1, width) for part in parts)
        k, v = (jnp.repeat(part, self.heads // self.kv_heads, 2) for part in (k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / width**0.5)
        x = x + nn.Dense(self.dim, use_bias=False)(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape))
        h = nn.LayerNorm()(x)
        x = x + nn.Dense(self.dim)(nn.silu(nn.Dense(256)(h)) * nn.Dense(256)(h))
        return nn.Dense(100)(nn.LayerNorm()(x))


class RawMatmul(nn.Module):
    """Two parameters and no layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = self.param("a", nn.initializers.lecun_normal(), (16, 64))
        b = self.param("b", nn.initializers.lecun_normal(), (64, 10))
        return nn.relu(x @ a) @ b


class Flip(nn.Module):
    """Every unit meets its mirror image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(h + h[:, ::-1])


class ChannelShuffle(nn.Module):
    """Pointwise, shuffle of two halves, depthwise, pointwise (Zhang et al., 2018)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(conv(x, 32, 1))
        x = x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)
        x = nn.relu(conv(conv(x, 32, groups=32), 48, 1))
        return nn.Dense(10)(x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture: the module whose analysis is timed, and a small one whose outputs are compared."""

    module: nn.Module
    small: nn.Module
    shape: tuple[int, ...]
    tokens: bool = False


IMAGE = (2, 32, 32, 3)
CASES = {
    "resnet20": Case(ResNet20(), ResNet20(8), IMAGE),
    "resnet50": Case(ResNet50(), ResNet50(8, (1, 1, 2, 1)), (1, 224, 224, 3)),
    "vit-b/16": Case(ViT(), ViT(24, 3, 2), (1, 224, 224, 3)),
    "mobilenet": Case(MobileNet(), MobileNet(8), IMAGE),
    "densenet": Case(DenseNet(), DenseNet(4), IMAGE),
    "lstm": Case(LSTM(), LSTM(16), (2, 16, 32)),
    "fused qkv gqa": Case(FusedGQA(), FusedGQA(), (2, 16), tokens=True),
    "raw matmul": Case(RawMatmul(), RawMatmul(), (4, 16)),
    "x + flip(x)": Case(Flip(), Flip(), (4, 16)),
    "channel shuffle": Case(ChannelShuffle(), ChannelShuffle(), IMAGE),
}
