"""LAMP: magnitude relative to what would be left of the layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part
from jaxcompress.prune.layers import layer_count
from jaxcompress.prune.scores.lp import wide
from jaxcompress.solvers.placement import keeping_placement


@partial(jax.jit, static_argnames="stack")
def lamp(w: jax.Array, *, stack: tuple[int, ...] = ()) -> jax.Array:
    """``w_u ** 2 / sum of w_v ** 2 over the weights v that come no later than u`` when the largest come first.

    Within a layer the order is that of the magnitudes (among equals the lower flat index is first), and the first
    weight of every layer scores 1: compared on one scale, no layer is emptied. A layer of zeros scores 0.

    Args:
        w: weights of a layer, any float dtype.
        stack: axes along which ``w`` holds separate layers.

    Returns:
        Scores in ``[0, 1]``, of the shape of ``w``.

    Example:
        >>> [f"{score:.4f}" for score in lamp(jnp.array([1.0, -3.0, 2.0]))]
        ['0.0714', '1.0000', '0.3077']

    References:
        Lee et al., 2021, equation 3. https://arxiv.org/abs/2010.07611
    """
    return keeping_placement(partial(_scored, stack=stack), [wide(w)])[0]


def _scored(arrays: list[jax.Array], *, stack: tuple[int, ...]) -> list[jax.Array]:
    front = tuple(range(len(stack)))
    moved = jnp.moveaxis(arrays[0], stack, front)
    rows = moved.reshape(layer_count(arrays[0].shape, stack), -1)
    return [jnp.moveaxis(jax.vmap(_layer)(rows).reshape(moved.shape), front, stack)]


def _layer(w: jax.Array) -> jax.Array:
    size = jnp.abs(w)
    largest = size.max(initial=0)
    square = jnp.square(size / jnp.where(largest > 0, largest, 1))  # so that squares of small weights do not vanish
    order = jnp.argsort(-size, stable=True)
    ranked = square[order]
    total = jnp.cumsum(ranked)
    return jnp.zeros_like(square).at[order].set(jnp.where(total > 0, ranked / jnp.where(total > 0, total, 1), 0))


@dataclasses.dataclass(frozen=True)
class LAMP:
    """Scores by `lamp`, layer by layer; the layers of a stacked leaf by themselves where ``sites`` show the stack."""

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        return [lamp(dense(part.array), stack=part.stack) for part in parts]
