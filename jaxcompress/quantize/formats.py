"""Number formats: the sets of values that a few bits stand for, and how an array comes to lie in one.

| format | bits | values at scale 1 | codes |
| ------ | ---- | ----------------- | ----- |
| ``int`` | 1 to 8 | integers, symmetric or with a zero point | int8 |
| ``int_full`` | 2 to 8 | integers without zero point that use the lowest code too, -8 to 7 for 4 bits | int8 |
| ``nf4`` | 4 | 16 levels of equal mass under a normal distribution | uint8 |
| ``fp8_e4m3``, ``fp8_e5m2``, ``fp4`` | 8, 8, 4 | small floats, saturating, no infinity and no NaN | that float |
| ``mxfp4``, ``mxfp8_e4m3``, ``mxfp8_e5m2`` | 4, 8, 8 | the same, scaled by powers of two in blocks of 32 | that float |
| ``levels`` | 1 to 8 | a table of levels for each scale, fitted to data | uint8 |

A `Format` is static: it says how to scale, encode and decode arrays, and which leaf holds the codes. `Scaling` says
where the values lie for one array.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.quantize import minifloats, tables
from jaxcompress.quantize.affine import AffineQuantized, Quantized
from jaxcompress.quantize.packed import narrowed
from jaxcompress.quantize.tabled import FixedTable, Tabled
from jaxcompress.solvers import grid

FORMATS = ("int", "int_full", "nf4", "fp8_e4m3", "fp8_e5m2", "fp4", "mxfp4", "mxfp8_e4m3", "mxfp8_e5m2", "levels")
_INTEGERS = ("int", "int_full")
_ANY_WIDTH = (*_INTEGERS, "levels")


class Scaling(NamedTuple):
    """Where a format lies for one array.

    Attributes:
        scale: float, positive, with as many axes as the array, the size of each dividing its (see
            `jaxcompress.solvers.grid`).
        zero_point: int8 code that stands for zero, of the scale's shape; None: the format is symmetric.
        table: ascending levels, to be multiplied by the scale: axes like a scale's and then one of levels; None: the
            format has levels of its own.
    """

    scale: jax.Array
    zero_point: jax.Array | None = None
    table: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A number format. Build it with `format_of`, which checks.

    Attributes:
        name: one of the table in the module's docstring.
        bits: of a code.
        symmetric: of ``int``: no zero point.
    """

    name: str
    bits: int
    symmetric: bool = True

    @property
    def largest(self) -> float:
        """The largest value at scale 1, before a zero point."""
        if self.name in _INTEGERS:
            return float(grid.largest_code(self.bits))
        return 1.0 if self._tabled else minifloats.largest(self.name)

    @property
    def smallest(self) -> float:
        """The smallest value at scale 1, before a zero point."""
        if self.name in _INTEGERS:
            return float(grid.smallest_code(self.bits, symmetric=self.symmetric and self.name == "int"))
        return -self.largest

    @property
    def block(self) -> int | None:
        """Weights of a channel that share a scale where nothing else is asked for; None: all."""
        return minifloats.BLOCK if self.name in minifloats.BLOCK_FORMATS else None

    def scaling(self, low: jax.Array, high: jax.Array) -> Scaling:
        """The finest scaling that reaches both ends of a range.

        Symmetric formats reach the end that lies farther off; asymmetric grids are widened to hold zero, which they
        meet exactly. Formats of blocks take the power of two of the OCP specification, which may clip the largest
        value. Where a group has no extent the scale is 1. ``levels`` are spread evenly over the range.

        Args:
            low: smallest entry of every group, of the shape that the scale shall have; float32 or float64.
            high: the largest.

        Example:
            >>> int4 = format_of("int", 4)
            >>> int4.scaling(jnp.array([-1.0, 0.0]), jnp.array([3.5, 0.0])).scale.tolist()
            [0.5, 1.0]
        """
        largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
        if self.name == "int" and not self.symmetric:
            return Scaling(*grid.asymmetric_grid(low, high, bits=self.bits))
        if self.name == "levels":
            return Scaling(jnp.ones_like(low), table=tables.even_levels(low, high, 2**self.bits))
        if self.name in minifloats.BLOCK_FORMATS:
            return Scaling(minifloats.power_of_two(largest, self.name))
        return Scaling(grid.or_one(largest / self.largest))

    def encode(self, x: jax.Array, scaling: Scaling) -> jax.Array:
        """The codes of the nearest values, of the shape of ``x``; what lies beyond the ends is clipped.

        Integers and small floats round halves to even, levels to the lower one.

        Example:
            >>> int4 = format_of("int", 4)
            >>> int4.encode(jnp.array([0.4, 1.5, -9.0]), Scaling(jnp.array([1.0]))).tolist()
            [0, 2, -7]
        """
        if self.name in _INTEGERS:
            full = self.name == "int_full"
            return grid.quantize(x, scaling.scale, scaling.zero_point, bits=self.bits, full=full).astype(jnp.int8)
        if self._tabled:
            return tables.nearest(x, scaling.scale, self._table(scaling))
        return minifloats.encode(x, scaling.scale, self.name)

    def decode(self, codes: jax.Array, scaling: Scaling) -> jax.Array:
        """The values of codes, in the dtype of the scale: bit for bit the leaf's `materialize` before its cast.

        Example:
            >>> format_of("int", 4).decode(jnp.array([7, -2], jnp.int8), Scaling(jnp.array([0.5]))).tolist()
            [3.5, -1.0]
        """
        if self._tabled:
            return tables.look_up(codes, scaling.scale, self._table(scaling))
        return grid.dequantize(codes, scaling.scale, scaling.zero_point)

    def project(self, x: jax.Array, scaling: Scaling) -> jax.Array:
        """The nearest values of the format: `encode`, then `decode`."""
        return self.decode(self.encode(x, scaling), scaling)

    def leaf(self, codes: jax.Array, scaling: Scaling, dtype: Any) -> CompressedArray:
        """The leaf that holds the codes in as few bits as they need.

        Args:
            codes: what `encode` gave (or integers in its range).
            scaling: with which it did; stack axes in full.
            dtype: of the dense array.
        """
        dtype = jnp.dtype(dtype)
        if self.name == "nf4":
            return FixedTable(narrowed(codes, self.bits), scaling.scale, tables.NF4, dtype)
        if self.name == "levels":
            return Tabled(narrowed(codes, self.bits), self._table(scaling), scaling.scale, dtype)
        if self.name not in _INTEGERS:
            block = self.name in minifloats.BLOCK_FORMATS
            scale = scaling.scale.astype(jnp.float8_e8m0fnu) if block else scaling.scale
            return Quantized(codes, scale, dtype)
        qvalue = narrowed(codes.astype(jnp.int8), self.bits)
        if scaling.zero_point is None:
            return Quantized(qvalue, scaling.scale, dtype)
        return AffineQuantized(qvalue, scaling.scale, dtype, scaling.zero_point)

    @property
    def _tabled(self) -> bool:
        return self.name in ("nf4", "levels")

    def _table(self, scaling: Scaling) -> jax.Array:
        if self.name == "levels" and scaling.table is None:
            raise ValueError("the format 'levels' has no levels of its own: a scaling with a table is needed")
        return tables.own_table(scaling.scale) if scaling.table is None else scaling.table


