"""Ranges that leave out the outermost entries, whatever their size."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples


@dataclasses.dataclass(frozen=True)
class Percentile(Range):
    """The range that holds a percentage of the entries of a group.

    Symmetric formats take the percentile of absolute values. An asymmetric grid leaves out half of the rest at either
    end: ``Percentile(99)`` spans from the 0.5th to the 99.5th percentile. Between two entries it interpolates linearly
    (NumPy's default); with weights it is the least entry up to which at least that share of the weight lies (NumPy's
    ``inverted_cdf``); bins of a histogram count as evenly filled.

    Attributes:
        percentage: above 0, at most 100.
    """

    percentage: float = 99.9

    name: ClassVar[str] = "percentile"

    def __post_init__(self) -> None:
        """Checks the option."""
        if not 0 < self.percentage <= 100:
            raise ValueError(f"Percentile: percentage must be above 0 and at most 100, got {self.percentage!r}")

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        share = self.percentage / 100
        if format.symmetric:
            (reach,) = quantiles(_folded(samples), (share,))
            return format.scaling(-reach, reach)
        low, high = quantiles(samples, ((1 - share) / 2, (1 + share) / 2))
        return format.scaling(low, high)


def quantiles(samples: Samples, shares: tuple[float, ...]) -> list[jax.Array]:
    """The quantiles of every row, ``[groups]`` each; the module's conventions."""
    values = samples.values
    fractions = jnp.asarray(shares, values.dtype)
    if samples.weights is None:
        return list(jnp.quantile(values, fractions, axis=1))
    values, weights = lax.sort((values, samples.weights), dimension=1, num_keys=1)
    reached = jnp.cumsum(weights, axis=1)
    wanted = fractions[:, None] * reached[:, -1][None, :]  # [shares, groups]
    at = jax.vmap(lambda row, goal: jnp.searchsorted(row, goal), in_axes=(0, 1), out_axes=1)(reached, wanted)
    at = jnp.minimum(at, values.shape[1] - 1).astype(jnp.int32)
    found = jnp.take_along_axis(values, at.T, axis=1).T
    if samples.width is not None:
        held = jnp.take_along_axis(weights, at.T, axis=1).T
        before = jnp.take_along_axis(reached, at.T, axis=1).T - held
        into = jnp.clip((wanted - before) / jnp.where(held > 0, held, 1), 0, 1)
        found = found + (into - 0.5) * samples.width[None, :]
    return list(found)


def _folded(samples: Samples) -> Samples:
    """Absolute values; the bins of a histogram on either side of zero become one."""
    if samples.width is None:
        return samples._replace(values=jnp.abs(samples.values))
    half = samples.values.shape[1] // 2
    mass = samples.mass()
    return Samples(samples.values[:, half:], mass[:, half:] + jnp.flip(mass[:, :half], axis=1), samples.width)
