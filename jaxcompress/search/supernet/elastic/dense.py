"""A dense layer of elastic width."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxcompress.search.supernet.elastic.layer import (
    Choice,
    Weighted,
    checked_width,
    is_static,
    leading,
    readable,
    stored,
)


class ElasticDense(Weighted):
    """`flax.linen.Dense` that gives as many features as it is told, the first ones; input may be elastic too.

    Its attributes are those of `Weighted`.

    Example:
        >>> layer = ElasticDense(4)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> layer.apply(variables, jnp.ones((1, 3)), 2).shape
        (1, 2)
        >>> layer.apply(variables, jnp.ones((1, 3)), jnp.int32(2))[0, 2:].tolist()
        [0.0, 0.0]
    """

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
        x, kernel, bias = self.ready(x, kernel, size)
        return self.finished(x @ kernel, bias, width)
