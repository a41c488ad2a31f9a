"""Lloyd-Max levels: the table with the least squared error, as far as Lloyd's iteration finds it."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples
from jaxcompress.quantize.ranges.table import require_levels, scaling_of, with_zero
from jaxcompress.solvers.rows import by_batches
from jaxcompress.solvers.scalar_kmeans import Init, nearest, scalar_kmeans

_AT_ONCE = 2**22  # numbers that the rows of a batch may hold
_SETTLING = 10  # iterations after one level has moved a little


@dataclasses.dataclass(frozen=True)
class KMeans(Range):
    """Levels by k-means (Lloyd-Max) for each group: every level is the mean of the entries that it is nearest to.

    With weights it is the weighted mean, and the weighted squared error is what becomes small: second moments of the
    inputs or an empirical Fisher information as weights give sensitivity-weighted tables. For format ``levels``.

    Attributes:
        init: where the levels start, see `jaxcompress.solvers.scalar_kmeans`. ``"optimal"`` gains about 2 % of the
            error and takes some thirty times as long.
        iterations: at most.
        zero_preserving: keep a level that is exactly zero. It takes part in the iteration, but does not move.

    References:
        Lloyd, 1982. Least squares quantization in PCM. Max, 1960. Quantizing for minimum distortion.
        Kim et al., 2024, section 4.1 (sensitivity). https://arxiv.org/abs/2306.07629
    """

    init: Init = "density"
    iterations: int = 50
    zero_preserving: bool = False

    name: ClassVar[str] = "kmeans"

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        require_levels(format, self.name)
        unit, exponent = samples.unit()
        levels = 2**format.bits
        one = functools.partial(self._with_zero if self.zero_preserving else self._free, levels=levels)
        rows = (unit.values,) if unit.weights is None else (unit.values, unit.weights)
        numbers = unit.values.shape[1] + 16 * levels * int(min(unit.values.shape[1], 65536) ** 0.5)
        table = by_batches(lambda rows: jax.vmap(one)(*rows), rows, size=_AT_ONCE // numbers)
        return scaling_of(table, exponent)

    def _free(self, row: jax.Array, weights: jax.Array | None = None, *, levels: int) -> jax.Array:
        return scalar_kmeans(row, weights, levels=levels, init=self.init, iterations=self.iterations).codebook

    def _with_zero(self, row: jax.Array, weights: jax.Array | None = None, *, levels: int) -> jax.Array:
        """The level nearest to zero becomes zero and is held fast while Lloyd's iteration settles the others."""
        mass = jnp.ones_like(row) if weights is None else weights

        def improve(_: jax.Array, table: jax.Array) -> jax.Array:
            codes = nearest(row, table)
            held = jax.ops.segment_sum(mass, codes, num_segments=table.size)
            total = jax.ops.segment_sum(mass * row, codes, num_segments=table.size)
            moves = (held > 0) & (table != 0)
            return jnp.sort(jnp.where(moves, total / jnp.where(moves, held, 1), table))

        table = with_zero(self._free(row, mass, levels=levels))
        return jax.lax.fori_loop(0, min(self.iterations, _SETTLING), improve, table)
