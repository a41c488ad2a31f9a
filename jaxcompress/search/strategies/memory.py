"""What was asked already: a ring of fingerprints, so that no evaluation is spent twice."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.search.genes import Genes


class Memory(NamedTuple):
    """Fingerprints of the candidates asked last.

    Attributes:
        marks: uint32 ``[capacity, 2]``.
        count: int32: how many were ever remembered; the oldest are overwritten.
    """

    marks: jax.Array
    count: jax.Array


def empty_memory(capacity: int) -> Memory:
    """One that remembers nothing yet."""
    return Memory(jnp.zeros((capacity, 2), jnp.uint32), jnp.int32(0))


def fingerprints(genes: Genes) -> jax.Array:
    """64 bits for each candidate, uint32 ``[..., 2]``: equal genes have equal ones, others do but by a chance of 2^-63.

    Genes must be canonical, as a space gives them.
    """
    values = jax.lax.bitcast_convert_type(jnp.where(genes.values == 0, 0.0, genes.values), jnp.uint32)  # -0 is 0
    words = jnp.concatenate([jax.lax.bitcast_convert_type(genes.codes, jnp.uint32), values], -1)  # [..., genes]
    places = jnp.arange(words.shape[-1], dtype=jnp.uint32)
    places = jnp.expand_dims(places, tuple(range(words.ndim - 1)))
    first = _mixed(words ^ _mixed(places + jnp.uint32(0x9E3779B9))).sum(-1, dtype=jnp.uint32)
    second = _mixed(words ^ _mixed(places + jnp.uint32(0x7F4A7C15))).sum(-1, dtype=jnp.uint32)
    return jnp.stack([first, second | jnp.uint32(1)], -1)  # never the mark of an empty place


def remember(memory: Memory, marks: jax.Array) -> Memory:
    """The memory after ``marks`` ``[n, 2]``: new ones, ``capacity`` of them at most, take the places of the oldest."""
    capacity = len(memory.marks)
    marks = marks[-capacity:]
    new = ~seen(memory, marks)
    places = (memory.count + jnp.cumsum(new, dtype=jnp.int32) - 1) % capacity
    places = jnp.where(new, places, capacity)  # out of bounds: dropped
    return Memory(memory.marks.at[places].set(marks, mode="drop"), memory.count + new.sum(dtype=jnp.int32))


def seen(memory: Memory, marks: jax.Array) -> jax.Array:
    """Bool ``[n]``: which of ``marks`` ``[n, 2]`` are remembered, or repeat an earlier one of them."""
    known = (marks[:, None] == memory.marks[None]).all(-1).any(1)
    return known | repeats(marks)


def repeats(marks: jax.Array) -> jax.Array:
    """Bool ``[n]``: which of ``marks`` ``[n, 2]`` repeat an earlier one of them."""
    equal = (marks[:, None] == marks[None]).all(-1)
    return jnp.tril(equal, -1).any(1)


def _mixed(words: jax.Array) -> jax.Array:
    """A permutation of the 32-bit words in which every bit depends on every bit (the finalizer of MurmurHash3)."""
    words = (words ^ (words >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> jnp.uint32(16))
