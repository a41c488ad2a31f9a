"""Ranges that clip where it makes the error of rounding and clipping least."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples
from jaxcompress.quantize.ranges.clip_search import Clips, best_clips

_PARTS = 4  # points per bin of a histogram: several even within the steps of an 8-bit grid
_OCTAVES = (2.0, 1.0, 0.5, 0.25)  # scales that are powers of two need no others


@dataclasses.dataclass(frozen=True)
class MSE(Range):
    """The range of the least error ``sum(weights * |x - q(x)| ** power)``, for each group by itself.

    Clipping a little makes the grid finer for all that is not clipped. The optimum is searched among fractions of the
    full range, in two stages (`jaxcompress.quantize.ranges.clip_search`), with the format's own rounding: so it holds
    for any format. The ends of an asymmetric grid are clipped independently.

    Attributes:
        steps: fractions tried per stage for symmetric formats.
        sides: fractions of each end tried per stage for asymmetric grids, in all pairs.
        power: of the absolute error. 2: the mean squared error; GPTQ's reference code takes 2.4.

    References:
        Banner et al., 2019. https://arxiv.org/abs/1810.05723
        Nagel et al., 2021, section 3.1. https://arxiv.org/abs/2106.08295
    """

    steps: int = 64
    sides: int = 16
    power: float = 2.0

    name: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        """Checks the options."""
        for option, least in (("steps", 2), ("sides", 2), ("power", 0.1)):
            if getattr(self, option) < least:
                raise ValueError(f"MSE: {option} must be {least} or more, got {getattr(self, option)!r}")

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        unit, exponent = samples.finer(_PARTS).unit()
        low, high = unit.reach(symmetric=format.symmetric)

        def loss(fraction_low: jax.Array, fraction_high: jax.Array) -> jax.Array:
            return self.loss(
                unit, format.scaling((low * fraction_low)[:, None], (high * fraction_high)[:, None]), format
            )

        if format.block is None:
            steps = self.steps if format.symmetric else self.sides
            best = best_clips(loss, low.size, low.dtype, steps=steps, symmetric=format.symmetric)
        else:
            best = _best_octave(loss, low)
        return format.scaling(jnp.ldexp(low * best.low, exponent), jnp.ldexp(high * best.high, exponent))

    def loss(self, samples: Samples, scaling: Scaling, format: Format) -> jax.Array:
        """The error of every row, ``[groups]``, with a scaling of ``[groups, 1]``."""
        off = jnp.abs(samples.values - format.project(samples.values, scaling))
        error = jnp.square(off) if self.power == 2 else jnp.power(off, self.power)
        return jnp.sum(error if samples.weights is None else samples.weights * error, axis=1)


def _best_octave(loss, low: jax.Array) -> Clips:
    trials = jnp.asarray(_OCTAVES, low.dtype)
    losses = jax.lax.map(lambda f: loss(jnp.full_like(low, f), jnp.full_like(low, f)), trials)
    best = jnp.argmin(losses, axis=0)
    return Clips(jnp.min(losses, axis=0), trials[best], trials[best])
