"""Models of counts, such as the numbers of kept weights in the rows of a matrix: mostly small, and often periodic.

The rows of a dense layer behind a convolution are its channels, over and over again for each pixel; a dead channel is
dead everywhere. A period is looked for, and a count coded under the frequencies seen where channels were as busy.
"""

from __future__ import annotations

import numpy as np

from jaxcompress.artifact.entropy import SHIFTS, Coder, Option, adaptive, weights_of

_DIRECT = 16  # counts below this are symbols of their own
_MIN_PERIODIC, _MAX_PERIOD = 32, 1 << 10
_SHIFT = 2  # an unseen symbol counts as 1/4 of a seen one
_CLASSES = 5


def tallies(io: Coder, values: np.ndarray | None, count: int, limit: int) -> np.ndarray:
    """Codes numbers of ``0..limit``, mostly small: small ones by frequency, large ones by magnitude."""
    symbols = extra = None
    if values is not None:
        magnitude = np.frexp(values.astype(np.float64))[1]  # bits of the number, exact below 2**53
        symbols = np.where(values < _DIRECT, values, _DIRECT + magnitude - _DIRECT.bit_length())
        extra = values - (np.int64(1) << np.maximum(magnitude - 1, 0))
    largest = limit if limit < _DIRECT else _DIRECT + limit.bit_length() - _DIRECT.bit_length()
    top = int(io.uniform(None if symbols is None else symbols.max(initial=0, keepdims=True), 1, largest + 1)[0])
    options: list[Option] = [lambda io, shift=shift: adaptive(io, symbols, count, top + 1, shift) for shift in SHIFTS]
    if count >= _MIN_PERIODIC and top:
        options.append(lambda io: _periodic(io, symbols, count, top + 1))
    symbols = io.choose(options)
    out = symbols.astype(np.int64)
    for symbol in range(_DIRECT, top + 1):
        chosen = symbols == symbol
        width = symbol - _DIRECT + _DIRECT.bit_length() - 1
        out[chosen] = 1 << width
        for low in range(0, width, 16):
            part = None if extra is None else (extra[chosen] >> low) & 0xFFFF
            out[chosen] += io.uniform(part, int(chosen.sum()), 1 << min(16, width - low)).astype(np.int64) << low
    return out


def _periodic(io: Coder, symbols: np.ndarray | None, count: int, size: int) -> np.ndarray:
    """Codes symbols whose position in a period tells how large they are likely to be."""
    limit = min(count // 2, _MAX_PERIOD)
    found = None if symbols is None else np.array([_find_period(symbols, limit)])
    period = int(io.uniform(found, 1, limit + 1)[0])
    if not period:  # none: an encoder chooses another code
        return adaptive(io, symbols, count, size, _SHIFT)
    out = np.zeros(-(-count // period) * period, np.int32)
    out[:period] = adaptive(io, None if symbols is None else symbols[:period], period, size, _SHIFT)
    sums = out[:period].astype(np.int64)
    seen = np.tile((np.bincount(out[:period], minlength=size) + 3) // 4, (_CLASSES, 1))
    for start in range(period, count, period):
        stop = min(count, start + period)
        classes = _classes(sums, start // period)[: stop - start]
        for number in range(_CLASSES):
            at = start + np.flatnonzero(classes == number)
            given = None if symbols is None else symbols[at]
            out[at] = io.weighted(given, len(at), weights_of(seen[number], int(seen[number].sum()), _SHIFT))
            seen[number] += np.bincount(out[at], minlength=size)
        sums += out[start : start + period]
    return out[:count]


def _classes(sums: np.ndarray, rounds: int) -> np.ndarray:
    """Whether a position never had an entry, or few, less than most, more, or far more: in exact integers."""
    total, count = int(sums.sum()), sums.size
    level = 2 * sums * count
    return (sums > 0).astype(np.int64) + (level > total // 2) + (level > 2 * total) + (level > 4 * total)


def _find_period(symbols: np.ndarray, limit: int) -> int:
    """The period whose multiples have the most significant autocorrelation, or 0."""
    half = symbols.size // 2
    spectrum = np.abs(np.fft.rfft(symbols - symbols.mean(), 2 * symbols.size)) ** 2
    likeness = np.fft.irfft(spectrum)[: half + 1] / np.arange(symbols.size, symbols.size - half - 1, -1)
    scores = [likeness[period::period].sum() / np.sqrt(half // period) for period in range(2, limit + 1)]
    return 2 + int(np.argmax(scores)) if scores else 0
