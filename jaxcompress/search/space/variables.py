"""What one gene stands for: one of several values, a whole number, a number between two bounds."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Hashable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values: numbers, booleans, strings, ``None``, tuples, functions; anything hashable.

    Numbers decode to themselves (int32, or float32 when one of them is a float), booleans to a bool, everything else
    to the int32 position of the value in ``values``, for `jax.lax.switch`. A choice of one value is a constant.

    Args:
        values: what there is to choose from, all different. Positions are the codes of a genome.

    Raises:
        ValueError: without values, for a value that occurs twice, for numbers that are not finite or exceed int32.
        TypeError: for a value that cannot be hashed; for values without an order (a set), or a single string.

    Example:
        >>> Choice((3, 5, 7)).ordered, Choice(("relu", "swish")).ordered
        (True, False)
    """

    values: tuple[Hashable, ...]
    kinds: tuple[type, ...] = dataclasses.field(init=False, repr=False)  # 1 == 1.0 == True, and yet they decode apart

    def __post_init__(self) -> None:
        if isinstance(self.values, str | set | frozenset) or not isinstance(self.values, Iterable):
            raise TypeError(f"Choice(values): a tuple of values, in an order, got {self.values!r}; a single one: (x,)")
        values = tuple(plain(value) for value in self.values)
        if not values:
            raise ValueError("Choice(values): no values to choose from; give at least one")
        for value in values:
            try:
                hash(value)
            except TypeError as error:
                raise TypeError(f"Choice: the value {value!r} cannot be hashed; use a tuple, or its name") from error
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise ValueError(f"Choice: the value {twice[0]!r} occurs twice in {values}; every value must differ")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "kinds", tuple(map(type, values)))
        if self.numeric:
            refuse_unrepresentable("Choice", values)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers (booleans are none)."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def ordered(self) -> bool:
        """Whether neighbouring codes are neighbouring numbers: at least three, rising or falling."""
        if not self.numeric or len(self.values) < 3:
            return False
        steps = np.diff(np.asarray(self.values, np.float64))
        return bool(np.all(steps > 0) or np.all(steps < 0))

    @property
    def cardinality(self) -> int:
        """How many values there are."""
        return len(self.values)

    def table(self) -> np.ndarray:
        """What each code decodes to, ``[cardinality]``."""
        if self.numeric:
            return np.asarray(self.values, np.float32 if float in self.kinds else np.int32)
        if all(isinstance(value, bool) for value in self.values):
            return np.asarray(self.values, np.bool_)
        return np.arange(len(self.values), dtype=np.int32)

    def value(self, code: int) -> Any:
        """The plain value behind a code."""
        return self.values[code]

    def code(self, value: Any) -> int:
        """The code of a plain value; a float also matches as its float32 neighbour."""
        value = plain(value)
        for code, own in enumerate(self.values):
            if same(own, value):
                return code
        raise ValueError(f"{value!r} is not one of {self.values}")

    def __str__(self) -> str:
        return " | ".join(getattr(value, "__name__", None) or str(value) for value in self.values)


