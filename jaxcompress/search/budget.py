"""How long a search may go on."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re

_SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)")


@dataclasses.dataclass(frozen=True)
class Budget:
    """A number of evaluations, a time, or both: what is spent first ends the search.

    Args:
        evaluations: of candidates that the strategy asked for, those answered from the cache among them. A generation
            that would exceed it is not begun.
        seconds: after which no further generation is begun; the time before an interruption counts.

    Raises:
        ValueError: if neither is given, or one is not positive.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.seconds is None:
            raise ValueError("Budget needs evaluations=, seconds= or both")
        for name, kind, told in (
            ("evaluations", numbers.Integral, "a positive integer"),
            ("seconds", numbers.Real, "a positive, finite number"),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, kind) and 0 < float(value) < math.inf):
                raise ValueError(f"budget: {name} must be {told}, got {value!r}")

    def generations(self, batch: int) -> int | None:
        """How many generations the evaluations are; None without such a bound.

        Raises:
            ValueError: if not even one fits.
        """
        if self.evaluations is None:
            return None
        if self.evaluations < batch:
            raise ValueError(
                f"budget={self.evaluations} evaluations is less than one generation of {batch} candidates: "
                "raise it, or take a strategy of a smaller population"
            )
        return self.evaluations // batch

    def __str__(self) -> str:
        told = [] if self.evaluations is None else [f"{self.evaluations:,} evaluations"]
        return " or ".join(told + ([] if self.seconds is None else [f"{self.seconds:g} s"]))


def budget_of(budget: int | str | Budget) -> Budget:
    """An int is evaluations, a text a time.

    Raises:
        TypeError: on anything else.
        ValueError: on a text that is no time.

    Example:
        >>> budget_of("1h 30min").seconds, budget_of(200).evaluations
        (5400.0, 200)
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        parts = _PART.findall(budget)
        if not parts or _PART.sub("", budget).strip() or any(unit not in _SECONDS for _, unit in parts):
            raise ValueError(f"budget={budget!r} is no time: write '30s', '10min' or '1h 30min'")
        return Budget(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if isinstance(budget, numbers.Integral) and not isinstance(budget, bool):
        return Budget(evaluations=int(budget))
    raise TypeError(f"budget= must be an int (evaluations), a time ('10min') or a Budget, got {budget!r}")
