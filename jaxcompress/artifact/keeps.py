"""What a shrunk model kept of its dense axes, in the manifest.

The entry ``w`` is a list of rows ``[size, kept, [leaf, axis, leaf, axis, ...]]``, one for each distinct set of indices:
the dense length, the set, and where it was kept (leaves by their number in storage order). A set is a list of run
lengths, kept and dropped in turn, or a bitmask in base64 (bit 0 of byte 0 first), whichever is shorter.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.artifact.errors import ArtifactError

Keep = Mapping[tuple[str, int], np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
_LONGEST = 1 << 40  # of a dense axis


def to_rows(keep: Keep, shapes: Shapes, stored: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """Describes kept indices.

    Args:
        keep: by path and axis.
        shapes: dense shapes by path.
        stored: shapes of the leaves that are stored, in storage order, by path.

    Raises:
        ValueError: if a path is not stored, or not with as many entries as are kept.
    """
    numbers = {path: number for number, path in enumerate(stored)}
    rows: dict[tuple[int, bytes], list[Any]] = {}
    for (path, axis), kept in keep.items():
        if path not in stored:
            raise ValueError(f"save: the model was shrunk at {path!r}, which is no leaf of its params")
        if len(stored[path]) != len(shapes[path]) or stored[path][axis] != len(kept):
            raise ValueError(
                f"save: {path!r} has the shape {stored[path]}, but {len(kept)} of {shapes[path][axis]} are kept along "
                f"axis {axis}; give the shrunk parameters (small.with_params)"
            )
        size = shapes[path][axis]
        indices = np.ascontiguousarray(kept, np.int64)
        rows.setdefault((size, indices.tobytes()), [size, _packed(size, indices), []])[2].extend((numbers[path], axis))
    return list(rows.values())


def from_rows(
    rows: Any, paths: Sequence[str], small: Sequence[tuple[int, ...]], allow: Callable[[int], None]
) -> tuple[dict[tuple[str, int], np.ndarray], dict[str, tuple[int, ...]]]:
    """The inverse of `to_rows`, which believes nothing.

    Args:
        rows: what the file says.
        paths: of the leaves in storage order.
        small: their shapes.
        allow: refuses a number of entries that a dense leaf may not have.

    Returns:
        Kept indices by path and axis, and the dense shapes of all leaves by path.

    Raises:
        ArtifactError: if the rows are malformed, contradict each other or the leaves, or ask for too much.
    """
    if not isinstance(rows, list):
        raise _malformed(rows)
    keep: dict[tuple[str, int], np.ndarray] = {}
    dense = [list(shape) for shape in small]
    for row in rows:
        if not isinstance(row, list) or len(row) != 3:
            raise _malformed(row)
        size, packed, places = row
        if type(size) is not int or not 0 < size <= _LONGEST or not isinstance(places, list) or len(places) % 2:
            raise _malformed(row)
        indices = _unpacked(size, packed, max((max(shape, default=0) for shape in small), default=0))
        for leaf, axis in zip(places[::2], places[1::2], strict=True):
            if not (
                type(leaf) is int and type(axis) is int and 0 <= leaf < len(paths) and 0 <= axis < len(small[leaf])
            ):
                raise _malformed(row)
            if (paths[leaf], axis) in keep or small[leaf][axis] != len(indices):
                raise ArtifactError(f"load: what is kept of {paths[leaf]!r} along axis {axis} contradicts its shape")
            keep[paths[leaf], axis] = indices
            dense[leaf][axis] = size
            allow(math.prod(dense[leaf]))
    return keep, {path: tuple(shape) for path, shape in zip(paths, dense, strict=True)}


def _packed(size: int, indices: np.ndarray) -> Any:
    mask = np.zeros(size, np.bool_)
    mask[indices] = True
    edges = np.flatnonzero(np.diff(mask)) + 1
    runs = np.diff(np.concatenate([[0], edges, [size]])).tolist()
    runs = runs if mask[0] else [0, *runs]
    bits = base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode()
    return min(runs, bits, key=lambda form: len(json.dumps(form, separators=(",", ":"))))


def _unpacked(size: int, packed: Any, most: int) -> np.ndarray:
    """Kept indices; nothing larger than the stored form or ``most`` entries is allocated."""
    if isinstance(packed, list):
        fits = all(type(run) is int and run >= 0 for run in packed) and sum(packed) == size
        if not fits or sum(packed[::2]) > most:
            raise _malformed(packed)
        ends = np.cumsum(np.asarray(packed, np.int64))
        pieces = [np.arange(end - run, end) for end, run in zip(ends[::2], packed[::2], strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *pieces])
    try:
        raw = base64.b64decode(packed, validate=True) if isinstance(packed, str) else None
    except (binascii.Error, ValueError):
        raw = None
    if raw is None or len(raw) != -(-size // 8):
        raise _malformed(packed)
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    if bits[size:].any() or int(bits.sum()) > most:
        raise _malformed(packed)
    return np.flatnonzero(bits)


def _malformed(what: Any) -> ArtifactError:
    return ArtifactError(f"load: malformed kept indices {what!r:.80}; the file was not written by save()")
