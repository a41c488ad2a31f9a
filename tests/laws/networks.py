"""Compressors of the kinds that are networks of small arrays: canonical sums, tensor trains, blocks of factors."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.factorize.blocks import Blocks
from jaxcompress.factorize.cp_tensor import CPTensor
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.tensor_train import TensorTrain


def canonical(w: Any, stack: int) -> CompressedArray | None:
    """Three products of vectors, the singular ones of each unfolding; the first one scaled."""
    if w.ndim - stack < 2:
        return None
    layers, sizes = w.shape[:stack], w.shape[stack:]
    dense = np.asarray(w, np.float64)
    vectors = []
    for axis, size in enumerate(sizes):
        unfolded = np.moveaxis(dense, stack + axis, stack).reshape(*layers, size, -1)
        u, s, _ = np.linalg.svd(unfolded, full_matrices=True)
        padded = np.concatenate([u * (s[..., None, :1] if axis == 0 else 1)] * 3, axis=-1)
        vectors.append(jnp.asarray(padded[..., :3], w.dtype))
    return CPTensor.create(vectors)


def train(w: Any, stack: int) -> CompressedArray | None:
    """Ranks up to three; the first axis is two digits, which count a bit too far, every other one is its own core."""
    if not 2 <= w.ndim - stack <= 7:
        return None
    layers, (first, *rest) = w.shape[:stack], w.shape[stack:]
    high = math.isqrt(first) + 1 if first > 2 else first
    low = -(-first // high)
    missing = [(0, 0)] * stack + [(0, high * low - first)] + [(0, 0)] * len(rest)
    left = np.pad(np.asarray(w, np.float64), missing).reshape(*layers, 1, high * low * math.prod(rest))
    cores, rank = [], 1
    for size in (high, low, *rest[:-1]):
        u, s, vt = np.linalg.svd(left.reshape(*layers, rank * size, -1), full_matrices=False)
        kept = min(3, s.shape[-1])
        cores.append(u[..., :kept].reshape(*layers, rank, size, kept))
        left, rank = s[..., :kept, None] * vt[..., :kept, :], kept
    cores.append(left.reshape(*layers, rank, rest[-1], 1))
    axes = [(0,), (0,), *((axis,) for axis in range(1, len(rest) + 1))]
    return TensorTrain.create([jnp.asarray(core, w.dtype) for core in cores], axes, w.shape[stack:])


def gates(w: Any, stack: int) -> CompressedArray | None:
    """Halves of the first axis, where it has two, in two components each; the last axis is their column."""
    if w.ndim - stack < 2:
        return None
    layers, (first, *rest) = w.shape[:stack], w.shape[stack:]
    count = 2 if first % 2 == 0 else 1
    blocks = np.asarray(w, np.float64).reshape(*layers, count, first // count, *rest)
    u, s, vt = np.linalg.svd(blocks.reshape(*layers, count, -1, rest[-1]), full_matrices=False)
    kept = min(2, s.shape[-1])
    thin = (u * s[..., None, :])[..., :kept].reshape(*blocks.shape[:-1], kept)
    inside = LowRank.create(jnp.asarray(thin, w.dtype), jnp.asarray(vt[..., :kept, :], w.dtype), row_ndim=len(rest))
    return Blocks.create(inside, 0, stack)
