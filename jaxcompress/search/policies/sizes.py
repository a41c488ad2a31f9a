"""What a variant takes: bits of its leaf, bytes in a file, operations of a call. Whole numbers."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from jaxcompress.artifact.coded import EntropyWriter
from jaxcompress.artifact.leaves import describe
from jaxcompress.artifact.streams import ByteWriter
from jaxcompress.artifact.writing import save
from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import CompressedArray
from jaxcompress.quantize.packed import PackedInts

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Coder = Literal["zstd", "constriction"]


def stored_bits(leaf: Any) -> int:
    """Bits of an array or leaf, masks and scales and all.

    Example:
        >>> stored_bits(jnp.ones((2, 3)))
        192
    """
    if isinstance(leaf, CompressedArray):
        return int(leaf.stored_bits)
    return math.prod(np.shape(leaf)) * bit_width(leaf.dtype)


def coded_bytes(leaf: Any, path: str, coder: Coder) -> int:
    """Bytes of the arrays of a leaf as `jaxcompress.save` codes them, in streams of their own.

    In a file, leaves share streams: there they take a little less or more.

    Example:
        >>> coded_bytes(jnp.zeros((8, 8)), "w", "zstd")
        0
    """
    writer = ByteWriter() if coder == "zstd" else EntropyWriter()
    for array in describe(leaf, path).arrays:
        writer.put(array)
    return sum(map(len, writer.finish()[0]))


def file_bytes(model: Any, coder: Coder) -> int:
    """Bytes of the file that `jaxcompress.save` writes of a tree or model."""
    with tempfile.TemporaryDirectory() as folder:
        return save(os.path.join(folder, "model.jxc"), model, coder=coder)


def cut_bits(leaf: Any, keep: Mapping[int, np.ndarray]) -> int:
    """Bits of a leaf of which some axes keep some indices only.

    Exact where the kind holds those axes one by one; in proportion to the entries where it packs several of them.

    Example:
        >>> cut_bits(jnp.ones((4, 3)), {0: np.array([0, 2])})
        192
    """
    if not isinstance(leaf, CompressedArray):
        kept = [len(keep[axis]) if axis in keep else size for axis, size in enumerate(np.shape(leaf))]
        return math.prod(kept) * bit_width(leaf.dtype)
    whole, share = leaf, 1.0
    for axis, indices in keep.items():
        packed = axis == whole.ndim - 1 and _holds_packed(whole)
        cut = None if packed else whole.map_axis(axis, functools.partial(_taken, indices))
        share *= len(indices) / whole.shape[axis] if cut is None else 1.0
        whole = whole if cut is None else cut
    return math.ceil(share * stored_bits(whole))


def _taken(indices: np.ndarray, field: Any, axis: int) -> Any:
    return np.take(np.asarray(field), indices, axis=axis)


def _holds_packed(leaf: Any) -> bool:
    return any(isinstance(x, PackedInts) for x in jax.tree.leaves(leaf, is_leaf=lambda x: isinstance(x, PackedInts)))


def site_macs(sites: Sites | None) -> dict[str, int]:
    """Multiply-accumulates of one call at the products of each weight."""
    found: dict[str, int] = {}
    for site in sites or ():
        found[site.path] = found.get(site.path, 0) + site.macs
    return found


def variant_flops(macs: int, shape: tuple[int, ...], kept: tuple[int, ...], rows: tuple[int, ...], rank: int) -> int:
    """Operations of the products of a weight, 2 for each multiply-accumulate: cut, by factors where there is a rank.

    Dropped entries and narrow codes save none, as dense hardware multiplies.

    Args:
        macs: of the dense weight.
        shape: of the dense weight.
        kept: lengths of its axes after a cut.
        rows: axes that are contracted.
        rank: of the factors, 0 without.

    Example:
        >>> variant_flops(600, (10, 20), (10, 10), (0,), 0), variant_flops(600, (10, 20), (10, 20), (0,), 2)
        (600, 360)
    """
    if not macs:
        return 0
    macs = macs * math.prod(kept) // math.prod(shape)
    m = math.prod(kept[axis] for axis in rows)
    n = math.prod(size for axis, size in enumerate(kept) if axis not in rows)
    return 2 * (macs * rank * (m + n) // (m * n) if rank else macs)
