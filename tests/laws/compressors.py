"""The table of leaf kinds: each turns any dense array into a leaf, in plain NumPy.

No method chooses the numbers: what is tested here is that the leaf means what it says. A compressor is
``(array, stack) -> leaf or None``. ``stack`` is the number of leading axes that hold separate layers; None means that
the kind cannot hold such an array (a vector has no factors).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.cluster.codebook import Codebook
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.cluster.soft_codebook import SoftCodebook
from jaxcompress.core.leaf import CompressedArray
from jaxcompress.factorize.lora import Lora
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.tucker_array import TuckerArray
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.packed_nm import PackedNM
from jaxcompress.quantize.affine import AffineQuantized, Quantized
from jaxcompress.quantize.packed import PackedInts
from jaxcompress.quantize.quantized_input import DynamicActivations, StaticActivations
from jaxcompress.quantize.rescaled import Rescaled
from jaxcompress.quantize.tabled import FixedTable, Tabled
from jaxcompress.quantize.training.fake import LearnedOffset, StraightThrough
from jaxcompress.quantize.training.fake_input import LearnedInput
from tests.laws import networks, rows

Compressor = Callable[[Any, int], CompressedArray | None]


def masked(w: Any, stack: int) -> CompressedArray:
    """Half of the entries dropped, in no pattern."""
    del stack
    mask = half(w.shape)
    return Masked.create(jnp.asarray(np.where(mask, np.asarray(w), np.zeros((), w.dtype))), jnp.asarray(mask))


def codebook(w: Any, stack: int, levels: int = 11) -> CompressedArray:
    """Eleven levels per layer, evenly spread over its range."""
    layers = numbers(w).reshape(*w.shape[:stack], -1)
    table = np.linspace(layers.min(-1), layers.max(-1), levels, axis=-1)
    codes = np.abs(layers[..., None] - table[..., None, :]).argmin(-1).reshape(w.shape)
    return Codebook.create(jnp.asarray(codes, jnp.uint8), jnp.asarray(table, w.dtype), dtype=w.dtype)


def masked_codebook(w: Any, stack: int) -> CompressedArray:
    """A mask over shared weights: the codes of dropped entries are 0."""
    shared, mask = codebook(w, stack), jnp.asarray(half(w.shape))
    return Masked.create(shared.replace(codes=shared.codes * mask.astype(jnp.uint8)), mask)


def codebook_of_channels(w: Any, stack: int) -> CompressedArray | None:
    """Four quantiles for each index of the last axis."""
    if w.ndim - stack < 2:
        return None
    axes = tuple(range(stack, w.ndim - 1))
    table = np.moveaxis(np.quantile(numbers(w), (0.1, 0.35, 0.65, 0.9), axis=axes, keepdims=True), 0, -1)
    codes = np.abs(numbers(w)[..., None] - table).argmin(-1)
    return Codebook.create(jnp.asarray(codes, jnp.uint8), jnp.asarray(table, w.dtype), dtype=w.dtype)


def vectors(w: Any, stack: int, own: bool = False, levels: int = 5) -> CompressedArray | None:
    """Five vectors per layer, or per column of blocks, out of the array: blocks of two along the first axis, or one."""
    if w.ndim == stack:
        return None
    length = 2 if w.shape[stack] % 2 == 0 else 1
    split = numbers(w).reshape(*w.shape[:stack], w.shape[stack] // length, length, *w.shape[stack + 1 :])
    blocks = np.moveaxis(split, stack + 1, -1)  # [..., length]
    sizes = (*w.shape[:stack], blocks.shape[stack] if own else 1, *(1,) * (w.ndim - stack - 1))
    flat = blocks.reshape(*sizes[: stack + 1], -1, length)
    table = flat[..., np.arange(levels) * flat.shape[-2] // levels, :]
    codes = np.square(flat[..., None, :] - table[..., None, :, :]).sum(-1).argmin(-1).reshape(blocks.shape[:-1])
    table = jnp.asarray(table.reshape(*sizes, levels, length), w.dtype)
    block = (length, *(1,) * (w.ndim - stack - 1))
    return ProductCodebook.create(jnp.asarray(codes, jnp.uint8), table, block, dtype=w.dtype)


def dkm(w: Any, stack: int) -> CompressedArray | None:
    """Floats that act as mixtures of four quantiles of each layer."""
    if w.ndim == stack:
        return None
    sizes = (*w.shape[:stack], *(1,) * (w.ndim - stack))
    table = np.quantile(numbers(w).reshape(*w.shape[:stack], -1), (0.1, 0.35, 0.65, 0.9), axis=-1)
    table = jnp.asarray(np.moveaxis(table, 0, -1).reshape(*sizes, 4, 1), w.dtype)
    ones = (1,) * (w.ndim - stack)
    return SoftCodebook(jnp.asarray(w), table, jnp.ones(sizes, jnp.float32), None, ones, 2, jnp.dtype(w.dtype))


def vectors_of_rows(w: Any, stack: int) -> CompressedArray | None:
    """A table for every row of blocks."""
    return vectors(w, stack, own=True)


def int8(w: Any, stack: int) -> CompressedArray:
    """A scale for each index of the last axis."""
    return quantized(w, (*w.shape[:stack], *(1,) * (w.ndim - stack - 1), w.shape[-1]), jnp.int8)


def int8_tensor(w: Any, stack: int) -> CompressedArray:
    """One scale per layer."""
    return quantized(w, (*w.shape[:stack], *(1,) * (w.ndim - stack)), jnp.int8)


def int4_groups(w: Any, stack: int) -> CompressedArray:
    """A scale per index of the last axis and group of two along the first."""
    if w.ndim - stack < 2:
        return quantized(w, w.shape, jnp.int4)
    first = w.shape[stack] // 2 if w.shape[stack] % 2 == 0 else 1
    return quantized(w, (*w.shape[:stack], first, *(1,) * (w.ndim - stack - 2), w.shape[-1]), jnp.int4)


def rescaled_int8(w: Any, stack: int) -> CompressedArray:
    """A factor for each index of the last but one axis, or of the only one, and int8 with a scale per layer inside."""
    axis = max(stack, w.ndim - 2)
    shape = tuple(size if i < stack or i == axis else 1 for i, size in enumerate(w.shape))
    factor = np.exp2(np.sin(np.arange(np.prod(shape, dtype=int)))).reshape(shape)
    inside = jnp.asarray(numbers(w) / factor, w.dtype)
    return Rescaled.create(int8_tensor(inside, stack), jnp.asarray(factor, jnp.result_type(float)))


def int3_zero_points(w: Any, stack: int) -> CompressedArray | None:
    """Three bits, packed; scale and zero point per index of the last axis."""
    if w.ndim == stack:
        return None
    axes = tuple(range(stack, w.ndim - 1))
    low, high = (reduce(numbers(w), axis=axes, keepdims=True) for reduce in (np.min, np.max))
    scale = np.asarray((np.maximum(high, 0) - np.minimum(low, 0)) / 7 + 1e-6, np.float32)
    zero = np.clip(np.round(-4 - np.minimum(low, 0) / scale), -4, 3)
    codes = PackedInts.create(jnp.asarray(np.clip(np.round(numbers(w) / scale) + zero, -4, 3), jnp.int8), bits=3)
    return AffineQuantized.create(codes, jnp.asarray(scale, w.dtype), jnp.asarray(zero, jnp.int4), dtype=w.dtype)


def seven_levels(w: Any, stack: int) -> CompressedArray | None:
    """Fixed levels in three bits, packed; a scale per index of the last axis."""
    if w.ndim == stack:
        return None
    levels = (-1.0, -0.5, -0.2, 0.0, 0.25, 0.5, 1.0)
    scale = np.abs(numbers(w)).max(tuple(range(stack, w.ndim - 1)), keepdims=True) + 1e-6
    codes = np.abs((numbers(w) / scale)[..., None] - np.asarray(levels)).argmin(-1)
    packed = PackedInts.create(jnp.asarray(codes, jnp.uint8), bits=3)
    return FixedTable.create(packed, jnp.asarray(scale, w.dtype), levels, dtype=w.dtype)


def levels_of_channels(w: Any, stack: int) -> CompressedArray | None:
    """A table of four quantiles for each index of the last axis, a scale for each layer."""
    if w.ndim - stack < 2:
        return None
    scale = np.abs(numbers(w)).max(tuple(range(stack, w.ndim)), keepdims=True) + 1e-6
    axes = tuple(range(stack, w.ndim - 1))
    table = np.moveaxis(np.quantile(numbers(w) / scale, (0.1, 0.35, 0.65, 0.9), axis=axes, keepdims=True), 0, -1)
    codes = np.abs((numbers(w) / scale)[..., None] - table).argmin(-1)
    table, scale = jnp.asarray(table, w.dtype), jnp.asarray(scale, w.dtype)
    return Tabled.create(jnp.asarray(codes, jnp.uint8), table, scale, dtype=w.dtype)


def mxfp4(w: Any, stack: int) -> CompressedArray:
    """Four-bit floats, powers of two as scales, per index of the last axis and half of the first one."""
    first = w.shape[stack] // 2 if w.ndim > stack + 1 and w.shape[stack] % 2 == 0 else 1
    shape = (*w.shape[:stack], *(first, *(1,) * (w.ndim - stack - 2), w.shape[-1])[: w.ndim - stack])
    split = [n for part, whole in zip(shape, w.shape, strict=True) for n in (part, whole // part)]
    groups = numbers(w).reshape(split)
    largest = np.abs(groups).max(tuple(range(1, 2 * w.ndim, 2)), keepdims=True) + 1e-6
    scale = np.exp2(np.floor(np.log2(largest)) - 2)
    values = np.clip(groups / scale, -6, 6).reshape(w.shape)
    codes = jnp.asarray(values, jnp.float32).astype(jnp.float4_e2m1fn)
    return Quantized.create(codes, jnp.asarray(scale.reshape(shape), jnp.float8_e8m0fnu), dtype=w.dtype)


def lowrank(w: Any, stack: int) -> CompressedArray | None:
    """Three components; the last axis is the column."""
    return None if w.ndim - stack < 2 else factors(w, stack, w.ndim - stack - 1, rank=3)


def lowrank_int8(w: Any, stack: int) -> CompressedArray | None:
    """Four components in int8; the first axis is the row."""
    if w.ndim - stack < 2:
        return None
    leaf = factors(w, stack, 1, rank=4)
    return leaf.replace(u=int8(leaf.u, stack), v=int8_tensor(leaf.v, stack))


def lowrank_mixed(w: Any, stack: int) -> CompressedArray | None:
    """A pruned factor and a clustered one."""
    if w.ndim - stack < 2:
        return None
    leaf = factors(w, stack, w.ndim - stack - 1, rank=3)
    return leaf.replace(u=masked(leaf.u, stack), v=codebook(leaf.v, stack, 7))


def tucker(w: Any, stack: int) -> CompressedArray | None:
    """A core of half the size along the first and the last axis, in int8, and the leading directions of both."""
    if w.ndim - stack < 2:
        return None
    core, factors = numbers(w), [None] * (w.ndim - stack)
    for axis in (stack, w.ndim - 1):
        layers = np.moveaxis(core, axis, stack)
        unfolding = layers.reshape(*layers.shape[: stack + 1], -1)
        basis = np.linalg.svd(unfolding, full_matrices=False)[0][..., : (w.shape[axis] + 1) // 2]
        rest = (1,) * (w.ndim - stack - 2)
        turned = np.swapaxes(basis, -1, -2).reshape(*w.shape[:stack], *rest, basis.shape[-1], basis.shape[-2])
        core = np.moveaxis(turned @ np.moveaxis(core, axis, -2), -2, axis)
        factors[axis - stack] = jnp.asarray(basis, w.dtype)
    return TuckerArray.create(int8(jnp.asarray(core, w.dtype), stack), factors)


def nm(w: Any, stack: int) -> CompressedArray | None:
    """Half of each group of four, where four divides the axis; the last but one axis, or the only one."""
    if w.ndim == stack:
        return None
    axis = max(stack, w.ndim - 2)
    m = next(m for m in (4, 2, 3, 5, 7, w.shape[axis]) if w.shape[axis] % m == 0)
    n = max(1, m // 2)
    groups = np.abs(numbers(w)).reshape(*w.shape[:axis], -1, m, *w.shape[axis + 1 :])
    rank = np.argsort(np.argsort(-groups, axis + 1, kind="stable"), axis + 1)
    return PackedNM.create(jnp.asarray(w), jnp.asarray((rank < n).reshape(w.shape)), n=n, m=m, axis=axis)


def lora(w: Any, stack: int) -> CompressedArray | None:
    """A delta of rank two over int8; the last axis is the column."""
    if w.ndim - stack < 2:
        return None
    base = int8(w, stack)
    return Lora.create(base, factors(base.materialize(), stack, w.ndim - stack - 1, rank=2), 0.25)


def fake_straight_through(w: Any, stack: int) -> CompressedArray | None:
    """Floats that stand for int4, with a scale per index of the last axis that follows from them."""
    if w.ndim == stack:
        return None
    core = (*(1,) * (w.ndim - stack - 1), w.shape[-1])
    return StraightThrough(jnp.asarray(w), core, "int", 4, True, "absmax", jnp.dtype(w.dtype))


def fake_learned_offset(w: Any, stack: int) -> CompressedArray:
    """Floats that stand for 3 bits, with one step and one offset per layer that train."""
    one = (*w.shape[:stack], *(1,) * (w.ndim - stack))
    reach = np.abs(numbers(w)).reshape(*w.shape[:stack], -1).max(-1).reshape(one) + 1e-3
    scale, offset = (jnp.asarray(part * reach, jnp.float32) for part in (0.3, -0.9))
    return LearnedOffset(jnp.asarray(w), scale, offset, 3, max(1, w.size // scale.size), jnp.dtype(w.dtype))


KINDS: dict[str, Compressor] = {
    "masked": masked,
    "codebook": codebook,
    "vectors": vectors,
    "nm": nm,
    "int8": int8,
    "int4_groups": int4_groups,
    "rescaled_int8": rescaled_int8,
    "lowrank": lowrank,
    "lowrank_int8": lowrank_int8,
    "lora": lora,
    "tensor_train": networks.train,
    "tucker": tucker,
    "hashed": rows.hashed,
}

RELATED: dict[str, Compressor] = {
    "int3_zero_points": int3_zero_points,
    "masked_codebook": masked_codebook,
    "lowrank_mixed": lowrank_mixed,
    "int8_tensor": int8_tensor,
    "cp": networks.canonical,
    "gates": networks.gates,
    "codebook_of_channels": codebook_of_channels,
    "vectors_of_rows": vectors_of_rows,
    "dkm": dkm,
    "seven_levels": seven_levels,
    "levels_of_channels": levels_of_channels,
    "mxfp4": mxfp4,
    "fake_straight_through": fake_straight_through,
    "fake_learned_offset": fake_learned_offset,
    "hashed_rows": rows.hashed_rows,
    "composed_rows": rows.composed_rows,
    "banded_rows": rows.banded_rows,
    "subword_rows": rows.subword_rows,
}
"""Kinds that multiply as another one does, or are materialized wherever they are used: they meet the models in the full
product alone."""


def fake_learned_input(w: Any, stack: int) -> CompressedArray:
    """Floats that meet data on a grid per layer that trains."""
    grid = (*w.shape[:stack], 1)
    scale, offset = jnp.full(grid, 0.05, jnp.float32), jnp.full(grid, -1.0, jnp.float32)
    return LearnedInput(jnp.asarray(w), scale, offset, 6, False, "step and offset", (0,))


def dynamic_input(w: Any, stack: int) -> CompressedArray:
    """int8 that meets int8 data, a grid for every row."""
    return DynamicActivations(int8(w, stack), 8)


def static_input(w: Any, stack: int) -> CompressedArray:
    """int8 that meets int8 data on a fixed grid per layer."""
    grid = (*w.shape[:stack], 1)
    return StaticActivations(int8(w, stack), jnp.full(grid, 0.05, jnp.float32), jnp.full(grid, 3, jnp.int8), 8)


ROUNDING_DATA: dict[str, Compressor] = {
    "dynamic_input": dynamic_input,
    "static_input": static_input,
    "fake_learned_input": fake_learned_input,
}
"""Kinds that round the data they meet: `test_activation_law` holds their forms against each other."""


def numbers(w: Any) -> np.ndarray:
    return np.asarray(w, np.float64)


def half(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(0).rand(*shape) < 0.5


def quantized(w: Any, scale_shape: tuple[int, ...], dtype: Any) -> Quantized:
    """Absmax quantization with the given shape of scales."""
    split = [n for part, whole in zip(scale_shape, w.shape, strict=True) for n in (part, whole // part)]
    inside = tuple(range(1, 2 * w.ndim, 2))
    groups = numbers(w).reshape(split)
    top = 127 if dtype == jnp.int8 else 7
    scale = np.abs(groups).max(inside, keepdims=True) / top + 1e-6
    values = np.round(groups / scale).reshape(w.shape)
    return Quantized.create(jnp.asarray(values, dtype), jnp.asarray(scale.reshape(scale_shape), w.dtype), dtype=w.dtype)


def factors(w: Any, stack: int, row_ndim: int, rank: int) -> LowRank:
    """The leading singular directions."""
    layers, rows, cols = w.shape[:stack], w.shape[stack : stack + row_ndim], w.shape[stack + row_ndim :]
    u, s, vt = np.linalg.svd(numbers(w).reshape(*layers, int(np.prod(rows)), -1), full_matrices=False)
    rank = min(rank, s.shape[-1])
    thin = (u * s[..., None, :])[..., :rank].reshape(*layers, *rows, rank)
    wide = vt[..., :rank, :].reshape(*layers, rank, *cols)
    return LowRank.create(jnp.asarray(thin, w.dtype), jnp.asarray(wide, w.dtype), row_ndim=row_ndim, col_ndim=len(cols))