def format_of(
    name: str = "int", bits: int | None = None, symmetric: bool = True, *, method: str = "quantize"
) -> Format:
    """The format of a name and a width.

    Args:
        name: one of ``int``, ``int_full``, ``nf4``, ``fp8_e4m3``, ``fp8_e5m2``, ``fp4``, ``mxfp4``, ``mxfp8_e4m3``,
            ``mxfp8_e5m2``, ``levels``.
        bits: 1 to 8 for ``int``, 2 to 8 for ``int_full`` (default 8 for both), 1 to 8 for ``levels`` (default 4); the
            other names say it themselves, and a width that contradicts them is refused.
        symmetric: False gives ``int`` a zero point; the other formats are symmetric.
        method: name for errors.

    Raises:
        ValueError: if the name is not known, or the width or symmetry does not go with it.

    Example:
        >>> format_of("int", 3, symmetric=False)
        Format(name='int', bits=3, symmetric=False)
        >>> format_of("nf4").bits, format_of("mxfp8_e4m3").largest
        (4, 448.0)
    """
    if name not in FORMATS:
        raise ValueError(f"{method}: format must be one of {', '.join(FORMATS)}, got {name!r}")
    if not symmetric and name != "int":
        raise ValueError(f"{method}: symmetric=False is of format='int' alone, got format={name!r}")
    if name not in _ANY_WIDTH:
        own = 4 if name == "nf4" else minifloats.width(name)
        if bits is not None and bits != own:
            raise ValueError(f"{method}: format={name!r} has {own} bits, got bits={bits!r}: leave bits= out")
        return Format(name, own)
    bits = (8 if name in _INTEGERS else 4) if bits is None else bits
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"{method}: bits must be an integer from 1 to 8, got {bits!r}")
    if name == "int_full" and bits == 1:
        raise ValueError(f"{method}: format='int_full' has 2 to 8 bits, got bits=1: use format='int'")
    return Format(name, bits, symmetric)
