"""The leaf kinds of affine quantization: codes, and scales (and zero points) per channel or group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import ArrayOrLeaf, dense, leaf_kind
from jaxcompress.quantize.packed import PackedInts, narrowed
from jaxcompress.quantize.products import Scaled
from jaxcompress.solvers.grid import dequantize, spread, widened

INTEGERS = tuple(jnp.dtype(d) for d in (jnp.int8, jnp.int4, jnp.int2))
FLOATS = tuple(jnp.dtype(d) for d in (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn))


@leaf_kind("quantized", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quantized(Scaled):
    """An array of narrow numbers times scales: ``materialize() == qvalue * scale``, the scale repeated along groups.

    The scale has as many axes as the codes. Along each axis it holds one entry per index, one for all, or one per
    group of neighbours; stack axes it always holds in full, so that layers can be taken apart.

    Attributes:
        qvalue: int8, int4, float8_e4m3fn, float8_e5m2 or float4_e2m1fn of the dense shape, or `PackedInts`.
        scale: float; the size of each axis divides that of ``qvalue``. float8_e8m0fnu holds powers of two.
        dtype: dtype of the dense array.
    """

    qvalue: ArrayOrLeaf
    scale: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, qvalue: ArrayOrLeaf, scale: jax.Array, dtype: Any = None) -> Self:
        """Checks the two fields.

        Args:
            qvalue: int8, int4 or small floats of any shape, or `PackedInts`.
            scale: float array of as many axes, the size of each dividing that of ``qvalue``.
            dtype: dtype of the dense array; by default the scale's, float32 where that has 8 bits.

        Raises:
            TypeError: if ``qvalue`` is of another dtype, or ``scale`` or ``dtype`` is not float.
            ValueError: if the shapes do not fit.

        Example:
            >>> leaf = Quantized.create(jnp.array([[1, -2], [3, 4]], jnp.int8), jnp.array([[0.5, 2.0]]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[0.5, -4.0], [1.5, 8.0]], 96)
        """
        dtype = jnp.dtype(widened(scale).dtype if dtype is None else dtype)
        if qvalue.dtype not in INTEGERS + FLOATS:
            raise TypeError(f"qvalue must be int8 or int4 (or packed integers, or small floats), got {qvalue.dtype}")
        require_float(scale=scale.dtype, dtype=dtype)
        require_groups("scale", scale.shape, qvalue.shape)
        return cls(qvalue, jnp.asarray(scale), dtype)

    @property
    def bits(self) -> int:
        """Width of a code."""
        return code_bits(self.qvalue)

    def with_codes(self, codes: jax.Array) -> Self:
        """The same scales (and zero points) under other codes, held as narrow as these."""
        return self.replace(qvalue=like(codes, self.qvalue))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.scale.shape)))
        return {"qvalue": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """The codes times their scales, in the dtype of the scales, cast."""
        return dequantize(dense(self.qvalue), self.scale).astype(self.dtype)

    def slow_in_loops(self, contracted: tuple[int, ...]) -> bool:
        """Of small floats, packed bits, and packed integers that meet their scales in the loop (5 to 30 times)."""
        if not isinstance(self.qvalue, PackedInts):
            return self.qvalue.dtype in FLOATS
        return self.bits == 1 or any(self.scale.shape[axis] != 1 for axis in contracted)

    def unscaled(self, dtype: Any) -> jax.Array:
        """The codes."""
        return dense(self.qvalue).astype(dtype)


@leaf_kind("affine", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AffineQuantized(Quantized):
    """An array of integers, less zero points, times scales: ``materialize() == (qvalue - zero_point) * scale``.

    Zero is met exactly, by the code ``zero_point``. Of one bit, codes are -1 and +1 and one of them is the zero point.

    Attributes:
        qvalue: int8 or int4 of the dense shape, or `PackedInts`.
        scale: float, as of `Quantized`.
        dtype: dtype of the dense array.
        zero_point: int8 or int4, of the scale's shape.
    """

    zero_point: jax.Array

    @classmethod
    def create(  # type: ignore[override]  # an array more
        cls, qvalue: ArrayOrLeaf, scale: jax.Array, zero_point: jax.Array, dtype: Any = None
    ) -> Self:
        """Checks the three fields.

        Args:
            qvalue: int8 or int4 array of any shape, or `PackedInts`.
            scale: float array of as many axes as ``qvalue``, the size of each dividing its.
            zero_point: int8 or int4 array of the scale's shape.
            dtype: dtype of the dense array; by default the scale's.

        Raises:
            TypeError: if ``qvalue`` or ``zero_point`` is no narrow integer, or ``scale`` or ``dtype`` is not float.
            ValueError: if the shapes do not fit.

        Example:
            >>> codes = jnp.array([[1, -2], [3, 4]], jnp.int8)
            >>> leaf = AffineQuantized.create(codes, jnp.array([[0.5, 2.0]]), jnp.array([[1, -2]], jnp.int8))
            >>> leaf.materialize().tolist()
            [[0.0, 0.0], [1.0, 12.0]]
        """
        dtype = jnp.dtype(scale.dtype if dtype is None else dtype)
        for name, given in (("qvalue", qvalue.dtype), ("zero_point", zero_point.dtype)):
            if given not in INTEGERS:
                raise TypeError(f"{name} must be int8 or int4 (qvalue: or packed integers), got {given}")
        require_float(scale=scale.dtype, dtype=dtype)
        require_groups("scale", scale.shape, qvalue.shape)
        if zero_point.shape != scale.shape:
            raise ValueError(f"zero_point must have the shape of scale, got {zero_point.shape} for {scale.shape}")
        return cls(qvalue, jnp.asarray(scale), dtype, jnp.asarray(zero_point))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """All fields run along the dense axes."""
        axes = tuple(range(len(self.scale.shape)))
        return {"qvalue": axes, "scale": axes, "zero_point": axes}

    def materialize(self) -> jax.Array:
        """The codes less their zero points, times their scales, in the dtype of the scales, cast."""
        return dequantize(dense(self.qvalue), self.scale, self.zero_point).astype(self.dtype)

    def unscaled(self, dtype: Any) -> jax.Array:
        """The codes less their zero points: integers up to 255, exact in every float of 16 bits."""
        return dense(self.qvalue).astype(dtype) - spread(self.zero_point, self.shape).astype(dtype)


def code_bits(codes: ArrayOrLeaf) -> int:
    """Bits of one code of an array or of `PackedInts`."""
    return codes.bits if isinstance(codes, PackedInts) else bit_width(codes.dtype)


def like(codes: jax.Array, held: ArrayOrLeaf) -> ArrayOrLeaf:
    """Codes in the form in which others are held."""
    wide = codes.astype(held.dtype)
    return narrowed(wide, held.bits) if isinstance(held, PackedInts) else wide


def require_groups(name: str, parts: Sequence[int], shape: Sequence[int]) -> None:
    """Raises ValueError unless an array of scales or the like fits the codes."""
    fits = len(parts) == len(shape) and all(
        part == whole or (part and whole % part == 0) for part, whole in zip(parts, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} must have the axes of the codes, each size dividing its; got {tuple(parts)} for {tuple(shape)}"
        )


def require_float(**dtypes: Any) -> None:
    """Raises TypeError unless all dtypes are float; names the one that is not."""
    for name, given in dtypes.items():
        if not jnp.issubdtype(given, jnp.floating):
            raise TypeError(f"{name} must be float, got {given}")
