"""A space whose candidates must not cost more than so much."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from jaxcompress.search.space import Constraint, Space
from jaxcompress.search.spaces.costs import Cost


class Family(Protocol):
    """Networks that genomes stand for; frozen, compared by value."""

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of one decoded genome."""
        ...


@dataclasses.dataclass(frozen=True)
class CostOf:
    """One of the costs of a genome, as a function that compares by what it computes."""

    family: Family
    name: str

    def __call__(self, genome: Any) -> jax.Array:
        """The number."""
        return getattr(self.family.costs(genome), self.name)


def limited(variables: Mapping[str, Any], family: Family, parameters: float | None, flops: float | None) -> Space:
    """The space of these variables, with a constraint for every limit that is given."""
    limits = {"parameters": parameters, "flops": flops}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Space(variables, [Constraint(name, CostOf(family, name), at_most=limit) for name, limit in given.items()])
