"""The strongest coder: every array under a model of its own, all in one entropy-coded stream.

Masks go through `masks.mask`, all else through byte planes, each under the best of a few models (`entropy.plane`).
The models learn as they go, so that small arrays pay for no tables, and one stream for all arrays pays for one end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcompress.artifact import bits
from jaxcompress.artifact.entropy import Coder, Decoder, Encoder, plane
from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.artifact.masks import mask

_STREAM_SYMBOLS = 1 << 24  # a stream ends behind the array with which it holds so many; bounds the encoder's memory


class EntropyWriter:
    """Collects arrays; `finish` gives the streams and what an `EntropyReader` needs besides."""

    def __init__(self) -> None:
        self._encoder, self._arrays = Encoder(), 0
        self._streams: list[bytes] = []
        self._counts: list[int] = []

    def put(self, array: np.ndarray) -> None:
        """Adds one array."""
        _array(self._encoder, array, array.shape, array.dtype)
        self._arrays += 1
        if self._encoder.symbols >= _STREAM_SYMBOLS:
            self._close()

    def finish(self) -> tuple[list[bytes], list[int]]:
        """``(streams, plan)``: the plan is empty for one stream, else (stored bytes, arrays) of each but the last."""
        self._close()
        plan = [n for stream, count in zip(self._streams, self._counts, strict=True) for n in (len(stream), count)]
        return self._streams, plan[:-2]

    def _close(self) -> None:
        if self._arrays or not self._streams:
            self._streams.append(self._encoder.to_bytes())
            self._counts.append(self._arrays)
            self._encoder, self._arrays = Encoder(), 0


class EntropyReader:
    """Gives back the arrays of an `EntropyWriter`, in the same order.

    Args:
        plan: what `EntropyWriter.finish` returned.
        read: ``read(offset, length) -> bytes`` within the streams.
        length: bytes of all streams.
        reserve: called with the bytes that are about to be allocated; raises when that is too much.
    """

    def __init__(self, plan: Any, read: Callable[[int, int], bytes], length: int, reserve: Callable[[int], None]):
        if not isinstance(plan, list) or len(plan) % 2 or not all(type(n) is int and n >= 0 for n in plan):
            raise ArtifactError("load: the list of streams is malformed; the file was not written by save()")
        last = length - sum(plan[::2])
        if last < 0:
            raise ArtifactError(f"load: the streams should have {length - last} bytes, the file has {length}; refused")
        self._read, self._reserve = read, reserve
        self._plan = [*zip(plan[::2], plan[1::2], strict=True), (last, -1)]
        self._offset = self._left = 0
        self._decoder: Decoder | None = None
        self.last_bytes = 0.0
        self._next_stream()

    def get(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next array; `last_bytes` then is what it took of the file."""
        if not self._left:
            self._next_stream()
        self._left -= 1
        assert self._decoder is not None
        words, planes = bits.word_count(shape, dtype)
        self._reserve(4 * words * planes)  # symbols are int32 on the way
        before = self._decoder.bits_left
        array = _array(self._decoder, None, shape, dtype)
        self.last_bytes = max(0, before - self._decoder.bits_left) / 8
        return array

    def finish(self) -> None:
        """Checks that everything in the streams was used."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._plan or self._left > 0:
            raise ArtifactError(
                "load: the streams hold more than the manifest names; the file was not written by save()"
            )

    def _next_stream(self) -> None:
        if self._decoder is not None:
            self._decoder.finish()
        if not self._plan:
            raise ArtifactError("load: a stream is missing; the file was not written by save()")
        stored, self._left = self._plan.pop(0)
        self._decoder = Decoder(self._read(self._offset, stored))
        self._offset += stored


def _array(io: Coder, array: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        return mask(io, array, shape)
    words, count = bits.word_count(shape, dtype)
    sides = shape if math.prod(shape) == words else (*shape, words // max(1, math.prod(shape)))  # complex: two words
    given = None if array is None else np.stack(bits.to_planes(array))
    kept = words if given is None else int(np.count_nonzero(given.any(0)))
    worthwhile = given is None or 0 < 8 * kept < 7 * words
    options = [
        lambda io: _planes(io, given, count, words),
        (lambda io: _sparse(io, given, count, sides)) if worthwhile else None,
    ]
    return bits.from_planes(list(io.choose(options)), dtype).reshape(shape)


def _planes(io: Coder, given: np.ndarray | None, count: int, words: int) -> np.ndarray:
    return np.stack([plane(io, None if given is None else given[i], words) for i in range(count)])


def _sparse(io: Coder, given: np.ndarray | None, count: int, sides: tuple[int, ...]) -> np.ndarray:
    """A mask of the elements that are not all zero bits, then the planes of those."""
    known = None if given is None else np.asarray(given.any(0)).reshape(sides)
    keep = mask(io, known, sides).reshape(-1)
    out = np.zeros((count, keep.size), np.uint8)
    out[:, keep] = _planes(io, None if given is None else given[:, keep], count, int(keep.sum()))
    return out
