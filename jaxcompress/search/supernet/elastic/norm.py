"""Batch normalization of elastic width."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.core.dtypes import wider
from jaxcompress.search.supernet.elastic.layer import (
    Choice,
    checked_width,
    first_channels,
    is_static,
    leading,
    stored,
    tell,
)


class ElasticBatchNorm(nn.Module):
    """`flax.linen.BatchNorm` over the channels that are there: the others are zero, before and after.

    The running statistics belong to whichever subnets they were computed with; set those of one subnet with
    `jaxcompress.search.supernet.recalibrated`. In training, the statistics of channels that are not there stay.

    Attributes:
        use_running_average: False in training: normalizes by the batch, and updates ``batch_stats``.
        momentum: of the running statistics.
        epsilon: added to the variance.
        use_scale: whether there is a scale.
        use_bias: whether there is a bias.
        dtype: of the result; default that of the input.
        param_dtype: of the parameters and statistics.

    Example:
        >>> layer = ElasticBatchNorm(use_running_average=True)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> [round(float(y), 3) for y in layer.apply(variables, jnp.ones((1, 3)), jnp.int32(2))[0]]
        [1.0, 1.0, 0.0]
    """

    use_running_average: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, width: Choice = None) -> jax.Array:
        """Applies the layer.

        Args:
            x: ``[..., channels]``; fewer than the whole layer has are the first ones.
            width: how many channels; an array masks, otherwise those of ``x``.
        """
        channels = x.shape[-1]
        checked_width(self, width, channels)
        wide = x.astype(wider(x.dtype, jnp.float32))
        means, variances = (self._statistic(name, channels) for name in ("mean", "var"))
        mean, variance = (leading(one.value, {0: channels}) for one in (means, variances))
        tell(self, "batch_stats", {"mean": mean, "var": variance})
        told = {}
        if self.use_scale:
            told["scale"] = stored(self, "scale", nn.initializers.ones_init(), (channels,), self.param_dtype)
        if self.use_bias:
            told["bias"] = stored(self, "bias", nn.initializers.zeros_init(), (channels,), self.param_dtype)
        told = {name: leading(value, {0: channels}) for name, value in told.items()}
        tell(self, "params", told)
        if not self.use_running_average:
            rest = tuple(range(x.ndim - 1))
            centre, spread = jnp.mean(wide, rest), jnp.var(wide, rest)
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                self._follow(means, centre, width)
                self._follow(variances, spread, width)
            mean, variance = centre, spread
        row = (None,) * (x.ndim - 1)
        gain = jax.lax.rsqrt(variance.astype(wide.dtype) + self.epsilon)
        if self.use_scale:
            gain = gain * told["scale"].astype(wide.dtype)
        y = (wide - mean.astype(wide.dtype)[row]) * gain[row]
        if self.use_bias:
            y = y + told["bias"].astype(wide.dtype)[row]
        return first_channels(y.astype(self.dtype or x.dtype), width)

    def _statistic(self, name: str, channels: int) -> nn.Variable:
        init = jnp.zeros if name == "mean" else jnp.ones
        return self.variable("batch_stats", name, init, (channels,), self.param_dtype)

    def _follow(self, running: nn.Variable, now: jax.Array, width: Choice) -> None:
        """Moves a running statistic towards that of the batch, for the channels that are there."""
        old = running.value
        size = now.shape[0]
        new = self.momentum * old[:size] + (1 - self.momentum) * now.astype(old.dtype)
        if not is_static(width):
            new = jnp.where(jnp.arange(size) < width, new, old[:size])
        running.value = old.at[:size].set(new)
