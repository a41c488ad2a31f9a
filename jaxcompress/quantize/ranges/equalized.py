"""Histogram equalization: levels that all stand for the same share of the entries."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples
from jaxcompress.quantize.ranges.table import require_levels, scaling_of, with_zero


@dataclasses.dataclass(frozen=True)
class Equalized(Range):
    """Cuts the sorted entries of a group into runs of equal mass; the levels are their means.

    Levels lie densely where entries do: more evenly used codes than on an even grid, at the price of a coarse table far
    out. With weights the runs have equal weight; an entry that reaches over the end of a run counts in either by its
    part. For format ``levels``.

    Attributes:
        zero_preserving: keep a level that is exactly zero: the runs are cut from the entries that are not, and the
            table gets zero besides.

    References:
        Zhou et al., 2017. Balanced Quantization. https://arxiv.org/abs/1706.07145
    """

    zero_preserving: bool = False

    name: ClassVar[str] = "equalized"

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        require_levels(format, self.name)
        unit, exponent = samples.unit()
        count = 2**format.bits
        if not self.zero_preserving:
            return scaling_of(means_of_equal_mass(unit.values, unit.mass(), count), exponent)
        mass = jnp.where(unit.values == 0, 0, unit.mass())
        return scaling_of(_inserted_zero(means_of_equal_mass(unit.values, mass, count - 1)), exponent)


def means_of_equal_mass(values: jax.Array, mass: jax.Array, count: int) -> jax.Array:
    """The means of ``count`` runs of equal mass of every sorted row, ``[rows, count]``, ascending.

    Zeros where a row has no mass.

    Example:
        >>> means_of_equal_mass(jnp.array([[3.0, 1.0, 2.0]]), jnp.ones((1, 3)), 2).tolist()
        [[1.333333..., 2.666666...]]
    """
    values, mass = lax.sort((values, mass), dimension=1, num_keys=1)
    ends = jnp.cumsum(mass, axis=1)
    starts, total = ends - mass, ends[:, -1:]

    def mean(part: jax.Array) -> jax.Array:
        first, last = (total * ((part + i) / jnp.asarray(count, values.dtype)) for i in (0, 1))
        overlap = jnp.maximum(jnp.minimum(ends, last) - jnp.maximum(starts, first), 0)
        some = jnp.sum(overlap, axis=1)
        return jnp.sum(overlap * values, axis=1) / jnp.where(some > 0, some, 1)

    means = lax.map(mean, jnp.arange(count, dtype=values.dtype))
    return lax.cummax(means.T, axis=1)  # rounding must not put two levels out of order


def _inserted_zero(table: jax.Array) -> jax.Array:
    zero = jnp.zeros((table.shape[0], 1), table.dtype)
    return with_zero(jnp.sort(jnp.concatenate([table, zero], axis=1), axis=1))
