"""Wanda: magnitude times the norm of the input feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import dense
from jaxcompress.core.moments import Statistics
from jaxcompress.core.parts import Part
from jaxcompress.prune.scores.inputs import mean_square_inputs
from jaxcompress.prune.scores.lp import wide


@jax.jit
def wanda(w: jax.Array, input_norm: jax.Array) -> jax.Array:
    """``|w| * input_norm``: how much a weight can move its output, given what comes in.

    Args:
        w: weights, any float dtype.
        input_norm: L2 norm, over the data, of the feature that each weight multiplies; broadcastable to ``w``. A factor
            common to the inputs of an output (one over the root of the number of rows, say) changes no comparison.

    Example:
        >>> wanda(jnp.array([[3.0, 1.0], [-1.0, 2.0]]), jnp.array([[1.0], [10.0]])).tolist()
        [[3.0, 1.0], [10.0, 20.0]]

    References:
        Sun et al., 2023, equation 1. https://arxiv.org/abs/2306.11695
    """
    return jnp.abs(wide(w)) * wide(input_norm)


@dataclasses.dataclass(frozen=True, eq=False)
class Wanda:
    """Scores by `wanda`, with the root mean square of each input over all rows that were observed.

    The paper compares within each output: ``prune.by_score(..., scope="output")``, or `jaxcompress.prune.wanda`, which
    is that and N:M patterns. In other scopes, and summed over units, layers are compared on the scale of what they add
    to their outputs.

    Attributes:
        stats: what `jaxcompress.observe` gathered, with ``second_moment``.
    """

    stats: Statistics

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        scored = []
        for part in parts:
            squares = mean_square_inputs(part.name, tuple(part.array.shape), self.stats, "Wanda")
            scored.append(wanda(dense(part.array), jnp.sqrt(squares)))
        return scored
