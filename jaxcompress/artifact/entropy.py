"""Entropy coding by `constriction`'s ANS coder, written so that one text describes encoding and decoding.

A code is a function ``code(io, values, ...) -> values``. An `Encoder` is given the values, notes and returns them; a
`Decoder` is given ``None`` and returns what it reads. Either way the code sees the same values in the same order, so
that its models can follow them.

Models are integers (counts) or float64 made of them by elementwise ``+ - * /``, which IEEE 754 rounds alike everywhere,
and are snapped to a grid before use; no rounded sum, no logarithm, no exponential. ANS itself tells whether a decoder's
models differed from the encoder's: it then does not end at the mark and in the state with which the encoder began.

References:
    Duda, 2013, asymmetric numeral systems. https://arxiv.org/abs/1311.2540
    Krichevsky and Trofimov, 1981, the adaptive estimate behind `adaptive`.
    Bamler, 2022, constriction. https://arxiv.org/abs/2201.01741
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from jaxcompress.artifact.errors import ArtifactError

_TOTAL_BITS = 22  # weights of a model sum to about 2**22; constriction resolves 2**-24
_GRID = 1 << _TOTAL_BITS
_MARK = np.array([255], np.int32)  # stands at the end of a stream; an exhausted coder yields zeros for ever
_STATE_BITS = 64  # of the coder
_FIRST_BLOCK = 8
SHIFTS = (1, 4, 8)  # an unseen symbol counts as 1/2, 1/16 or 1/256 of a seen one


Option: TypeAlias = "Callable[[Coder], np.ndarray]"
"""One of several ways to code the same values."""


class Coder(Protocol):
    """What a code may ask for. ``values`` are None when decoding; the values come back either way, as int32."""

    def uniform(self, values: np.ndarray | None, count: int, size: int) -> np.ndarray:
        """Codes ``count`` values of ``0..size-1``, all equally likely, at most 2**16; one of them costs nothing."""
        ...

    def weighted(self, values: np.ndarray | None, count: int, weights: np.ndarray) -> np.ndarray:
        """Codes ``count`` values with probabilities proportional to positive integer ``weights``."""
        ...

    def binary(self, values: np.ndarray | None, probability: np.ndarray) -> np.ndarray:
        """Codes one bit for each entry of ``probability`` (that it is 1, inside ``(0, 1)``)."""
        ...

    def choose(self, options: Sequence[Option | None]) -> np.ndarray:
        """Codes with the cheapest of several codes; an encoder may pass None for one that cannot be it."""
        ...


class Encoder:
    """Records what is to be coded, counts its cost, and writes it all at the end (ANS is last in, first out)."""

    def __init__(self) -> None:
        self.cost_bits = 0.0
        self.symbols = 0
        self._records: list[tuple[str, np.ndarray, Any]] = []

    def uniform(self, values: np.ndarray | None, count: int, size: int) -> np.ndarray:
        """See `Coder`."""
        assert values is not None
        return values if size == 1 else self._record("uniform", values, size, count * float(np.log2(size)))

    def weighted(self, values: np.ndarray | None, count: int, weights: np.ndarray) -> np.ndarray:
        """See `Coder`."""
        del count
        assert values is not None
        bits = np.log2(float(weights.sum())) - np.log2(weights)
        return self._record("weighted", values, weights, float(np.bincount(values, minlength=len(weights)) @ bits))

    def binary(self, values: np.ndarray | None, probability: np.ndarray) -> np.ndarray:
        """See `Coder`."""
        assert values is not None
        cost = -float(np.log2(np.where(values != 0, probability, 1 - probability)).sum())
        return self._record("binary", values, probability, cost)

    def choose(self, options: Sequence[Option | None]) -> np.ndarray:
        """See `Coder`. Tries them all."""
        best: tuple[int, Encoder, np.ndarray] | None = None
        for index, option in enumerate(options):
            if option is None:
                continue
            trial = Encoder()
            values = option(trial)
            if best is None or trial.cost_bits < best[1].cost_bits:
                best = index, trial, values
        assert best is not None
        index, trial, values = best
        self.uniform(np.array([index]), 1, len(options))
        self._records += trial._records
        self.cost_bits += trial.cost_bits
        self.symbols += trial.symbols
        return values

    def to_bytes(self) -> bytes:
        """The coded form; its length is at most 8 bytes over ``cost_bits``."""
        stream = _stream()
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(_MARK, *_model(stream, "uniform", 256))
        for name, values, model in reversed(self._records):
            coder.encode_reverse(values, *_model(stream, name, model))
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def _record(self, name: str, values: np.ndarray, model: Any, cost: float) -> np.ndarray:
        recorded = np.ascontiguousarray(values, np.int32)
        if recorded.size:
            self._records.append((name, recorded, model))
        self.cost_bits += cost
        self.symbols += recorded.size
        return recorded


class Decoder:
    """Reads what an `Encoder` wrote."""

    def __init__(self, stored: bytes):
        self._stream = _stream()
        words = np.frombuffer(stored + b"\0" * (-len(stored) % 4), "<u4").astype(np.uint32)
        if words.size and not words[-1]:
            raise ArtifactError("load: an entropy-coded stream ends in zeros; the file was not written by save()")
        self._coder = self._stream.stack.AnsCoder(words)

    @property
    def bits_left(self) -> int:
        """Bits not yet read."""
        return self._coder.num_valid_bits()

    def uniform(self, values: np.ndarray | None, count: int, size: int) -> np.ndarray:
        """See `Coder`."""
        del values
        if count * (size.bit_length() - 1) > self.bits_left + _STATE_BITS:
            raise ArtifactError(f"load: {count} values are said to be in a stream of {self.bits_left} bits; refused")
        return np.zeros(count, np.int32) if size == 1 else self._decode(count, "uniform", size)

    def weighted(self, values: np.ndarray | None, count: int, weights: np.ndarray) -> np.ndarray:
        """See `Coder`."""
        del values
        return self._decode(count, "weighted", weights)

    def binary(self, values: np.ndarray | None, probability: np.ndarray) -> np.ndarray:
        """See `Coder`."""
        del values
        return self._coder.decode(*_model(self._stream, "binary", probability))

    def choose(self, options: Sequence[Option | None]) -> np.ndarray:
        """See `Coder`."""
        option = options[int(self.uniform(None, 1, len(options))[0])]
        assert option is not None
        return option(self)

    def finish(self) -> None:
        """Checks that the stream ended where the encoder began, which only the encoder's models lead to.

        Raises:
            ArtifactError: if not.
        """
        if self.uniform(None, 1, 256)[0] != _MARK[0] or not self._coder.is_empty():
            raise ArtifactError(
                "load: an entropy-coded stream does not decode to its end: it was not written by save(), or this "
                "release of constriction differs from the one that wrote it; install that one"
            )

    def _decode(self, count: int, name: str, model: Any) -> np.ndarray:
        return self._coder.decode(*_model(self._stream, name, model), count)


def adaptive(io: Coder, values: np.ndarray | None, count: int, size: int, shift: int) -> np.ndarray:
    """Codes values of ``0..size-1`` under the frequencies seen so far, so that no table is stored.

    They are brought up to date after blocks that grow by a quarter: a few dozen calls code millions of symbols.
    """
    out = np.zeros(count, np.int32)
    if size == 1:
        return out
    counts = np.zeros(size, np.int64)
    start = 0
    while start < count:
        stop = min(count, start + max(_FIRST_BLOCK, start // 4))
        block = None if values is None else values[start:stop]
        out[start:stop] = io.weighted(block, stop - start, weights_of(counts, start, shift))
        counts += np.bincount(out[start:stop], minlength=size)
        start = stop
    return out


def plane(io: Coder, values: np.ndarray | None, count: int) -> np.ndarray:
    """Codes bytes (a plane, or codes) by the best of: all zero, as they are, uniform in their range, adaptive in it."""
    if not count:
        return np.zeros(0, np.uint8)
    some = values is not None and bool(values.any())
    options: list[Option | None] = [
        None if some else lambda io: np.zeros(count, np.int32),
        lambda io: io.uniform(values, count, 256),
    ]
    options += [lambda io, shift=shift: _in_range(io, values, count, shift) for shift in (0, *SHIFTS)]
    return io.choose(options).astype(np.uint8)


def _in_range(io: Coder, values: np.ndarray | None, count: int, shift: int) -> np.ndarray:
    low, top = (None, None) if values is None else (values.min(keepdims=True), values.max(keepdims=True))
    low = io.uniform(low, 1, 256)
    size = int(io.uniform(None if top is None else top - low, 1, 256 - int(low[0]))[0]) + 1
    shifted = None if values is None else values.astype(np.int32) - low
    if not shift:
        return io.uniform(shifted, count, size) + low
    return adaptive(io, shifted, count, size, shift) + low


def snap(probability: np.ndarray) -> np.ndarray:
    """Probabilities on the fixed grid, never 0 or 1."""
    return np.clip(np.rint(probability * _GRID), 1, _GRID - 1) / _GRID


def weights_of(counts: np.ndarray, total: int, shift: int) -> np.ndarray:
    """Positive weights for symbols seen ``counts`` times, ``total`` in all; see `SHIFTS`."""
    if total << shift <= _GRID:
        return (counts << shift) + 1
    return counts * _GRID // total + 1


def _model(stream: Any, name: str, model: Any) -> tuple[Any, ...]:
    if name == "uniform":
        return (stream.model.Uniform(model),)
    if name == "weighted":
        return (stream.model.Categorical(model.astype(np.float64), perfect=False),)
    return stream.model.Bernoulli(perfect=False), model


def _stream() -> Any:
    try:
        stream = importlib.import_module("constriction").stream
    except ImportError as error:
        raise ImportError(
            'coder="constriction" needs the package constriction, for reading too: pip install "jaxcompress[entropy]"'
        ) from error
    return stream
