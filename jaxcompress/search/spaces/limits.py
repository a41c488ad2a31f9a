"""A space whose candidates must not cost more than so much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxcompress.search.space import Constraint, Space
from jaxcompress.search.spaces.costs import Cost


@dataclasses.dataclass(frozen=True)
class CostOf:
    """One of the costs of a genome, as a function that compares by what it computes."""

    costs: Callable[[Any], Cost]
    name: str

    def __call__(self, genome: Any) -> jax.Array:
        """The number."""
        return getattr(self.costs(genome), self.name)


def limited(
    variables: Mapping[str, Any], costs: Callable[[Any], Cost], parameters: float | None, flops: float | None
) -> Space:
    """The space of these variables, with a constraint for every limit that is given."""
    limits = {"parameters": parameters, "flops": flops}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return Space(variables, [Constraint(name, CostOf(costs, name), at_most=limit) for name, limit in given.items()])
