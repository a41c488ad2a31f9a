"""The default coder: arrays as bytes, alike with alike in a stream, each stream in one zstd frame.

An array takes whichever of its codings zstd makes smallest; the letter of the coding is also the name of the stream:

| letter | what |
| ------ | ---- |
| ``z`` | all bits are zero: nothing is stored |
| ``b`` | bits of a mask, packed |
| ``g`` | a mask as the distances between its True entries, a byte each, 255 continues |
| ``c`` | one-byte elements |
| ``p`` | one-byte elements, packed to the bits that the largest of them needs (two bytes ahead: smallest value, bits) |
| ``s`` | wider elements as byte planes |
| ``r`` | wider elements as they are, little-endian |

Small arrays share a frame, since a frame has a header and a Huffman table. A frame ends once it holds 4 MiB, so that
reading needs the memory of the model and one frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import zstandard

from jaxcompress.artifact import bits
from jaxcompress.artifact.errors import ArtifactError

LETTERS = "zbgcpsr"
_FRAME_BYTES = 1 << 22
_GAP_HEADER = 5  # bytes for the length of the gaps of one mask
_MAX_RATIO = 1 << 15  # a zstd block of 4 bytes yields 128 KiB at most
_TRIAL_LEVEL = 3
_SMALL_LEVEL, _LARGE_LEVEL = 19, 9  # up to _FRAME_BYTES, and above


class ByteWriter:
    """Collects arrays; `finish` gives the streams and what a `ByteReader` needs besides.

    Args:
        level: zstd level, 1 to 22; None: 19 for frames up to 4 MiB, 9 for larger ones.
    """

    def __init__(self, level: int | None = None):
        highest = zstandard.MAX_COMPRESSION_LEVEL
        if level is not None and not 1 <= level <= highest:
            raise ValueError(f"save: level={level} of zstd is outside 1..{highest}")
        self._level = level
        self._trial = _compressor(_TRIAL_LEVEL)
        self._letters: list[str] = []
        self._open: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._streams: list[bytes] = []
        self._table: list[Any] = []

    def put(self, array: np.ndarray) -> None:
        """Adds one array."""
        letter, raw = min(_codings(array), key=lambda coding: min(len(coding[1]), len(self._trial.compress(coding[1]))))
        self._letters.append(letter)
        self._open.setdefault(letter, []).append(raw)
        self._sizes[letter] = self._sizes.get(letter, 0) + len(raw)
        if self._sizes[letter] >= _FRAME_BYTES:
            self._close(letter)

    def finish(self) -> tuple[list[bytes], list[Any]]:
        """``(streams, plan)``: the plan has the letters of the arrays, then letter, stored and raw bytes by stream."""
        for letter in list(self._open):
            self._close(letter)
        return self._streams, ["".join(self._letters), *self._table]

    def _close(self, letter: str) -> None:
        raw = b"".join(self._open.pop(letter))
        del self._sizes[letter]
        level = self._level or (_SMALL_LEVEL if len(raw) <= _FRAME_BYTES else _LARGE_LEVEL)
        packed = _compressor(level).compress(raw)
        stored = packed if len(packed) < len(raw) else raw
        if raw:
            self._streams.append(stored)
            self._table += [letter, len(stored), len(raw)]


class ByteReader:
    """Gives back the arrays of a `ByteWriter`, in the same order.

    Args:
        plan: what `ByteWriter.finish` returned.
        read: ``read(offset, length) -> bytes`` within the streams.
        length: bytes of all streams.
        reserve: called with the bytes that are about to be allocated; raises when that is too much.
    """

    def __init__(self, plan: Any, read: Callable[[int, int], bytes], length: int, reserve: Callable[[int], None]):
        if not isinstance(plan, list) or not plan or not isinstance(plan[0], str) or len(plan) % 3 != 1:
            raise ArtifactError("load: the list of streams is malformed; the file was not written by save()")
        self._read, self._reserve = read, reserve
        self._letters = iter(plan[0])
        self._frames: dict[str, list[tuple[int, int, int]]] = {}
        self._bytes: dict[str, bytes] = {}
        self._position: dict[str, int] = {}
        self._rate: dict[str, float] = {}
        self.last_bytes = 0.0
        offset = 0
        for letter, stored, raw in zip(plan[1::3], plan[2::3], plan[3::3], strict=True):
            if not (
                isinstance(letter, str)
                and type(stored) is int
                and type(raw) is int
                and 0 < stored <= raw <= stored * _MAX_RATIO
            ):
                raise ArtifactError("load: the list of streams is malformed; the file was not written by save()")
            self._frames.setdefault(letter, []).append((offset, stored, raw))
            offset += stored
        if offset != length:
            raise ArtifactError(f"load: the streams should have {offset} bytes, the file has {length}; refused")

    def get(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The next array; `last_bytes` then is its share of the file (by raw bytes, where a frame is shared)."""
        self.last_bytes = 0.0
        letter = next(self._letters, None)
        words, planes = bits.word_count(shape, dtype)
        if letter == "z":
            flat = np.zeros(math.prod(shape), dtype)
        elif letter == "b" and dtype == np.bool_:
            packed = np.frombuffer(self._take(letter, bits.packed_bytes(words, 1)), np.uint8)
            flat = np.unpackbits(packed, count=words).view(np.bool_)
        elif letter == "g" and dtype == np.bool_:
            flat = self._from_gaps(words)
        elif letter == "c" and planes == 1:
            flat = bits.from_words(_owned(self._take(letter, words), np.uint8), dtype)
        elif letter == "p" and planes == 1 and words:
            low, width = self._take(letter, 2)
            if not 0 < width <= 8:
                raise ArtifactError(f"load: elements of {width} bits; refused")
            packed = self._take(letter, bits.packed_bytes(words, width))
            flat = bits.from_planes([bits.unpack(packed, width, words) + np.uint8(low)], dtype)
        elif letter == "s":
            plane = _owned(self._take(letter, words * planes), np.uint8).reshape(planes, words)
            flat = bits.from_planes(list(plane), dtype)
        elif letter == "r":
            wide = _owned(self._take(letter, words * planes), f"<u{planes}").astype(f"u{planes}", copy=False)
            flat = bits.from_words(wide, dtype)
        else:
            raise ArtifactError(f"load: coding {letter!r} does not fit an array of {dtype}; refused")
        return flat.reshape(shape)

    def finish(self) -> None:
        """Checks that everything in the streams was used."""
        left = any(self._frames.values()) or any(self._position[k] != len(v) for k, v in self._bytes.items())
        if left or next(self._letters, None) is not None:
            raise ArtifactError(
                "load: the streams hold more than the manifest names; the file was not written by save()"
            )

    def _take(self, letter: str, count: int) -> bytes:
        if not count:
            return b""
        if self._position.get(letter, 0) == len(self._bytes.get(letter, b"")):
            self._next_frame(letter)
        start = self._position[letter]
        taken = self._bytes[letter][start : start + count]
        if len(taken) != count:
            raise ArtifactError(f"load: stream {letter!r} is {count - len(taken)} bytes too short; refused")
        self._position[letter] = start + count
        self.last_bytes += count * self._rate[letter]
        return taken

    def _next_frame(self, letter: str) -> None:
        frames = self._frames.get(letter)
        if not frames:
            raise ArtifactError(f"load: stream {letter!r} is missing; the file was not written by save()")
        offset, stored, raw = frames.pop(0)
        self._reserve(raw)
        packed = self._read(offset, stored)
        self._bytes[letter] = packed if stored == raw else _decompress(packed, raw)
        self._position[letter], self._rate[letter] = 0, stored / raw

    def _from_gaps(self, count: int) -> np.ndarray:
        length = int.from_bytes(self._take("g", _GAP_HEADER), "little")
        raw = np.frombuffer(self._take("g", length), np.uint8)
        ends = np.flatnonzero(raw != 255)
        where = np.cumsum(raw, dtype=np.int64)[ends] + np.arange(len(ends))
        if not ends.size or where[-1] >= count or ends[-1] != length - 1:
            raise ArtifactError("load: a mask points outside its array; refused")
        flat = np.zeros(count, np.bool_)
        flat[where] = True
        return flat


