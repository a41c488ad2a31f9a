"""Exact top-k masks without a sort: bisection on the bit patterns of the scores.

Floats map to unsigned integers of the same order (`ordered_keys`), so that the k-th largest of n scores is found by
fixing one bit after the other: ``T`` is the largest integer with ``count(keys >= T) >= k``. Counts are integers (a
float32 count stops at 2^24), and the cost does not depend on the values.

Where the time goes: every bit costs one pass over the data, so the passes run over bytes. The keys are searched eight
bits at a time; the current byte of the entries that still match is written out once (others become 0, which no
candidate counts), then eight passes compare uint8 with uint8 and add up in uint8, 64 entries to a vector register.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

_LINES = 128  # entries that one uint8 partial count adds up: at most 255
_WIDTH = 1024  # partial counts side by side


def kept_count(size: int, sparsity: ArrayLike) -> int | jax.Array:
    """How many of ``size`` entries stay: ``size - round(sparsity * size)``, halves to even.

    Exact for every size below 2^31, traced or not (a float32 product would be off above 2^24).

    Args:
        size: number of entries, static.
        sparsity: fraction to drop, in ``[0, 1]``. May be traced; it then counts as the float32 it is.

    Returns:
        A Python int if ``sparsity`` is concrete, else an int32 scalar.

    Raises:
        ValueError: if ``size`` is 2^31 or more, or ``sparsity`` is concrete and outside ``[0, 1]``.

    Example:
        >>> kept_count(5, 0.5), kept_count(2**30 + 4, 0.25)
        (3, 805306371)
    """
    if size >= 2**31:
        raise ValueError(f"size must be below 2^31 to count exactly in int32, got {size}: split the array")
    if isinstance(sparsity, Tracer):
        return jnp.int32(size) - _rounded_product(jnp.asarray(sparsity), size)
    fraction = float(np.asarray(sparsity))
    if not 0 <= fraction <= 1:
        raise ValueError(f"sparsity is the fraction dropped and must lie in [0, 1], got {fraction}")
    return size - round(fraction * size)


def kept_counts(sizes: Sequence[int], sparsity: ArrayLike) -> jax.Array:
    """`kept_count` of several sizes, int32.

    Example:
        >>> kept_counts([5, 4], 0.5).tolist()
        [3, 2]
    """
    if not isinstance(sparsity, Tracer):
        return jnp.asarray([kept_count(size, sparsity) for size in sizes], jnp.int32)
    kept_count(max(sizes), sparsity)  # refuses what is too large
    every = jnp.asarray(sizes, jnp.int32)
    return every - jax.vmap(lambda size: _rounded_product(jnp.asarray(sparsity), size))(every)


def ordered_keys(scores: jax.Array) -> jax.Array:
    """Maps floats to unsigned integers that compare the same way; ``-0.0`` and ``0.0`` map to one.

    Args:
        scores: any float dtype. NaN has no place in the order: check before.

    Returns:
        uint16, uint32 or uint64 of the same shape.

    Raises:
        TypeError: if ``scores`` are not floats.

    Example:
        >>> keys = ordered_keys(jnp.array([-jnp.inf, -2.0, -0.0, 0.0, 1e-45, 3.0]))
        >>> (keys[1:] > keys[:-1]).tolist()
        [True, True, False, True, True]
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"scores must be floats, got {scores.dtype}")
    if scores.dtype.itemsize == 1:
        scores = scores.astype(jnp.float32)
    unsigned = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[scores.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(scores, unsigned)
    sign = jnp.asarray(1 << (jnp.iinfo(unsigned).bits - 1), unsigned)
    return jnp.where(bits > sign, ~bits, bits | sign)


def topk_masks(scores: Sequence[jax.Array], keep: ArrayLike) -> list[jax.Array]:
    """Keeps the ``keep`` highest-scoring entries of several arrays taken together.

    Among equals the earlier array stays, then the lower flat index.

    Args:
        scores: arrays of one float dtype, fewer than 2^31 - 2^17 entries in total.
        keep: entries to keep, in ``[0, total]``. May be traced.

    Returns:
        One bool mask per array; ``True`` keeps.

    Raises:
        ValueError: if the dtypes differ or there are too many entries.

    Example:
        >>> [mask.tolist() for mask in topk_masks([jnp.array([1.0, 3.0]), jnp.array([3.0, 2.0])], 2)]
        [[False, True], [True, False]]
    """
    total = sum(array.size for array in scores)
    if total >= 2**31 - _LINES * _WIDTH:  # padded, it must still count in int32
        raise ValueError(f"scores must hold fewer than 2^31 - 2^17 entries in total, got {total}: prune by layer")
    if len({array.dtype for array in scores}) > 1:
        raise ValueError(
            f"scores must share one dtype, got {sorted({str(array.dtype) for array in scores})}: cast them"
        )
    block = _block([ordered_keys(array).reshape(-1) for array in scores])
    threshold, room = _kth_largest(block, jnp.asarray(keep, jnp.int32))
    mask = _mask_above(block.reshape(-1, block.shape[-1]), threshold, room).reshape(-1)
    ends = np.cumsum([array.size for array in scores]).tolist()
    return [mask[end - array.size : end].reshape(array.shape) for array, end in zip(scores, ends, strict=True)]


def topk_mask(scores: jax.Array, keep: ArrayLike) -> jax.Array:
    """Keeps the ``keep`` highest-scoring entries of one array; among equals the lower flat index stays.

    Example:
        >>> topk_mask(jnp.array([3.0, 1.0, 2.0, 1.0]), 3).tolist()
        [True, True, True, False]
    """
    return topk_masks([scores], keep)[0]


def _block(keys: Sequence[jax.Array]) -> jax.Array:
    """Flat arrays one after the other as ``[groups, _LINES, width]``, padded with 0: a key that only a NaN maps to."""
    size = sum(part.size for part in keys)
    width = 1
    while width < _WIDTH and size >= 16 * _LINES * width:  # padding stays below an eighth of a large array
        width *= 2
    groups = max(1, -(-size // (_LINES * width)))
    padding = jnp.zeros(groups * _LINES * width - size, keys[0].dtype)
    return jnp.concatenate([*keys, padding]).reshape(groups, _LINES, width)


def _kth_largest(block: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest ``t`` with ``count(keys >= t) >= k``, and how many keys equal to it are among the k."""
    unsigned = block.dtype
    bits = jnp.iinfo(unsigned).bits

    def fix_byte(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        threshold, k = state
        shift = jnp.asarray(bits - 8, unsigned) - jnp.asarray(8, unsigned) * i.astype(unsigned)
        digit, k = _kth_largest_digit(_digits(block, shift, threshold), k)
        return threshold | (digit.astype(unsigned) << shift), k

    return jax.lax.fori_loop(0, bits // 8, fix_byte, (jnp.zeros((), unsigned), k))


def _digits(block: jax.Array, shift: jax.Array, threshold: jax.Array) -> jax.Array:
    """The byte ``shift`` bits up of every key whose higher bytes equal the threshold's; 0 for the others."""
    higher = shift + jnp.asarray(8, block.dtype)  # a shift by all bits leaves 0, so that at first every key matches
    digit = jax.lax.shift_right_logical(block, shift).astype(jnp.uint8)  # a narrowing cast keeps the low byte
    matching = jax.lax.shift_right_logical(block, higher) == jax.lax.shift_right_logical(threshold, higher)
    return jnp.where(matching, digit, jnp.uint8(0))


def _kth_largest_digit(digits: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest ``d`` with ``d == 0 or count(digits >= d) >= k``, and ``k - count(digits > d)``."""

    def fix_bit(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        digit, above = state  # above = count(digits > the largest digit still possible)
        candidate = digit | (jnp.uint8(128) >> i.astype(jnp.uint8))
        count = jnp.sum(jnp.sum(digits >= candidate, axis=1, dtype=jnp.uint8), dtype=jnp.int32)
        fits = count >= k
        return jnp.where(fits, candidate, digit), jnp.where(fits, above, count)

    digit, above = jax.lax.fori_loop(0, 8, fix_bit, (jnp.uint8(0), jnp.int32(0)))
    return digit, k - above


def _mask_above(rows: jax.Array, threshold: jax.Array, room: jax.Array) -> jax.Array:
    """Keeps keys above the threshold and, in flat order, the first ``room`` of those equal to it.

    The last one to stay is found by bisection over its flat index, from counts per row and the one row it lies in.
    """
    per_row = jnp.sum(rows == threshold, axis=1, dtype=jnp.int32)
    count, width = rows.shape
    bits = rows.size.bit_length()

    def fix_bit(step: jax.Array, last: jax.Array) -> jax.Array:
        candidate = last | (jnp.int32(1) << (bits - 1 - step))
        row, column = candidate // width, candidate % width
        inside = (rows[jnp.minimum(row, count - 1)] == threshold) & (jnp.arange(width) < column)
        before = jnp.sum(jnp.where(jnp.arange(count) < row, per_row, 0)) + jnp.sum(inside, dtype=jnp.int32)
        return jnp.where(before < room, candidate, last)

    last = jax.lax.fori_loop(0, bits, fix_bit, jnp.int32(0))
    index = jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape)
    return (rows > threshold) | ((rows == threshold) & (index <= last) & (room > 0))


def _rounded_product(fraction: jax.Array, size: int | jax.Array) -> jax.Array:
    """``round(fraction * size)``, halves to even, of the exact product (24 bits of mantissa times 31 bits of size).

    Long multiplication from the lowest bit of the fraction up: add ``size`` if the bit is set, halve, remember what
    fell out.
    """
    if fraction.dtype == jnp.float64:
        return jnp.round(fraction * jnp.float64(size)).astype(jnp.int32)
    bits = jax.lax.bitcast_convert_type(jnp.clip(fraction.astype(jnp.float32), 0, 1), jnp.uint32)
    mantissa = (bits & jnp.uint32(0x7FFFFF)) | jnp.uint32(0x800000)
    exponent = (bits >> jnp.uint32(23)).astype(jnp.int32) - 150  # fraction == mantissa * 2^exponent

    def add_bit(i: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        whole, half, below = state  # whole + half / 2 + something smaller if below
        position = i - 63 - exponent  # of the bit of weight 2^(i - 63)
        bit = jnp.where((position >= 0) & (position < 24), mantissa >> jnp.clip(position, 0, 23).astype(jnp.uint32), 0)
        doubled = whole + (bit & jnp.uint32(1)) * jnp.uint32(size)
        last = i == 63
        return (
            jnp.where(last, doubled, doubled >> jnp.uint32(1)),
            jnp.where(last, half, doubled & jnp.uint32(1)),
            jnp.where(last, below, below | half),
        )

    zero = jnp.zeros_like(bits)
    whole, half, below = jax.lax.fori_loop(0, 64, add_bit, (zero, zero, zero))
    return (whole + (half & (below | whole))).astype(jnp.int32)
