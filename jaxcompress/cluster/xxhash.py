"""The hash behind weight sharing by hashing: XXH32 of a few words, in integers that every platform agrees on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_P2, _P3, _P4, _P5 = 2246822519, 3266489917, 668265263, 374761393  # the primes of the specification
_SIGN = 0x9E3779B9  # what tells the seed of the sign hash from that of the bucket hash


def xxhash32(words: Sequence[jax.Array], seed: int) -> jax.Array:
    """XXH32 of a row of words, elementwise: the hash of HashedNets.

    Only integers modulo 2**32 occur, so that the result is the same on every platform and under every transformation.

    Args:
        words: one to three integer arrays of one shape; each is one little-endian word of the input, taken modulo
            2**32.
        seed: taken modulo 2**32, static.

    Returns:
        uint32 array of that shape.

    Raises:
        ValueError: if there are none or more than three words (longer inputs are hashed in another way).

    Example:
        >>> hex(xxhash32([jnp.asarray(0x34333231)], 0).item())  # the bytes "1234"
        '0x1543429'

    References:
        Collet. https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md (XXH32, steps 1, 5 and 6).
    """
    if not 1 <= len(words) <= 3:
        raise ValueError(f"xxhash32: words must be one to three arrays, got {len(words)}")
    h = jnp.full(jnp.shape(words[0]), (seed + _P5 + 4 * len(words)) % 2**32, jnp.uint32)
    for word in words:
        h = h + word.astype(jnp.uint32) * jnp.uint32(_P3)
        h = ((h << jnp.uint32(17)) | _down(h, 15)) * jnp.uint32(_P4)
    h = (h ^ _down(h, 15)) * jnp.uint32(_P2)
    h = (h ^ _down(h, 13)) * jnp.uint32(_P3)
    return h ^ _down(h, 16)


def bucket_of(words: Sequence[jax.Array], buckets: int, seed: int) -> jax.Array:
    """Which of a number of buckets each row of words falls into: int32, in ``[0, buckets)``.

    Example:
        >>> bucket_of([jnp.arange(6)], 4, seed=0).tolist()
        [1, 3, 2, 3, 2, 1]
    """
    hashed = xxhash32(words, seed)
    return lax.rem(hashed, jnp.full_like(hashed, buckets)).astype(jnp.int32)


def sign_of(words: Sequence[jax.Array], seed: int, dtype: Any) -> jax.Array:
    """1 or -1 for each row of words, independent of its bucket.

    Example:
        >>> sign_of([jnp.arange(6)], 0, jnp.float32).tolist()
        [-1.0, -1.0, 1.0, -1.0, -1.0, 1.0]
    """
    negative = _down(xxhash32(words, seed ^ _SIGN), 31) == jnp.uint32(1)
    return jnp.where(negative, jnp.asarray(-1, dtype), jnp.asarray(1, dtype))


def _down(h: jax.Array, bits: int) -> jax.Array:
    return h >> jnp.uint32(bits)
