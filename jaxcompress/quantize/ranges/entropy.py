"""Ranges of the least divergence: what is clipped against what is blurred, both in nats."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples
from jaxcompress.quantize.ranges.clip_search import best_clips
from jaxcompress.solvers.rows import by_batches

_AT_ONCE = 2**22  # bins of a batch of groups


class Histogram(NamedTuple):
    """Rows of bins of equal width, as many on either side of zero.

    Attributes:
        share: ``[groups, bins]``, of the whole mass.
        width: ``[groups]``, of a bin.
    """

    share: jax.Array
    width: jax.Array


@dataclasses.dataclass(frozen=True)
class Entropy(Range):
    """The clipping range whose quantized histogram diverges least from the whole one (TensorRT's calibration).

    For a candidate range, ``P`` is the histogram within it with all that lies outside counted into its edge bins. ``Q``
    is the histogram within it *without* those, blurred: the mass that takes one code is spread evenly over the bins of
    that code that are not empty in ``P``. The range with the least ``KL(P || Q)`` is taken; of an asymmetric grid
    either end moves by itself. Codes are those that the format really gives, whatever its levels. Bins where only ``P``
    has mass would make the divergence infinite, so ``Q`` is mixed with a little of the even distribution over the bins
    of ``P``. Ranges of fewer bins than levels are not tried: nothing would be blurred.

    A method for activations and other large groups: it needs far more entries than bins, and time in proportion to
    groups, bins and trials.

    Attributes:
        steps: ranges tried for symmetric formats, evenly spaced, rounded to edges of bins.
        sides: positions of each end tried per stage for asymmetric grids, in all pairs.
        bins: of the histogram of an array, at most: groups of few entries get fewer, down to 8 per level. What was
            observed has its own.
        smoothing: share of the even distribution in ``Q``.

    References:
        Migacz, 2017. 8-bit inference with TensorRT. GTC 2017, session S7310.
    """

    steps: int = 128
    sides: int = 16
    bins: int = 2048
    smoothing: float = 1e-4

    name: ClassVar[str] = "entropy"

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.steps < 2 or self.sides < 2:
            raise ValueError(f"Entropy: steps and sides must be 2 or more, got {self.steps!r} and {self.sides!r}")
        if self.bins < 2 or self.bins % 2:
            raise ValueError(f"Entropy: bins must be even, as many on either side of zero, got {self.bins!r}")
        if not 0 < self.smoothing < 1:
            raise ValueError(f"Entropy: smoothing must lie between 0 and 1, got {self.smoothing!r}")

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        mass, width = samples.mass(), samples.width
        if width is None:
            mass, width = _binned(samples, self._bins_for(samples.values.shape[1], format))
        total = jnp.sum(mass, axis=1, keepdims=True)
        histogram = Histogram(mass / jnp.where(total > 0, total, 1), width)
        low, high = by_batches(lambda rows: self._ends(rows, format), histogram, size=_AT_ONCE // mass.shape[1])
        return format.scaling(low * width, high * width)

    def _bins_for(self, entries: int, format: Format) -> int:
        fewer = 2 ** max(entries // 8, 8 * 2**format.bits).bit_length()
        return min(self.bins, fewer)

    def _ends(self, histogram: Histogram, format: Format) -> tuple[jax.Array, jax.Array]:
        """The best ends, in bins from zero."""
        share, width = histogram
        place = jnp.arange(share.shape[1], dtype=width.dtype) - share.shape[1] // 2
        low = jnp.min(jnp.where(share > 0, place[None, :], 0), axis=1)
        high = jnp.max(jnp.where(share > 0, place[None, :] + 1, 0), axis=1)
        if format.symmetric:
            high = jnp.maximum(high, -low)
            low = -high
        needed = 2**format.bits / jnp.maximum(high - low, 1)  # fraction of the range that has as many bins as levels

        def ends(fraction_low: jax.Array, fraction_high: jax.Array) -> tuple[jax.Array, jax.Array]:
            least = jnp.minimum(needed, 1)
            return (
                jnp.round(low * (least + (1 - least) * fraction_low)),
                jnp.round(high * (least + (1 - least) * fraction_high)),
            )

        def loss(fraction_low: jax.Array, fraction_high: jax.Array) -> jax.Array:
            return self.divergence(histogram, *ends(fraction_low, fraction_high), format)

        steps, stages = (self.steps, 1) if format.symmetric else (self.sides, 2)
        best = best_clips(loss, width.size, width.dtype, steps=steps, symmetric=format.symmetric, stages=stages)
        return ends(best.low, best.high)

    def divergence(self, histogram: Histogram, low: jax.Array, high: jax.Array, format: Format) -> jax.Array:
        """``KL(P || Q)`` in nats, ``[groups]``, for ranges given in bins from zero."""
        share, width = histogram
        bins = share.shape[1]
        place = jnp.arange(bins, dtype=jnp.int32) - bins // 2
        first, last = low.astype(jnp.int32)[:, None], high.astype(jnp.int32)[:, None] - 1
        inside = (place[None, :] >= first) & (place[None, :] <= last)
        kept = jnp.where(inside, share, 0)
        below = jnp.sum(jnp.where(place[None, :] < first, share, 0), axis=1, keepdims=True)
        above = jnp.sum(jnp.where(place[None, :] > last, share, 0), axis=1, keepdims=True)
        p = kept + jnp.where(place[None, :] == first, below, 0) + jnp.where(place[None, :] == last, above, 0)
        centres = (place[None, :].astype(width.dtype) + 0.5) * width[:, None]
        values = format.project(centres, format.scaling((low * width)[:, None], (high * width)[:, None]))
        filled = p > 0
        blurred = _blurred(kept, filled, jnp.where(inside, values, jnp.inf))
        support = jnp.maximum(jnp.sum(filled, axis=1, keepdims=True, dtype=share.dtype), 1)
        mass = jnp.sum(blurred, axis=1, keepdims=True)
        even = jnp.where(filled, 1 / support, 0)
        q = (1 - self.smoothing) * blurred / jnp.where(mass > 0, mass, 1) + self.smoothing * even
        terms = p * jnp.log(jnp.where(filled, p, 1) / jnp.where(filled, q, 1)) - p + q  # nonnegative: little cancels
        return jnp.sum(jnp.where(filled, terms, 0), axis=1)


def _blurred(kept: jax.Array, filled: jax.Array, values: jax.Array) -> jax.Array:
    """The mass of every run of bins of one value, spread evenly over its filled bins."""

    def row(kept: jax.Array, filled: jax.Array, values: jax.Array) -> jax.Array:
        run = jnp.cumsum(jnp.concatenate([jnp.zeros((1,), jnp.int32), (values[1:] != values[:-1]).astype(jnp.int32)]))
        sums = jax.ops.segment_sum(
            jnp.stack([kept, filled.astype(kept.dtype)], axis=1), run, num_segments=kept.size, indices_are_sorted=True
        )
        mass, bins = sums[run].T
        return jnp.where(filled, mass / jnp.maximum(bins, 1), 0)

    return jax.vmap(row)(kept, filled, values)


def _binned(samples: Samples, bins: int) -> tuple[jax.Array, jax.Array]:
    """A histogram of every row, its outermost bin ending at the largest absolute value; and the width of its bins."""
    values, half = samples.values, bins // 2
    _, reach = samples.reach(symmetric=True)
    width = jnp.where(reach > 0, reach, 1) / half
    index = jnp.floor(values / width[:, None]).astype(jnp.int32) + half
    index = jnp.clip(index, 0, bins - 1)
    count = lambda row, mass: jax.ops.segment_sum(mass, row, num_segments=bins)  # noqa: E731  # mapped over the rows
    return jax.vmap(count)(index, samples.mass()), width
