import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.cluster.xxhash import bucket_of, sign_of, xxhash32

# Published by others, of strings of 4 and 12 bytes: daisuke-t-jp/xxHash-Swift (seed 0), and the tests of bdn (seed 17).
PUBLISHED = [
    (b"1234", 0, 0x01543429),
    (b"123456789ABC", 0, 0x4C91C2E5),
    (b"dcba", 0, 0x90CAB330),
    (b"dcba", 17, 0x89F1E75E),
]


def words_of(text):
    return [jnp.asarray(word, jnp.uint32) for (word,) in struct.iter_unpack("<I", text)]


@pytest.mark.parametrize(("text", "seed", "expected"), PUBLISHED)
def test_agrees_with_published_values(text, seed, expected):
    assert int(xxhash32(words_of(text), seed)) == expected


def reference(words, seed):
    """The specification in Python integers."""
    mask = 2**32 - 1
    h = (seed + 374761393 + 4 * len(words)) & mask
    for word in words:
        h = (h + word * 3266489917) & mask
        h = ((h << 17 | h >> 15) & mask) * 668265263 & mask
    h = (h ^ h >> 15) * 2246822519 & mask
    h = (h ^ h >> 13) * 3266489917 & mask
    return h ^ h >> 16


def test_agrees_with_python_integers_everywhere():
    words = np.random.RandomState(0).randint(0, 2**32, (2, 200), dtype=np.uint64).astype(np.uint32)
    run = jax.jit(lambda a, b: xxhash32([a, b], 2**32 - 1))
    expected = [reference([int(a), int(b)], 2**32 - 1) for a, b in words.T]
    np.testing.assert_array_equal(run(*map(jnp.asarray, words)), np.asarray(expected, np.uint32))
    np.testing.assert_array_equal(jax.vmap(run)(*map(jnp.asarray, words)), np.asarray(expected, np.uint32))


def test_buckets_and_signs_are_even_and_independent():
    rows = jnp.arange(40_000)
    buckets, signs = bucket_of([rows], 8, seed=3), sign_of([rows], 3, jnp.float32)
    table = np.zeros((8, 2))
    np.add.at(table, (np.asarray(buckets), np.asarray(signs > 0).astype(int)), 1)
    # Sixteen cells of 2500: chi-square with 15 degrees of freedom is below 37.7 in 99.9 of 100 cases.
    assert ((table - 2500) ** 2 / 2500).sum() < 37.7
    assert set(np.unique(signs)) == {-1.0, 1.0}


def test_needs_one_to_three_words():
    with pytest.raises(ValueError, match="one to three"):
        xxhash32([jnp.zeros(2, jnp.uint32)] * 4, 0)
