"""A small VGG for CIFAR in Flax Linen: six convolutions in three stages (after Simonyan and Zisserman, 2015)."""

from __future__ import annotations

import flax.linen as nn
import jax

from benchmarks.resnet import convolution


class VGGSmall(nn.Module):
    """Images (batch, 32, 32, 3) to 10 logits: convolutions of ``width``, 2 and 4 times as many channels."""

    width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for features in (self.width, 2 * self.width, 4 * self.width):
            for _ in range(2):
                x = nn.relu(convolution(x, features, 1, train))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.mean((1, 2)))
