"""The strongest coder: every array under a model of its own, all in one entropy-coded stream.

Masks go through `masks.mask`, all else through byte planes, each under the best of a few models (`entropy.plane`),
with a mask of the zeros where there are many; and what zstd makes smaller stands there as zstd made it.
The models learn as they go, so that small arrays pay for no tables, and one stream for all arrays pays for one end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from jaxcompress.artifact import bits
from jaxcompress.artifact.entropy import Coder, Decoder, Encoder, Option, plane
from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.artifact.masks import mask
from jaxcompress.artifact.streams import LETTERS, ByteReader, ByteWriter
from jaxcompress.artifact.tallies import tallies

Reserve: TypeAlias = Callable[[int], None]
_ZIPPED_BYTES = 128  # smaller arrays are not tried with zstd
_THOROUGH_BYTES = 1 << 20  # larger ones only with its fastest level
_MAX_ZIPPED = 1 << 40  # bytes
_STREAM_SYMBOLS = 1 << 24  # a stream ends behind the array with which it holds so many; bounds the encoder's memory


class EntropyWriter:
    """Collects arrays; `finish` gives the streams and what an `EntropyReader` needs besides."""

    def __init__(self) -> None:
        self._encoder, self._arrays = Encoder(), 0
        self._streams: list[bytes] = []
        self._counts: list[int] = []

    def put(self, array: np.ndarray) -> None:
        """Adds one array."""
        _array(self._encoder, array, array.shape, array.dtype, lambda size: None)
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

    def __init__(self, plan: Any, read: Callable[[int, int], bytes], length: int, reserve: Reserve):
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
        array = _array(self._decoder, None, shape, dtype, self._reserve)
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


def _array(
    io: Coder, array: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype, reserve: Reserve
) -> np.ndarray:
    options: list[Option | None]
    if dtype == np.bool_:
        options = [lambda io: mask(io, array, shape)]
    else:
        words, count = bits.word_count(shape, dtype)
        given = None if array is None else np.stack(bits.to_planes(array))
        kept = words if given is None else int(np.count_nonzero(given.any(0)))
        worthwhile = given is None or 0 < 8 * kept < 7 * words
        # A complex element is two words, on an axis of their own.
        sides = shape if math.prod(shape) == words else (*shape, words // max(1, math.prod(shape)))
        options = [
            lambda io: bits.from_planes(list(_planes(io, given, count, words)), dtype),
            (lambda io: bits.from_planes(list(_sparse(io, given, count, sides)), dtype)) if worthwhile else None,
        ]
    if math.prod(shape) * dtype.itemsize >= _ZIPPED_BYTES:
        zeros = array is not None and not bits.to_words(array).any()
        options.append(None if zeros else lambda io: _zipped(io, array, shape, dtype, reserve))
    return io.choose(options).reshape(shape)


def _planes(io: Coder, given: np.ndarray | None, count: int, words: int) -> np.ndarray:
    return np.stack([plane(io, None if given is None else given[i], words) for i in range(count)])


def _sparse(io: Coder, given: np.ndarray | None, count: int, sides: tuple[int, ...]) -> np.ndarray:
    """A mask of the elements that are not all zero bits, then the planes of those."""
    known = None if given is None else np.asarray(given.any(0)).reshape(sides)
    keep = mask(io, known, sides).reshape(-1)
    out = np.zeros((count, keep.size), np.uint8)
    out[:, keep] = _planes(io, None if given is None else given[:, keep], count, int(keep.sum()))
    return out


def _zipped(
    io: Coder, array: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype, reserve: Reserve
) -> np.ndarray:
    """What zstd makes of the array, for patterns that repeat and that no model here sees."""
    letter = lengths = stream = None
    if array is not None:
        writer = ByteWriter(None if array.nbytes <= _THOROUGH_BYTES else 1)
        writer.put(array)
        (packed,), (letters, _, *sizes) = writer.finish()
        letter, lengths, stream = np.array([LETTERS.index(letters)]), np.array(sizes), np.frombuffer(packed, np.uint8)
    letters = LETTERS[int(io.uniform(letter, 1, len(LETTERS))[0])]
    stored, raw = tallies(io, lengths, 2, _MAX_ZIPPED).tolist()
    reserve(4 * stored)
    packed = io.uniform(stream, stored, 256).astype(np.uint8).tobytes()
    reader = ByteReader([letters, letters, stored, raw], lambda at, size: packed[at : at + size], stored, reserve)
    unpacked = reader.get(shape, dtype)
    reader.finish()
    return unpacked
