"""One leaf of every way to hold a table of rows, all of (20, 6)."""

import jax
import jax.numpy as jnp

from jaxcompress.cluster import ProductCodebook
from jaxcompress.cluster.embeddings import BandedRows, ComposedRows, HashedRows, SubwordRows

KEY = jax.random.key(0)
ROWS, DIM = 20, 6
WORDS = [f"{stem}{end}" for stem in ("walk", "talk", "jump", "häng") for end in ("", "s", "ed", "er", "ing")]


def product_codebook():
    codes = jax.random.randint(KEY, (ROWS, 3), 0, 5).astype(jnp.uint8)
    return ProductCodebook.create(codes, jax.random.normal(KEY, (1, 3, 5, 2)), block=(1, 2))


def banded(slot):
    leaf = BandedRows.init(KEY, ROWS, DIM, cutoffs=(4, 10), widths=(6, 3, 1))
    return leaf.replace(slot=jax.random.permutation(KEY, ROWS).astype(jnp.int32)) if slot else leaf


LEAVES = {
    "hashed": lambda: HashedRows.init(KEY, ROWS, DIM, buckets=7),
    "importance": lambda: HashedRows.init(KEY, ROWS, DIM, buckets=7, hashes=2, importance=True),
    "multiply": lambda: ComposedRows.init(KEY, ROWS, DIM, remainders=6),
    "add": lambda: ComposedRows.init(KEY, ROWS, DIM, remainders=6, operation="add"),
    "concat": lambda: ComposedRows.init(KEY, ROWS, DIM, remainders=6, operation="concat"),
    "banded": lambda: banded(True),
    "banded in order": lambda: banded(False),
    "subword": lambda: SubwordRows.init(KEY, WORDS, DIM, buckets=9),
    "product codes": product_codebook,
}