@dataclasses.dataclass(frozen=True)
class IntRange:
    """A whole number: ``low, low + step, ...`` up to ``high`` inclusive. Decodes to int32.

    Raises:
        ValueError: if ``high < low``, ``step < 1`` or ``step`` does not lead from ``low`` to ``high``.

    Example:
        >>> IntRange(16, 64, step=16).cardinality
        4
    """

    low: int
    high: int
    step: int = 1

    ordered = True

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            object.__setattr__(self, name, whole(f"IntRange({name}=)", getattr(self, name)))
        if self.high < self.low:
            raise ValueError(f"IntRange: high={self.high} is below low={self.low}")
        if self.step < 1 or (self.high - self.low) % self.step:
            raise ValueError(f"IntRange: step={self.step} does not lead from low={self.low} to high={self.high}")
        refuse_unrepresentable("IntRange", (self.low, self.high))

    @property
    def cardinality(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def table(self) -> np.ndarray:
        """What each code decodes to, ``[cardinality]``."""
        return np.arange(self.low, self.high + 1, self.step, dtype=np.int32)

    def value(self, code: int) -> int:
        """The plain value behind a code."""
        return self.low + int(code) * self.step

    def code(self, value: Any) -> int:
        """The code of a whole number."""
        value = plain(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in self._range:
            raise ValueError(f"{value!r} is not one of {self}")
        return self._range.index(int(value))

    @property
    def _range(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}" + (f" step {self.step}" if self.step > 1 else "")


@dataclasses.dataclass(frozen=True)
class Float:
    """A number between two bounds, both inclusive, evenly spread. Decodes to float32.

    Raises:
        ValueError: for bounds that are not finite or not in order.

    Example:
        >>> float(Float(0.0, 4.0).from_unit(0.25))
        1.0
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        bounds(self)

    def from_unit(self, unit: Any) -> jax.Array:
        """The value at a place in ``[0, 1]``, float32, never outside of the bounds."""
        value = self.low + jnp.asarray(unit, jnp.float32) * (self.high - self.low)
        return jnp.clip(value, self.low, self.high)

    def at(self, unit: float) -> float:
        """The same outside of programs, in float64."""
        return min(max(self.low + unit * (self.high - self.low), self.low), self.high)

    def to_unit(self, value: float) -> float:
        """The place in ``[0, 1]`` of a value."""
        return (inside(self, value) - self.low) / (self.high - self.low)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclasses.dataclass(frozen=True)
class LogFloat:
    """A positive number between two bounds, both inclusive, its logarithm evenly spread. Decodes to float32.

    Raises:
        ValueError: for bounds that are not positive and finite or not in order.

    Example:
        >>> round(float(LogFloat(1e-4, 1e-2).from_unit(0.5)), 5)
        0.001
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        bounds(self)
        if self.low <= 0:
            raise ValueError(f"LogFloat: low={self.low} must be above 0; use Float for a range that holds 0")

    def from_unit(self, unit: Any) -> jax.Array:
        """The value at a place in ``[0, 1]``, float32, never outside of the bounds."""
        start, end = math.log(self.low), math.log(self.high)
        value = jnp.exp(start + jnp.asarray(unit, jnp.float32) * (end - start))
        return jnp.clip(value, self.low, self.high)

    def at(self, unit: float) -> float:
        """The same outside of programs, in float64."""
        return min(max(self.low * (self.high / self.low) ** unit, self.low), self.high)

    def to_unit(self, value: float) -> float:
        """The place in ``[0, 1]`` of a value."""
        return math.log(inside(self, value) / self.low) / math.log(self.high / self.low)

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}] log"


Discrete = Choice | IntRange
Continuous = Float | LogFloat
Variable = Choice | IntRange | Float | LogFloat


def plain(value: Any) -> Any:
    """NumPy and JAX scalars as Python's, lists as tuples; everything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0):
        return value.item()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(plain(item) for item in value)
    return value


def same(own: Any, value: Any) -> bool:
    """Whether a given value means one of ours: ``True`` is not 1, a float may have passed through float32."""
    if isinstance(own, bool) != isinstance(value, bool):
        return False
    if isinstance(own, float) and isinstance(value, int | float):
        return own == value or np.float32(own) == np.float32(value)
    return own == value


def whole(name: str, value: Any) -> int:
    """A Python int, or an error that names the argument."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def bounds(variable: Float | LogFloat) -> None:
    """Makes both bounds floats and refuses those that enclose nothing."""
    kind = type(variable).__name__
    for name in ("low", "high"):
        value = plain(getattr(variable, name))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{kind}({name}=) must be a finite number, got {value!r}")
        object.__setattr__(variable, name, float(value))
    if not variable.low < variable.high:
        raise ValueError(f"{kind}: low={variable.low} is not below high={variable.high}; constants are Choice((x,))")
    refuse_unrepresentable(kind, (variable.low, variable.high))


def inside(variable: Float | LogFloat, value: Any) -> float:
    """The value, clipped by no more than float32's rounding; an error outside of the bounds."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    slack = 1e-6 * max(abs(variable.low), abs(variable.high))
    if not variable.low - slack <= value <= variable.high + slack:
        raise ValueError(f"{value!r} is outside of {variable}")
    return min(max(float(value), variable.low), variable.high)


def refuse_unrepresentable(kind: str, values: tuple) -> None:
    """Decoded values are int32 and float32: what they cannot hold is an error now, not a wrong number later."""
    for value in values:
        limit = float(np.finfo(np.float32).max) if isinstance(value, float) else 2**31 - 1
        if not -limit <= value <= limit:
            raise ValueError(f"{kind}: {value!r} is not finite, or more than float32 or int32 can hold")
