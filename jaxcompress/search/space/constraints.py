"""Limits on what a candidate costs: parameters, FLOPs, bytes, latency."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A function of the decoded genome and the bounds it has to keep.

    Args:
        name: what it is called in tables.
        of: from one decoded genome to a scalar; traceable.
        at_most: the largest value allowed; None for no such bound.
        at_least: the smallest value allowed; None for no such bound.

    Raises:
        TypeError: if ``of`` is no function.
        ValueError: without a bound, or for one that is not finite.

    Example:
        >>> few = Constraint("units", lambda genome: genome["units"] * 2, at_most=100)
        >>> float(few.violation({"units": jnp.int32(75)}))
        0.5
    """

    name: str
    of: Callable[[Any], ArrayLike]
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.of):
            raise TypeError(f"Constraint {self.name!r}: a function of the decoded genome, got {self.of!r}")
        limits = [limit for limit in (self.at_most, self.at_least) if limit is not None]
        if not limits or not all(math.isfinite(limit) for limit in limits):
            raise ValueError(f"Constraint {self.name!r}: give a finite at_most= or at_least=, got {self.bounds}")

    @property
    def bounds(self) -> str:
        """The bounds as text."""
        limits = (("<=", self.at_most), (">=", self.at_least))
        return ", ".join(f"{sign} {limit:,.10g}" for sign, limit in limits if limit is not None) or "no bounds"

    def violation(self, genome: Any) -> jax.Array:
        """By how much a bound is broken, relative to it (to 1 where it is 0); infinite where the value is NaN."""
        value = jnp.asarray(self.of(genome)).astype(jnp.float32)
        over = jnp.zeros((), jnp.float32)
        if self.at_most is not None:
            over = over + jnp.maximum(value - self.at_most, 0.0) / (abs(self.at_most) or 1.0)
        if self.at_least is not None:
            over = over + jnp.maximum(self.at_least - value, 0.0) / (abs(self.at_least) or 1.0)
        return jnp.where(jnp.isnan(value), jnp.inf, over)
