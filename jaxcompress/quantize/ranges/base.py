"""What every way of choosing a range has in common: it turns samples into a scaling, a row of samples per scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.formats import Format, Scaling


class Samples(NamedTuple):
    """What scales are fitted to: for every scale a row, entries of an array or bins of a histogram.

    Attributes:
        values: ``[groups, entries]``, float32 or float64; of a histogram the centres of its bins, as many on either
            side of zero.
        weights: nonnegative, of the same shape, the greatest of a row 1: importance, or what a bin holds. Entries of
            weight 0 do not count. None: all count alike.
        width: ``[groups]``, of the bins of a histogram; None where the values are points.
    """

    values: jax.Array
    weights: jax.Array | None = None
    width: jax.Array | None = None

    def ends(self) -> tuple[jax.Array, jax.Array]:
        """The least and the greatest value that counts, ``[groups]``; of a histogram the outer edges of those bins."""
        if self.weights is None:
            return jnp.min(self.values, axis=1), jnp.max(self.values, axis=1)
        counts, infinity = self.weights > 0, jnp.asarray(jnp.inf, self.values.dtype)
        low = jnp.min(jnp.where(counts, self.values, infinity), axis=1)
        high = jnp.max(jnp.where(counts, self.values, -infinity), axis=1)
        half = jnp.zeros((), low.dtype) if self.width is None else 0.5 * self.width
        some = counts.any(axis=1)
        return jnp.where(some, low - half, 0), jnp.where(some, high + half, 0)

    def reach(self, *, symmetric: bool) -> tuple[jax.Array, jax.Array]:
        """Ends that hold zero between them; as far off on either side for a symmetric format."""
        low, high = self.ends()
        if symmetric:
            largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
            return -largest, largest
        return jnp.minimum(low, 0), jnp.maximum(high, 0)

    def mass(self) -> jax.Array:
        """The weights, ones if there are none."""
        return jnp.ones_like(self.values) if self.weights is None else self.weights

    def unit(self) -> tuple[Samples, jax.Array]:
        """The samples over a power of two, so that the greatest of a row lies in [1/2, 1); and the exponents.

        Squares of such values neither overflow nor vanish, and nothing is rounded.
        """
        _, high = self.reach(symmetric=True)
        _, exponent = jnp.frexp(jnp.maximum(high, jnp.finfo(high.dtype).tiny))
        width = None if self.width is None else jnp.ldexp(self.width, -exponent)
        return Samples(jnp.ldexp(self.values, -exponent[:, None]), self.weights, width), exponent

    def finer(self, parts: int) -> Samples:
        """Every bin of a histogram as some points, evenly spread over it; points as they are."""
        if self.width is None:
            return self
        offsets = jnp.asarray((np.arange(parts) + 0.5) / parts - 0.5, self.values.dtype)
        values = self.values[:, :, None] + (self.width[:, None] * offsets[None, :])[:, None, :]
        weights = None if self.weights is None else jnp.repeat(self.weights, parts, axis=1)
        return Samples(values.reshape(values.shape[0], -1), weights)


@dataclasses.dataclass(frozen=True)
class Range:
    """A way of choosing a range. Subclasses are frozen dataclasses of plain numbers: they are static to ``jit``."""

    name: ClassVar[str]

    def statistics(self, *, symmetric: bool = True) -> tuple[str, ...]:
        """What `jaxcompress.observe` must gather (``what=``) for ranges of activations."""
        return ("histogram",)

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """The scaling of every row, ``[groups]``; a table has one more axis, of levels."""
        raise NotImplementedError(f"{type(self).__name__} must define of_samples()")

    def of_statistics(self, found: Mapping[str, Any], format: Format) -> Scaling:
        """The scaling of activations, ``[groups]``, from what was observed.

        Args:
            found: by the name of the statistic: ``absmax``, ``min``, ``max`` ``[groups]``; ``batch_ranges`` as
                (least, greatest), each ``[batches, groups]``; ``histogram`` as `Samples`.
            format: of the codes.
        """
        return fit(found["histogram"], format=format, range=self)


@functools.partial(jax.jit, static_argnames=("format", "range"))
def fit(samples: Samples, *, format: Format, range: Range) -> Scaling:
    """`Range.of_samples`, compiled."""
    return range.of_samples(samples, format)
