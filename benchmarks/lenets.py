"""The two networks of Han et al. 2016, in Flax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class LeNet300(nn.Module):
    """LeNet-300-100: 784-300-100-10, 266,610 parameters."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:  # [N, 28, 28] -> [N, 10]
        x = images.reshape(len(images), -1)
        x = nn.relu(nn.Dense(300, name="fc1")(x))
        x = nn.relu(nn.Dense(100, name="fc2")(x))
        return nn.Dense(10, name="fc3")(x)


class LeNet5(nn.Module):
    """LeNet-5 in its Caffe form: 20-50-500-10, 431,080 parameters."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:  # [N, 28, 28] -> [N, 10]
        x = _halved(Conv(20, name="conv1")(images[..., None]))
        x = _halved(Conv(50, name="conv2")(x))
        x = nn.relu(nn.Dense(500, name="fc1")(x.reshape(len(images), -1)))
        return nn.Dense(10, name="fc2")(x)


class LeNet5Convolutions(nn.Module):
    """The function of `LeNet5` with the same parameters, by convolutions: what one would run."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:  # [N, 28, 28] -> [N, 10]
        x = _halved(nn.Conv(20, (5, 5), padding="VALID", name="conv1")(images[..., None]))
        x = _halved(nn.Conv(50, (5, 5), padding="VALID", name="conv2")(x))
        x = nn.relu(nn.Dense(500, name="fc1")(x.reshape(len(images), -1)))
        return nn.Dense(10, name="fc2")(x)


class Conv(nn.Module):
    """A 5 x 5 convolution without padding, as matrix products over shifted views.

    Inside a `jax.lax.scan` on a CPU this trains ten times faster than `conv_general_dilated`.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [N, H, W, C] -> [N, H - 4, W - 4, features]
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (5, 5, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        n, height, width = x.shape[0], x.shape[1] - 4, x.shape[2] - 4
        patches = jnp.concatenate([x[:, :, j : j + width] for j in range(5)], -1)  # [N, H, W - 4, 5 C]
        if channels == 1:
            patches = jnp.concatenate([patches[:, i : i + height] for i in range(5)], -1)  # [N, H - 4, W - 4, 25 C]
            y = patches.reshape(-1, 25 * channels) @ kernel.reshape(-1, self.features)
        else:
            rows = kernel.reshape(5, 5 * channels, self.features)
            y = sum(patches[:, i : i + height].reshape(-1, 5 * channels) @ rows[i] for i in range(5))
        return y.reshape(n, height, width, self.features) + bias


def _halved(x: jax.Array) -> jax.Array:
    """2 x 2 max-pooling."""
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
