"""Errors about settings, of strategies, spaces and networks: they name the owner, the setting and the value."""

from __future__ import annotations

import math
import numbers
from typing import Any


def whole(owner: Any, *, least: int = 1, **settings: Any) -> None:
    """Settings that must be integers of at least ``least``."""
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{type(owner).__name__}({name}=) must be an integer of at least {least}, got {value!r}")


def between(owner: Any, low: float, high: float, **settings: Any) -> None:
    """Settings that must be numbers in ``[low, high]``."""
    for name, value in settings.items():
        if not _is_number(value) or not low <= value <= high:
            raise ValueError(f"{type(owner).__name__}({name}=) must be a number in [{low}, {high}], got {value!r}")


def at_most(owner: Any, name: str, value: int, most_name: str, most: int) -> None:
    """A setting that must not be above another one."""
    if value > most:
        raise ValueError(
            f"{type(owner).__name__}({name}={value}) must not be above {most_name}={most}: "
            f"lower {name} or raise {most_name}"
        )


def positive(owner: Any, **settings: Any) -> None:
    """Settings that must be numbers above 0."""
    for name, value in settings.items():
        if not _is_number(value) or value <= 0:
            raise ValueError(f"{type(owner).__name__}({name}=) must be a finite number above 0, got {value!r}")


def mutation_settings(owner: Any, mutation: float | None, scale: float, **chances: float) -> None:
    """How genes are changed: a probability or None, a part of the range, and other probabilities."""
    if mutation is not None:
        between(owner, 0, 1, mutation=mutation)
    positive(owner, scale=scale)
    between(owner, 0, 1, **chances)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))