def _codings(array: np.ndarray) -> list[tuple[str, bytes]]:
    if not bits.to_words(array).any():
        return [("z", b"")]
    if array.dtype == np.bool_:
        return [("b", np.packbits(array).tobytes()), *_gaps(array)]
    words, planes = bits.to_words(array), bits.to_planes(array)
    if len(planes) > 1:
        little = words.astype(words.dtype.newbyteorder("<"), copy=False)
        return [("s", b"".join(plane.tobytes() for plane in planes)), ("r", little.tobytes())]
    codings = [("c", words.tobytes())]
    low = planes[0].min()
    width = max(1, int(planes[0].max() - low).bit_length())
    if width < 8:
        codings.append(("p", bytes([low, width]) + bits.pack(planes[0] - low, width)))
    return codings


def _gaps(array: np.ndarray) -> list[tuple[str, bytes]]:
    """The mask as gaps, or nothing where that is no shorter than its bits."""
    where = np.flatnonzero(array)
    if not 0 < 8 * where.size < array.size:
        return []
    gaps = np.diff(where, prepend=-1) - 1
    ends = np.cumsum(gaps // 255 + 1) - 1
    raw = np.full(ends[-1] + 1, 255, np.uint8)
    raw[ends] = gaps % 255
    return [("g", raw.size.to_bytes(_GAP_HEADER, "little") + raw.tobytes())]


def _owned(raw: bytes, dtype: Any) -> np.ndarray:
    return np.frombuffer(raw, dtype)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_checksum=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _decompress(packed: bytes, size: int) -> bytes:
    """Unpacks one frame; memory is bounded by ``size``, whatever the frame says of itself."""
    reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS).stream_reader(packed)
    try:
        raw = reader.read(size)
        more = reader.read(1)
    except zstandard.ZstdError as error:
        raise ArtifactError(
            f"load: a stream cannot be unpacked ({error}); the file was not written by save()"
        ) from error
    if len(raw) != size or more:
        raise ArtifactError(f"load: a stream does not unpack to the {size} bytes that the manifest names; refused")
    return raw
