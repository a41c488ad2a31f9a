"""What a child keeps of its parent's weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcompress.search.large_scale.dna import DNA, Bounds, vertices
from jaxcompress.search.large_scale.mutations import Child, Mutation
from jaxcompress.search.large_scale.network import Weights, drawn_weights


def inherited(bounds: Bounds, parent: DNA, weights: Weights, child: Child, key: jax.Array) -> Weights:
    """The weights that a child begins with: its parent's wherever their shape is the same, fresh ones elsewhere.

    So a mutation of the learning rate keeps all, one of a filter's size discards this filter, one of the number of
    channels this and the next ones, a reset everything. A one-to-one layer changes no other: the child computes what
    its parent does.

    Args:
        bounds: of both networks.
        parent: its network.
        weights: its trained weights.
        child: made from it by `mutate`.
        key: of the fresh ones; consumed.

    References:
        Real et al., 2017, section 3.3. https://arxiv.org/abs/1703.01041
    """
    fresh = drawn_weights(bounds, child.dna, key)
    before, after = _shapes(bounds, parent), _shapes(bounds, child.dna)
    source = jnp.maximum(child.origin, 0)
    kept = (child.origin >= 0) & (before[source] == after).all(-1) & child.dna.convolution
    same_end = vertices(bounds, parent).channels[-1] == vertices(bounds, child.dna).channels[-1]
    same_end &= child.mutation != Mutation.RESET_WEIGHTS
    return Weights(
        jnp.where(kept[:, None, None, None, None], weights.kernels[source], fresh.kernels),
        jnp.where(kept[:, None], weights.biases[source], fresh.biases),
        jnp.where(same_end, weights.output, fresh.output),
        jnp.where(same_end, weights.output_bias, fresh.output_bias),
    )


def _shapes(bounds: Bounds, dna: DNA) -> jax.Array:
    """Of each layer window, channels in and out: int32 ``[layers, 4]``."""
    channels = vertices(bounds, dna).channels
    return jnp.concatenate([dna.window, channels[:-1, None], channels[1:, None]], axis=-1)
