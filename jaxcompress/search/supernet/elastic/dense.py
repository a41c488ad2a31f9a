"""A dense layer of elastic width."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxcompress.search.supernet.elastic.layer import (
    Choice,
    checked_width,
    first_channels,
    is_static,
    leading,
    readable,
    stored,
    tell,
)


class ElasticDense(nn.Module):
    """`flax.linen.Dense` that gives as many features as it is told, the first ones; input may be elastic too.

    Attributes:
        features: of the whole layer.
        use_bias: whether there is a bias.
        dtype: to compute in; default that of input and parameters.
        param_dtype: of the parameters.
        kernel_init: for the kernel.
        bias_init: for the bias.

    Example:
        >>> layer = ElasticDense(4)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> layer.apply(variables, jnp.ones((1, 3)), 2).shape
        (1, 2)
        >>> layer.apply(variables, jnp.ones((1, 3)), jnp.int32(2))[0, 2:].tolist()
        [0.0, 0.0]
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array, width: Choice = None) -> jax.Array:
        """Applies the layer.

        Args:
            x: ``[..., inputs]``; fewer than the whole layer reads are the first ones.
            width: how many features; an array masks, a Python int slices, None takes all.
        """
        checked_width(self, width, self.features)
        kernel = stored(self, "kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        readable(self, x, kernel, 0)
        size = width if is_static(width) else None
        kernel = leading(kernel, {0: x.shape[-1], 1: size})
        bias = None
        if self.use_bias:
            bias = leading(stored(self, "bias", self.bias_init, (self.features,), self.param_dtype), {0: size})
        tell(self, "params", {"kernel": kernel} | ({} if bias is None else {"bias": bias}))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x @ kernel
        if bias is not None:
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return first_channels(y, width)
