"""Several spaces as one: an architecture and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxcompress.search.space import Constraint, Space


@dataclasses.dataclass(frozen=True)
class Inner:
    """A function of one of the spaces, as a function of all."""

    name: str
    of: Callable[[Any], ArrayLike]

    def __call__(self, genome: Any) -> ArrayLike | jax.Array:
        """The function of the part of the genome."""
        return self.of(genome[self.name])


def beside(**spaces: Space) -> Space:
    """One space that holds others under their names, with their constraints.

    Example:
        >>> from jaxcompress.search.spaces import NasBench201, training
        >>> space = beside(model=NasBench201().space(parameters=1e6), training=training())
        >>> space.names[:2], space.names[-1]
        (('model/edges/0', 'model/edges/1'), 'training/label_smoothing')

    Raises:
        ValueError: without a space.
    """
    if not spaces:
        raise ValueError("beside: no spaces given; name each, as in beside(model=..., training=...)")
    constraints = [
        Constraint(f"{name}/{constraint.name}", Inner(name, constraint.of), constraint.at_most, constraint.at_least)
        for name, space in spaces.items()
        for constraint in space.constraints
    ]
    return Space({name: space.variables for name, space in spaces.items()}, constraints)
