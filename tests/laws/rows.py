"""Rows of the table of leaf kinds that hash, and that stand for tables of rows, in plain NumPy as the others are."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.cluster.embeddings import BandedRows, ComposedRows, HashedRows, SubwordRows
from jaxcompress.cluster.hashed import Hashed
from jaxcompress.core.leaf import CompressedArray


def hashed(w: Any, stack: int) -> CompressedArray | None:
    """As many values as the root of the weights, the first ones of the layer."""
    if w.ndim == stack:
        return None
    layers = np.asarray(w, np.float64).reshape(*w.shape[:stack], -1)
    values = layers[..., : max(1, int(layers.shape[-1] ** 0.5))]
    return Hashed.create(jnp.asarray(values, w.dtype), w.shape[stack:], seed=1)


def hashed_rows(w: Any, stack: int) -> CompressedArray | None:
    """The first half of the rows, two of them in each row with weights of its own."""
    if not is_table(w, stack):
        return None
    half = max(3, w.shape[-2] // 2)
    importance = np.broadcast_to(0.3 + np.cos(np.arange(2 * w.shape[-2])).reshape(-1, 2), (*w.shape[:-1], 2))
    return HashedRows.create(w[..., :half, :], jnp.asarray(importance, w.dtype), rows=w.shape[-2], hashes=2, seed=1)


def composed_rows(w: Any, stack: int) -> CompressedArray | None:
    """Products of the first rows and the last three."""
    if not is_table(w, stack):
        return None
    quotients = -(-w.shape[-2] // 3)
    return ComposedRows.create(w[..., :quotients, :], w[..., -3:, :], rows=w.shape[-2])


def banded_rows(w: Any, stack: int) -> CompressedArray | None:
    """Two rows in full, the others one wide, in the order backwards."""
    if not is_table(w, stack):
        return None
    slot = np.broadcast_to(np.arange(w.shape[-2])[::-1], w.shape[:-1])
    bands = [(w[..., :2, :], None), (w[..., 2:, :1], w[..., :1, :])]
    return BandedRows.create(bands, jnp.asarray(slot, jnp.int32))


def subword_rows(w: Any, stack: int) -> CompressedArray | None:
    """Rows named by their number; the first three are the vectors of the n-grams."""
    if not is_table(w, stack):
        return None
    return SubwordRows.create([f"row {i}" for i in range(w.shape[-2])], w[..., :3, :], min_n=2, max_n=4)


def is_table(w: Any, stack: int) -> bool:
    """At least three rows, of two entries or more."""
    return w.ndim - stack == 2 and w.shape[-2] >= 3 and w.shape[-1] >= 2
