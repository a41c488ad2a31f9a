"""Magnitude: a power of the absolute value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part


@jax.jit
def lp(w: jax.Array, p: float | jax.Array = 1.0) -> jax.Array:
    """``|w| ** p``, in float32 at least.

    The order among single weights is that of ``|w|`` for every ``p``; the power matters when scores are added up over
    a group: the sum over a unit is the p-th power of its Lp norm.

    Args:
        w: weights, any float dtype.
        p: the power, positive; may be traced.

    Example:
        >>> lp(jnp.array([3.0, -4.0]), 2.0).tolist()
        [9.0, 16.0]

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626; over filters (p = 1): Li et al., 2017.
        https://arxiv.org/abs/1608.08710
    """
    size = jnp.abs(wide(w))
    p = jnp.asarray(p, size.dtype)
    power = jnp.where(p == 1, 0, jnp.where(p == 2, 1, 2))  # pow is slow, and inexact even where it need not be
    return jax.lax.switch(power, [lambda a, _: a, lambda a, _: a * a, lambda a, p: a**p], size, p)


def wide(w: jax.Array) -> jax.Array:
    """Floats of at least 32 bits, in which squares neither overflow nor round away.

    Example:
        >>> wide(jnp.ones(2, jnp.float16)).dtype.name
        'float32'
    """
    return w if w.dtype.itemsize >= 4 else w.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Lp:
    """Scores by magnitude, `lp` of every weight.

    Attributes:
        p: the power, positive.
    """

    p: float = 1

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise ValueError(f"p must be positive, got {self.p}")

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        return [lp(dense(part.array), float(self.p)) for part in parts]
