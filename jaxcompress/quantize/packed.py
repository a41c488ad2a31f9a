"""Integers of any width from 1 to 8 bits, held without gaps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcompress.core.leaf import CompressedArray, FieldOp, leaf_kind

_PER_BYTE = 8  # elements of which a byte holds one bit
_CHUNKS = (32, *range(64, 32, -1))
"""Bytes of a chunk, the first is preferred: as many as the vector units of a CPU take without a change of lanes."""


@leaf_kind("packed_ints")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PackedInts(CompressedArray):
    """An integer array in ``bits`` bits per element: a field of other leaves, which read it with `dense`.

    There is a plane for each bit. The last axis is cut into chunks of ``8 * chunk`` elements (padded), and bit ``k`` of
    byte ``i`` of a chunk is that of element ``k * chunk + i``, so that shifting neighbouring bytes unpacks neighbours.
    Negative integers are two's complement; of one bit, 0 stands for -1 and 1 for +1.

    JAX itself has integers of 8, 4 and 2 bits, but programs that take those of 2 bits cannot be exported.

    Attributes:
        words: uint8 of shape ``(..., bits, bytes)``, whole chunks of bytes; the other axes are those of the array.
        bits: 1 to 8.
        length: of the last axis.
        signed: int8 if true, else uint8.
        chunk: bytes of a chunk.
    """

    words: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    length: int = dataclasses.field(metadata={"static": True})
    signed: bool = dataclasses.field(metadata={"static": True})
    chunk: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: jax.Array, *, bits: int) -> Self:
        """Packs an array.

        Args:
            codes: int8 or uint8 array (or int4, uint4) of one axis or more.
            bits: 1 to 8; the codes must fit in (seen only outside ``jit``).

        Raises:
            TypeError: if the codes are not such integers.
            ValueError: if ``bits`` is out of range, the array has no axis, or a code does not fit.

        Example:
            >>> leaf = PackedInts.create(jnp.array([3, -4, 0, 1, 2], jnp.int8), bits=3)
            >>> leaf.words.tolist(), leaf.materialize().tolist(), leaf.stored_bits
            ([[9], [17], [2]], [3, -4, 0, 1, 2], 24)
        """
        if codes.dtype not in (jnp.int8, jnp.uint8, jnp.int4, jnp.uint4):
            raise TypeError(f"codes must be int8 or uint8, got {codes.dtype}")
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be from 1 to 8, got {bits}")
        if not codes.ndim:
            raise ValueError("codes must have an axis to be packed along, got a scalar")
        signed = bool(jnp.issubdtype(codes.dtype, jnp.signedinteger))
        if not isinstance(codes, Tracer) and codes.size:
            _require_fit(np.asarray(codes).astype(np.int32), bits, signed)
        return cls(*_packed(codes, bits, signed))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the integers."""
        return (*self.words.shape[:-2], self.length)

    @property
    def dtype(self) -> np.dtype:
        """int8 or uint8."""
        return jnp.dtype(jnp.int8 if self.signed else jnp.uint8)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Words run along the dense axes, in whole chunks along the last one; the planes are an axis of their own."""
        last = len(self.words.shape) - 2
        return {"words": (*range(last), None, last)}

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """As of every leaf; the last axis is held whole by no field."""
        return None if axis == self.ndim - 1 else super().axis_positions(axis)

    def map_axis(self, axis: int, fn: FieldOp) -> Self:
        """As of every leaf; along the last axis the integers are unpacked, indexed and packed again."""
        if axis != self.ndim - 1:
            return self.replace(words=fn(self.words, axis))
        return type(self)(*_packed(fn(self.materialize(), axis), self.bits, self.signed))

    def window(self, axis: int, start: jax.Array, size: int) -> Self:
        """The ``size`` entries from ``start`` along one axis, both multiples of its `granule`."""
        if axis != self.ndim - 1:
            return self.replace(words=lax.dynamic_slice_in_dim(self.words, start, size, axis))
        begin = start // jnp.asarray(_PER_BYTE, start.dtype)
        words = lax.dynamic_slice_in_dim(self.words, begin, size // _PER_BYTE, axis + 1)
        return self.replace(words=words, length=size)

    def granule(self, axis: int) -> int:
        """Steps in which `window` can move along an axis."""
        return _PER_BYTE * self.chunk if axis == self.ndim - 1 else 1

    def materialize(self) -> jax.Array:
        """The integers, in int8 or uint8."""
        return _unpacked(self.words, bits=self.bits, length=self.length, signed=self.signed, chunk=self.chunk)

    def for_file(self) -> Self:
        """With the integers themselves as ``words``: an entropy coder sees their distribution, which planes hide."""
        return self.replace(words=self.materialize())

    def from_file(self) -> Self:
        """Packed again.

        Raises:
            ValueError: if the fields are none of packed integers.
        """
        if type(self.bits) is not int or not 1 <= self.bits <= 8 or not self.words.ndim:
            raise ValueError(f"packed integers have an axis and 1 to 8 bits, got {self.words.shape} and {self.bits!r}")
        return type(self)(*_packed(self.words, self.bits, bool(self.signed)))


@functools.partial(jax.jit, static_argnames=("bits", "length", "signed", "chunk"))
def _unpacked(words: jax.Array, *, bits: int, length: int, signed: bool, chunk: int) -> jax.Array:
    *outer, planes, size = words.shape
    chunks = words.reshape(*outer, planes, size // max(1, chunk), chunk)
    parts = [_elements(chunks, place, bits, signed) for place in range(_PER_BYTE)]
    codes = jnp.stack(parts, -2).reshape(*outer, size * _PER_BYTE)
    codes = lax.slice_in_dim(codes, 0, length, axis=codes.ndim - 1)
    # Fused with what is done to the codes, the stack becomes a choice for each element: 15 times slower on a CPU.
    return lax.optimization_barrier(codes)


def _elements(words: jax.Array, place: int, bits: int, signed: bool) -> jax.Array:
    """The elements whose bits are the bit ``place`` of each byte: ``[..., bits, n, c] -> [..., n, c]``."""
    digits = [(words[..., j, :, :] >> jnp.uint8(place)) & jnp.uint8(1) for j in range(bits)]
    codes = functools.reduce(jnp.bitwise_or, [digit << jnp.uint8(j) for j, digit in enumerate(digits)])
    if not signed:
        return codes
    if bits == 1:
        return lax.bitcast_convert_type(codes + codes - jnp.uint8(1), jnp.int8)
    sign = jnp.uint8(1 << (bits - 1))
    return lax.bitcast_convert_type((codes ^ sign) - sign, jnp.int8)


def _packed(codes: jax.Array, bits: int, signed: bool) -> tuple[jax.Array, int, int, bool, int]:
    """The fields of `PackedInts`."""
    length = codes.shape[-1]
    size = -(-length // _PER_BYTE)
    chunk = size if size <= _CHUNKS[0] else min(_CHUNKS, key=lambda c: -size % c)
    return _words(codes, bits=bits, signed=signed, chunk=chunk), bits, length, signed, chunk


@functools.partial(jax.jit, static_argnames=("bits", "signed", "chunk"))
def _words(codes: jax.Array, *, bits: int, signed: bool, chunk: int) -> jax.Array:
    plain = codes.astype(jnp.int8 if signed else jnp.uint8)
    if signed and bits == 1:
        plain = (plain > 0).astype(jnp.uint8)
    plain = lax.bitcast_convert_type(plain, jnp.uint8)
    *outer, length = plain.shape
    per_chunk = max(1, chunk) * _PER_BYTE
    chunks = -(-length // per_chunk)
    plain = jnp.pad(plain, [(0, 0)] * len(outer) + [(0, chunks * per_chunk - length)])
    parts = plain.reshape(*outer, chunks, _PER_BYTE, max(1, chunk))
    places = jnp.arange(_PER_BYTE, dtype=jnp.uint8).reshape(*(1,) * (len(outer) + 1), _PER_BYTE, 1)
    planes = [((parts >> jnp.uint8(j)) & jnp.uint8(1)) << places for j in range(bits)]
    words = jnp.stack([plane.sum(-2, dtype=jnp.uint8) for plane in planes], -3)
    return words.reshape(*outer, bits, chunks * chunk)


def _require_fit(codes: np.ndarray, bits: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if signed and bits == 1:
        outside = np.abs(codes) != 1
        allowed = "-1 and +1"
    else:
        outside = (codes < low) | (codes > high)
        allowed = f"{low} to {high}"
    if outside.any():
        raise ValueError(f"codes of {bits} bits must be {allowed}, got {codes[outside].flat[0]}")


def narrowed(codes: Any, bits: int) -> Any:
    """Integers in as few bits as they need: int8 and int4 (uint8, uint4) as JAX has them, other widths packed.

    Args:
        codes: int8 or uint8 array whose entries fit in ``bits`` bits.
        bits: 1 to 8.

    Example:
        >>> codes = jnp.zeros((4, 8), jnp.int8)
        >>> narrowed(codes, 8).dtype, narrowed(codes, 4).dtype, narrowed(codes, 3).words.shape
        (dtype('int8'), dtype(int4), (4, 3, 1))
    """
    signed = jnp.issubdtype(codes.dtype, jnp.signedinteger)
    if bits == 8 or not codes.ndim:
        return codes.astype(jnp.int8 if signed else jnp.uint8)
    if bits == 4:
        return codes.astype(jnp.int4 if signed else jnp.uint4)
    return PackedInts(*_packed(codes, bits, bool(signed)))
