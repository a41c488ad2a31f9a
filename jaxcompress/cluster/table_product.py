"""Products with blocks from a table: each block of the data meets every vector once, then sums are looked up.

A row of data that meets an (in, out) kernel of n blocks takes ``in x levels`` multiplications instead of ``in x out``,
and ``n x out`` lookups (Jegou et al., 2011, asymmetric distances). Measured on a CPU (2 cores with AVX512, 4096 x 4096,
256 vectors, against making the kernel dense first): of length 8, 0.6 ms against 31 for one row, 2.7 against 29 for
four, 21 against 30 for sixteen; of length 4, 1.3 against 34, 5.6 against 30, 53 against 32. Hence `serves`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider

Axes = tuple[tuple[int, ...], tuple[int, ...]]


def serves(
    x: Any, codes: Sequence[int], codebook: Sequence[int], lengths: Sequence[int], contract: Axes, batch: Axes
) -> bool:
    """Whether the sums can be looked up, and that pays on a CPU: for as many rows of data as a block is long.

    Args:
        x: data, may be abstract.
        codes: shape of the codes.
        codebook: shape of the codebook.
        lengths: of a block along each dense axis.
        contract: axes of x and of the kernel that are summed over.
        batch: axes that go in step.
    """
    kept = [axis for axis in range(len(codes)) if axis not in {*contract[1], *batch[1]}]
    if any(lengths[axis] != 1 for axis in (*kept, *batch[1])) or any(codebook[axis] != 1 for axis in kept):
        return False
    if any(codebook[axis] not in (1, codes[axis]) for axis in (*contract[1], *batch[1])):
        return False
    rows = math.prod(size for axis, size in enumerate(x.shape) if axis not in {*contract[0], *batch[0]})
    outputs = math.prod(codes[axis] for axis in kept)
    return isinstance(rows, int) and 0 < rows <= math.prod(lengths) and codebook[-2] <= outputs


def table_product(
    codes: jax.Array,
    codebook: jax.Array,
    x: jax.Array,
    *,
    lengths: Sequence[int],
    contract: Axes,
    batch: Axes,
    precision: Any = None,
    dtype: Any = None,
) -> jax.Array:
    """``lax.dot_general(x, kernel, (contract, batch))`` for the kernel of `ProductCodebook`, which is never dense.

    Args:
        codes: integers, the number of blocks along each dense axis.
        codebook: as of `ProductCodebook`; along axes that are neither summed over nor in step of size 1.
        x: data.
        lengths: of a block along each dense axis; above 1 only along axes that are summed over.
        contract: ``(axes of x, axes of the kernel)`` summed over.
        batch: ``(axes of x, axes of the kernel)`` kept in step.
        precision: of the products.
        dtype: of the result; None: that of ``x``.
    """
    summed, kept = sorted(contract[1]), [a for a in range(codes.ndim) if a not in {*contract[1], *batch[1]}]
    x_free = [axis for axis in range(x.ndim) if axis not in {*contract[0], *batch[0]}]
    of_x = dict(zip(contract[1], contract[0], strict=True))
    steps = tuple(codes.shape[axis] for axis in batch[1])
    layers, blocks = math.prod(steps), math.prod(codes.shape[axis] for axis in summed)
    data = jnp.transpose(x, (*batch[0], *x_free, *(of_x[axis] for axis in summed)))
    pairs = [size for axis in summed for size in (codes.shape[axis], lengths[axis])]
    data = data.reshape(layers, -1, *pairs)
    data = jnp.transpose(data, (0, *range(2, data.ndim, 2), *range(3, data.ndim, 2), 1))
    data = data.reshape(layers, blocks, math.prod(lengths), -1)  # [layers, blocks, d, rows]
    order = (*batch[1], *summed, *kept)
    numbers = jnp.transpose(codes, order).reshape(layers, blocks, -1).astype(jnp.int32)
    tables = jnp.transpose(codebook, (*order, codes.ndim, codes.ndim + 1))
    tables = tables.reshape(*tables.shape[: len(batch[1]) + len(summed)], *tables.shape[-2:]).astype(x.dtype)
    full = (*steps, *(codes.shape[axis] for axis in summed), *tables.shape[-2:])
    tables = jnp.broadcast_to(tables, full).reshape(layers, blocks, *tables.shape[-2:])
    products = jnp.einsum(
        "lmkd,lmdr->lmkr", tables, data, precision=precision, preferred_element_type=wider(x.dtype, jnp.float32)
    )  # of every vector with every block of data

    def of_layer(products: jax.Array, numbers: jax.Array) -> jax.Array:
        def add(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            entries, taken = block
            return total + jnp.take(entries, taken, axis=0, mode="clip"), None

        zeros = jnp.zeros((numbers.shape[1], products.shape[2]), products.dtype)
        return lax.scan(add, zeros, (products, numbers))[0]

    sums = jax.vmap(of_layer)(products, numbers)  # [layers, outputs, rows]
    shape = (*steps, *(x.shape[axis] for axis in x_free), *(codes.shape[axis] for axis in kept))
    return jnp.swapaxes(sums, 1, 2).reshape(shape).astype(x.dtype if dtype is None else dtype)
