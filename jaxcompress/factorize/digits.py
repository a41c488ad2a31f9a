"""How the axes of an array are split into digits, and which core of a tensor train holds which."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from jaxcompress.solvers.tt_svd import feasible_ranks


def digits_of(size: int, count: int) -> tuple[int, ...]:
    """Factors of a size, or of a slightly larger one, that are as equal as can be; ascending.

    An exact factorization is taken where its sum is at most 1.3 times that of equal real factors; else the factors with
    the least ``sum * product``, whose product exceeds the size: the array is padded with zeros.

    Args:
        size: 1 or more.
        count: number of factors.

    Example:
        >>> digits_of(784, 4), digits_of(300, 4), digits_of(50257, 3), digits_of(7, 2)
        ((4, 4, 7, 7), (3, 4, 5, 5), (34, 37, 40), (2, 4))
    """
    found = sorted(_candidates(size, count))
    exact = [digits for _, product, digits in found if product == size]
    least = min(exact, key=sum) if exact else None
    if least is not None and sum(least) <= 1.3 * count * size ** (1 / count):
        return least
    return found[0][2]


def _candidates(size: int, count: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """``(sum * product, product, digits)`` of ascending digits within a factor of about two of the equal ones."""
    root = size ** (1 / count)
    low, high = max(1, int(root / 2)), int(2 * root) + 1
    for first in itertools.combinations_with_replacement(range(low, high), count - 1):
        last = -(-size // math.prod(first))
        if last >= (first[-1] if first else 1):
            digits = (*first, last)
            yield sum(digits) * math.prod(digits), math.prod(digits), digits


@dataclasses.dataclass(frozen=True)
class Modes:
    """Which digits the cores of a train hold.

    Attributes:
        axes: for each core the dense axes of its digits.
        lengths: of these digits.
        sizes: of the dense axes.
    """

    axes: tuple[tuple[int, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def counted(self) -> tuple[int, ...]:
        """What the digits of each dense axis count."""
        counts = [1] * len(self.sizes)
        for own, lengths in zip(self.axes, self.lengths, strict=True):
            for axis, length in zip(own, lengths, strict=True):
                counts[axis] *= length
        return tuple(counts)

    @property
    def cut(self) -> tuple[int | None, ...]:
        """For each dense axis its size where the digits count further."""
        return tuple(None if size == most else size for size, most in zip(self.sizes, self.counted, strict=True))

    @property
    def merged(self) -> tuple[int, ...]:
        """How many combinations of digits each core holds."""
        return tuple(math.prod(lengths) for lengths in self.lengths)

    def feasible(self, rank: int | Sequence[int]) -> tuple[int, ...]:
        """The ranks of the bonds inside, none larger than it can use; see `tt_svd`."""
        return feasible_ranks(self.merged, rank)

    def core_shapes(self, ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the cores at these ranks."""
        ends = (1, *ranks, 1)
        return [(ends[k], *lengths, ends[k + 1]) for k, lengths in enumerate(self.lengths)]

    def parameters(self, rank: int | Sequence[int]) -> int:
        """Entries of all cores."""
        return sum(map(math.prod, self.core_shapes(self.feasible(rank))))

    def break_even(self) -> int:
        """The largest rank of all bonds at which the cores hold fewer entries than the array; 0 if none."""
        whole, rank = math.prod(self.sizes), 0
        while self.parameters(rank + 1) < whole and self.feasible(rank + 1) != self.feasible(rank + 2):
            rank += 1
        return rank

    def tensor(self, w: jax.Array) -> jax.Array:
        """Arrays ``[batch, *sizes]`` as tensors with an axis for each core."""
        missing = [(0, most - size) for size, most in zip(self.sizes, self.counted, strict=True)]
        if any(more for _, more in missing):
            w = jnp.pad(w, [(0, 0), *missing])
        digits = [(axis, k, length) for k, own in enumerate(zip(self.axes, self.lengths, strict=True))
                  for axis, length in zip(*own, strict=True)]  # fmt: skip
        by_axis = sorted(range(len(digits)), key=lambda i: digits[i][:2])
        w = w.reshape(len(w), *(digits[i][2] for i in by_axis))
        order = [1 + by_axis.index(i) for i in range(len(digits))]
        return w.transpose(0, *order).reshape(len(w), *self.merged)


