"""A small VGG for CIFAR in Flax Linen: two convolutions in each stage (after Simonyan and Zisserman, 2015)."""

from __future__ import annotations

import flax.linen as nn
import jax

from benchmarks.resnet import convolution


class VGGSmall(nn.Module):
    """Images (batch, 32, 32, 3) to 10 logits: convolutions of ``width``, 2 and 4 times as many channels."""

    width: int = 16
    stages: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for stage in range(self.stages):
            for _ in range(2):
                x = nn.relu(convolution(x, self.width * 2**stage, 1, train))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.mean((1, 2)))
