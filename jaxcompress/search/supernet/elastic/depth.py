"""Elastic depth: a block that can be skipped."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.search.supernet.elastic.layer import Choice, is_static


class ElasticDepth(nn.Module):
    """A block that is there or is skipped: without it, data passes as it is.

    Of a stage of blocks the first ``depth`` are there (Once-for-All):
    ``for i, block in enumerate(blocks): x = ElasticDepth(block)(x, i < depth)``.

    Attributes:
        block: the module; its result has the shape and dtype of its input.
        conditional: at a runtime choice, ``lax.cond`` saves the work of a block that is not there (under `vmap` it does
            not), where False computes both and selects. On CPU gradients of convolutions are slow inside of ``cond``.

    Example:
        >>> layer = ElasticDepth(nn.Dense(3))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)), True)
        >>> layer.apply(variables, jnp.ones((1, 3)), jnp.bool_(False)).tolist()
        [[1.0, 1.0, 1.0]]
    """

    block: nn.Module
    conditional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, active: Choice, *args: Any, **kwargs: Any) -> jax.Array:
        """Applies the block or not.

        Args:
            x: the data.
            active: whether the block is there; a runtime bool or a Python one.
            *args: of the block, after the data.
            **kwargs: of the block.
        """
        if self.is_initializing():
            there = self._checked(x, self.block(x, *args, **kwargs))
            return jnp.where(jnp.asarray(active, bool), there, x)
        if is_static(active):
            return self.block(x, *args, **kwargs) if active else x
        if self.conditional:
            return nn.cond(active, lambda own, x: own.block(x, *args, **kwargs), lambda own, x: x, self, x)
        return jnp.where(active, self._checked(x, self.block(x, *args, **kwargs)), x)

    def _checked(self, x: jax.Array, there: jax.Array) -> jax.Array:
        if (x.shape, x.dtype) != (there.shape, there.dtype):
            raise ValueError(
                f"ElasticDepth {self.name!r}: the block makes {there.dtype}{list(there.shape)} of "
                f"{x.dtype}{list(x.shape)}; what can be skipped must keep shape and dtype"
            )
        return there