def modes_of(
    sizes: Sequence[int],
    sides: Sequence[Sequence[int]],
    *,
    digits: Sequence[Sequence[int]] | None = None,
    cores: int = 3,
) -> Modes:
    """The modes of a TT-matrix: core ``k`` holds the ``k``-th digit of the rows and of the columns.

    Args:
        sizes: of the dense axes.
        sides: the axes that are rows, and those that are columns.
        digits: of every dense axis, the most significant first; the digits of either side are as many as there are
            cores. By default near-equal ones (`digits_of`), those of the rows ascending, of the columns descending.
        cores: how many, 2 to 8, where no digits are given.

    Raises:
        ValueError: if ``cores`` is out of range, or ``digits`` do not fit.

    Example:
        >>> modes_of((784, 300), ((0,), (1,)), cores=4).lengths
        ((4, 5), (4, 5), (7, 4), (7, 3))
    """
    if digits is not None:
        return _given(sizes, sides, digits)
    if isinstance(cores, bool) or not isinstance(cores, int) or not 2 <= cores <= 8:
        raise ValueError(f"cores must be from 2 to 8, got {cores!r}")
    held: list[list[tuple[int, int]]] = [[] for _ in range(cores)]  # (axis, length) of each core
    for number, side in enumerate(sides):
        for k, digit in _spread(sizes, side, cores, descending=bool(number)):
            held[k].append(digit)
    return _modes(held, sizes)


def modes_of_window(sizes: Sequence[int], order: Sequence[int]) -> Modes:
    """The modes of a kernel as a chain of its axes in some order, each whole."""
    return _modes([[(axis, sizes[axis])] for axis in order], sizes)


def _modes(held: Sequence[Sequence[tuple[int, int]]], sizes: Sequence[int]) -> Modes:
    axes = tuple(tuple(axis for axis, _ in own) for own in held)
    return Modes(axes, tuple(tuple(length for _, length in own) for own in held), tuple(sizes))


def _spread(sizes: Sequence[int], side: Sequence[int], cores: int, *, descending: bool) -> Iterator:
    """``(core, (axis, length))`` for the digits of one side."""
    if len(side) > cores:
        yield from ((i * cores // len(side), (axis, sizes[axis])) for i, axis in enumerate(side))
        return
    counts = dict.fromkeys(side, 1)
    while sum(counts.values()) < cores:
        counts[max(side, key=lambda axis: sizes[axis] ** (1 / counts[axis]))] += 1
    found = [(axis, n) for axis in side for n in digits_of(sizes[axis], counts[axis])[:: -1 if descending else 1]]
    yield from enumerate(found)


def _given(sizes: Sequence[int], sides: Sequence[Sequence[int]], digits: Sequence[Sequence[int]]) -> Modes:
    if len(digits) != len(sizes):
        raise ValueError(f"digits must be one sequence for each of {len(sizes)} axes, got {digits}")
    for axis, (own, size) in enumerate(zip(digits, sizes, strict=True)):
        if not own or any(n < 1 for n in own) or math.prod(own) < size:
            raise ValueError(f"digits {tuple(own)} of axis {axis} count to {math.prod(own)}, less than its size {size}")
    rows = [[(axis, n) for axis in side for n in digits[axis]] for side in sides]
    if len({len(row) for row in rows}) != 1 or not 2 <= len(rows[0]) <= 8:
        raise ValueError(f"digits of the rows and of the columns must be equally many, from 2 to 8, got {digits}")
    return _modes([list(pair) for pair in zip(*rows, strict=True)], sizes)
