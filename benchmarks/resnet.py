"""ResNet-20 for CIFAR in Flax Linen (He et al., 2016, section 4.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters (option A: strided, new channels are zero)."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(convolution(x, self.features, self.stride, train))
        y = convolution(y, self.features, 1, train)
        shortcut = x[:, :: self.stride, :: self.stride]
        new = self.features - shortcut.shape[-1]
        return nn.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, new))))


class ResNet20(nn.Module):
    """Images (batch, 32, 32, 3) to 10 logits; 0.27 M parameters at the width of the paper."""

    width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(convolution(x, self.width, 1, train))
        for stage, features in enumerate((self.width, 2 * self.width, 4 * self.width)):
            for block in range(3):
                x = Block(features, 2 if stage and not block else 1)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


def convolution(x: jax.Array, features: int, stride: int, train: bool) -> jax.Array:
    """3x3, then batch norm; makes submodules of the module that calls it."""
    x = nn.Conv(features, (3, 3), stride, use_bias=False)(x)
    return nn.BatchNorm(use_running_average=not train)(x)
