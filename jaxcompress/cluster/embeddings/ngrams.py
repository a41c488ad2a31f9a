"""Character n-grams of spelled words, hashed to buckets as fastText does, inside compiled programs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_FNV_START, _FNV_PRIME = 2166136261, 16777619


def spell(words: Sequence[str]) -> np.ndarray:
    """Words as rows of UTF-8 bytes between ``<`` and ``>``, filled up with zeros: uint8 ``[words, longest]``.

    Raises:
        ValueError: if there is no word, one is no string, or one holds the character NUL.

    Example:
        >>> spell(["a", "is"]).tolist()
        [[60, 97, 62, 0], [60, 105, 115, 62]]
    """
    if isinstance(words, str | bytes) or not all(isinstance(word, str) for word in words):
        other = words if isinstance(words, str | bytes) else next(word for word in words if not isinstance(word, str))
        raise ValueError(f"words must be a sequence of strings, one for each row, got {other!r:.80}")
    if not words:
        raise ValueError("words must name at least one row, got none")
    coded = [f"<{word}>".encode() for word in words]
    bad = next((word for word, code in zip(words, coded, strict=True) if 0 in code), None)
    if bad is not None:
        raise ValueError(f"words must hold no NUL, which ends a word here, got {bad!r}")
    width = max(map(len, coded))
    return np.frombuffer(b"".join(code.ljust(width, b"\0") for code in coded), np.uint8).reshape(len(coded), width)


def reach_of(spelling: np.ndarray, max_n: int) -> int:
    """The most bytes that ``max_n`` neighbouring characters of these words have.

    Example:
        >>> reach_of(spell(["abcd"]), 3), reach_of(spell(["äöü"]), 3)
        (3, 6)
    """
    word = spelling != 0
    starts = word & ~_continues(spelling)
    before = np.concatenate([np.zeros((len(spelling), 1), int), np.cumsum(starts, 1)], 1)  # characters begun before
    most = 0
    for row, (count, length) in enumerate(zip(before[:, -1], word.sum(1), strict=True)):
        at = np.append(np.flatnonzero(starts[row]), length)
        n = min(max_n, count)
        most = max(most, int((at[n:] - at[: len(at) - n]).max()))
    return most


@functools.partial(jax.jit, static_argnames=("buckets", "min_n", "max_n", "reach", "whole"))
def ngram_places(
    spelling: jax.Array, *, buckets: int, min_n: int, max_n: int, reach: int, whole: bool
) -> tuple[jax.Array, jax.Array]:
    """The buckets of the n-grams of every word, repeated ones repeatedly.

    The n-grams are those of fastText: ``min_n`` to ``max_n`` characters of ``<word>``, but neither ``<`` nor ``>``
    alone; the bucket is FNV-1a of their bytes (each sign-extended, as there) modulo the number of buckets.

    Args:
        spelling: uint8 ``[n, length]`` from `spell`.
        buckets: static.
        min_n: static.
        max_n: static.
        reach: bytes that ``max_n`` characters have at most, static (`reach_of`).
        whole: the word as a whole is one more n-gram, static.

    Returns:
        ``(buckets, there)``: int32 and bool ``[n, places]``; places where no n-gram is have some bucket and False.

    Example:
        >>> ids, there = ngram_places(jnp.asarray(spell(["is"])), buckets=100, min_n=3, max_n=3, reach=3, whole=False)
        >>> ids[there].tolist()  # "<is" and "is>"
        [99, 25]

    References:
        Bojanowski et al., 2017. https://arxiv.org/abs/1607.04606; fastText's ``Dictionary::computeSubwords`` and
        ``Dictionary::hash``.
    """
    letters = spelling.astype(jnp.uint32)
    inside, continues = spelling != jnp.uint8(0), _continues(spelling)
    last = inside & ~_ahead(inside, 1)
    starts = inside & ~continues
    first = jnp.broadcast_to((jnp.arange(spelling.shape[1]) == 0)[None], spelling.shape)
    hashed = jnp.full(letters.shape, _FNV_START, jnp.uint32)
    characters = jnp.zeros(letters.shape, jnp.int32)
    found, there = [], []
    for j in range(reach):
        hashed = _absorb(hashed, _ahead(letters, j))
        characters = characters + _ahead(starts, j).astype(jnp.int32)
        if j + 1 < min_n:
            continue
        complete = _ahead(inside, j) & ~_ahead(continues, j + 1)
        bracket = (characters == 1) & (first | _ahead(last, j))
        there.append(starts & complete & (characters >= min_n) & (characters <= max_n) & ~bracket)
        found.append(hashed)
    if whole:
        there.append(jnp.ones((spelling.shape[0], 1), bool))
        found.append(_whole(letters)[:, None])
    ids = jnp.concatenate(found, axis=1)
    return lax.rem(ids, jnp.full_like(ids, buckets)).astype(jnp.int32), jnp.concatenate(there, axis=1)


def _whole(letters: jax.Array) -> jax.Array:
    def step(hashed: jax.Array, letter: jax.Array) -> tuple[jax.Array, None]:
        return jnp.where(letter == jnp.uint32(0), hashed, _absorb(hashed, letter)), None

    return lax.scan(step, jnp.full(letters.shape[:1], _FNV_START, jnp.uint32), letters.T)[0]


def _absorb(hashed: jax.Array, letter: jax.Array) -> jax.Array:
    """One step of FNV-1a with a byte that is sign-extended."""
    signed = jnp.where(letter >= jnp.uint32(128), letter | jnp.uint32(0xFFFFFF00), letter)
    return (hashed ^ signed) * jnp.uint32(_FNV_PRIME)


def _ahead(x: jax.Array, steps: int) -> jax.Array:
    """What stands some bytes further on; zero, or False, beyond the end."""
    return jnp.pad(x, ((0, 0), (0, steps)))[:, steps:]


def _continues(spelling: Any) -> Any:
    """The bytes that go on with a character of UTF-8."""
    return (spelling & np.uint8(0xC0)) == np.uint8(0x80)
