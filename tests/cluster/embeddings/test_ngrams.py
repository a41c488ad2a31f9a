import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.cluster.embeddings import SubwordRows
from jaxcompress.cluster.embeddings.ngrams import ngram_places, reach_of, spell

WORDS = ["a", "great", "häng", "naïve", "日本語", "of", "x" * 30]


def fnv(gram):
    """FNV-1a of bytes that are signed, as in fastText."""
    h = 2166136261
    for byte in gram.encode():
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) % 2**32
    return h


def grams(word, least, most):
    """fastText's `Dictionary::computeSubwords`, by characters."""
    full = f"<{word}>"
    return [
        full[i : i + n]
        for i in range(len(full))
        for n in range(least, most + 1)
        if i + n <= len(full) and not (n == 1 and (i == 0 or i + n == len(full)))
    ]


def test_hash_agrees_with_published_values():
    assert (fnv("a"), fnv("foobar")) == (0xE40C292C, 0xBF9CF968)  # the reference vectors of FNV-1a


@pytest.mark.parametrize(("least", "most", "whole"), [(3, 6, False), (1, 2, True)])
def test_places_are_those_of_fasttext(least, most, whole):
    spelling = spell(WORDS)
    ids, there = ngram_places(
        jnp.asarray(spelling), buckets=1000, min_n=least, max_n=most, reach=reach_of(spelling, most), whole=whole
    )
    for word, row, kept in zip(WORDS, np.asarray(ids), np.asarray(there), strict=True):
        expected = [fnv(gram) % 1000 for gram in grams(word, least, most)] + [fnv(f"<{word}>") % 1000] * whole
        assert sorted(row[kept].tolist()) == sorted(expected)


def test_rows_are_the_mean_of_their_vectors():
    table = np.random.RandomState(0).standard_normal((50, 4)).astype(np.float32)
    leaf = SubwordRows.create(WORDS, jnp.asarray(table), whole=False)
    expected = [
        np.mean([table[fnv(gram) % 50] for gram in grams(word, 3, 6)], axis=0) if grams(word, 3, 6) else np.zeros(4)
        for word in WORDS
    ]
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-6)


def test_big_tables_are_decoded_and_multiplied_in_parts(monkeypatch):
    import sys

    module = sys.modules[SubwordRows.__module__]
    leaf = SubwordRows.create(WORDS, jnp.asarray(np.random.RandomState(0).standard_normal((50, 4)), jnp.float32))
    x = jnp.ones((3, 4))
    at_once = leaf.materialize(), leaf.matmul(x, contract=((1,), (1,)), batch=((), ()))
    monkeypatch.setattr(module, "AT_ONCE", 10)
    monkeypatch.setattr(module, "BLOCK", 8)
    parts = leaf.materialize(), leaf.matmul(x, contract=((1,), (1,)), batch=((), ()))
    for got, expected in zip(parts, at_once, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_spelling_is_checked():
    with pytest.raises(ValueError, match="NUL"):
        spell(["a\0b"])
    with pytest.raises(ValueError, match="at least one row"):
        spell([])
    with pytest.raises(ValueError, match="min_n"):
        SubwordRows.create(["a"], jnp.ones((3, 2)), min_n=4, max_n=3)
    with pytest.raises(ValueError, match="combine"):
        SubwordRows.create(["a"], jnp.ones((3, 2)), combine="max")
