"""The bits of arrays as unsigned integers, and those as byte planes. Exact for every dtype, NaN payloads included."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width

_NAMES = """
bool int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64
float16 float32 float64 bfloat16 complex64 complex128 float4_e2m1fn
float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
"""
DTYPES: dict[str, np.dtype] = {name: jnp.dtype(name) for name in _NAMES.split()}
"""The dtypes that a file may hold, by name. A name read from a file is looked up here and nowhere else."""


def element_bits(dtype: np.dtype) -> int:
    """Bits of one packed element: 1 for bool, 4 for int4, 64 for complex64."""
    return 8 * dtype.itemsize if dtype.kind == "c" else bit_width(dtype)


def to_words(array: np.ndarray) -> np.ndarray:
    """The bits of each element, flat and in C order, as uint8 / 16 / 32 / 64; two words for a complex element."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(np.float32 if flat.dtype.itemsize == 8 else np.float64)
    if not flat.dtype.isnative:
        flat = flat.astype(flat.dtype.newbyteorder("="))
    words = flat.view(f"u{flat.dtype.itemsize}")
    narrow = element_bits(flat.dtype)
    return words & np.uint8((1 << narrow) - 1) if narrow < 8 else words


def from_words(words: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `to_words`, flat."""
    narrow = element_bits(dtype)
    if narrow < 8 and jnp.issubdtype(dtype, jnp.signedinteger):
        sign = np.int8(1 << (narrow - 1))
        return ((words.view(np.int8) ^ sign) - sign).astype(dtype)
    return words.view(dtype)


def to_planes(array: np.ndarray) -> list[np.ndarray]:
    """Byte planes, the most significant first, arranged so that what is alike stands together.

    Signed integers are folded (0, -1, 1, -2, ... in wide ones, offset by half the range in bytes), floats are turned
    left by one bit, so that the exponent comes first.
    """
    words, dtype = to_words(array), array.dtype
    width = words.dtype.itemsize * 8
    one = words.dtype.type(1)
    if width == 8:
        signed = jnp.issubdtype(dtype, jnp.signedinteger)
        return [words ^ np.uint8(1 << (element_bits(dtype) - 1)) if signed else words]
    if jnp.issubdtype(dtype, jnp.signedinteger):
        words = (words << one) ^ (np.zeros_like(words) - (words >> words.dtype.type(width - 1)))
    elif not jnp.issubdtype(dtype, jnp.unsignedinteger):
        words = (words << one) | (words >> words.dtype.type(width - 1))
    return [(words >> words.dtype.type(shift)).astype(np.uint8) for shift in range(width - 8, -8, -8)]


def from_planes(planes: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The inverse of `to_planes`, flat."""
    if len(planes) == 1:
        signed = jnp.issubdtype(dtype, jnp.signedinteger)
        return from_words(planes[0] ^ np.uint8(1 << (element_bits(dtype) - 1)) if signed else planes[0], dtype)
    kind = np.dtype(f"u{len(planes)}").type
    words = np.zeros(planes[0].shape, kind)
    for plane in planes:
        words = (words << kind(8)) | plane.astype(kind)
    one, top = kind(1), kind(8 * len(planes) - 1)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        words = (words >> one) ^ (np.zeros_like(words) - (words & one))
    elif not jnp.issubdtype(dtype, jnp.unsignedinteger):
        words = (words >> one) | (words << top)
    return from_words(words, dtype)


def word_count(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """``(words, planes)`` that an array of this shape and dtype has, in exact integers."""
    count = math.prod(shape)
    return (2 * count, dtype.itemsize // 2) if dtype.kind == "c" else (count, dtype.itemsize)


def pack(values: np.ndarray, width: int) -> bytes:
    """The lowest ``width`` bits of each value (uint8), most significant bit first, without gaps."""
    return np.packbits(np.unpackbits(values.reshape(-1, 1), axis=1)[:, 8 - width :]).tobytes()


def unpack(packed: bytes, width: int, count: int) -> np.ndarray:
    """The inverse of `pack`: ``count`` values of ``width`` bits, as uint8."""
    loose = np.zeros((count, 8), np.uint8)
    loose[:, 8 - width :] = np.unpackbits(np.frombuffer(packed, np.uint8), count=count * width).reshape(count, width)
    return np.packbits(loose)


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `pack` returns."""
    return -(-count * width // 8)
