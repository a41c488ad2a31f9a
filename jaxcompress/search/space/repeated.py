"""The same variables several times: layers of a stage, blocks of a cell."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcompress.search.space.structure import frozen
from jaxcompress.search.space.variables import Choice, IntRange, whole


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A variable, or a dict of them, several times; each time with genes of its own.

    Decodes to arrays with an axis more, as long as the largest number of times. Where that number is a variable,
    the decoded dict also has ``"count"``, the int32 number of entries that are real (those behind it decode to their
    first value), and a repeated variable without a dict is found under ``"values"``. In a `config` it is a list.

    Args:
        inside: the variable, dict of variables, `Conditional` or another `Repeated` (cells in stages).
        times: how often: a number, or an `IntRange` or `Choice` of whole numbers that becomes a variable too.

    Raises:
        ValueError: for a negative number, or one that is never above 0.

    Example:
        >>> Repeated({"kernel": Choice((3, 5, 7))}, times=IntRange(2, 4)).most
        4
    """

    inside: Any
    times: int | IntRange | Choice

    def __post_init__(self) -> None:
        object.__setattr__(self, "inside", frozen(self.inside))
        if not isinstance(self.times, IntRange | Choice):
            object.__setattr__(self, "times", whole("Repeated(times=)", self.times))
        elif isinstance(self.times, Choice) and set(self.times.kinds) != {int}:
            raise ValueError(f"Repeated(times=): {self.times} must be whole numbers")
        if min(self.counts) < 0 or self.most < 1:
            raise ValueError(f"Repeated(times=) must be at least 0, and above 0 somewhere, got {self.times}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Every number of times there is, by code."""
        return (self.times,) if isinstance(self.times, int) else tuple(int(n) for n in self.times.table())

    @property
    def most(self) -> int:
        """The largest number of times."""
        return max(self.counts)
