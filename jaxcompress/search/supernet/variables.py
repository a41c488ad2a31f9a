"""The variables of a supernet's space: numbers of units, branches that are there or not, numbers of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.search.space import Choice, Conditional, IntRange, Space
from jaxcompress.search.supernet.units import Units


def key(name: str) -> str:
    """A name as a space takes it, which reads ``/`` as nesting.

    Example:
        >>> key("params/Block_0/Dense_0")
        'Block_0.Dense_0'
    """
    return name.removeprefix("params/").replace("/", ".")


def variables_of(units: Sequence[Units], branches: Sequence[str]) -> dict[str, Any]:
    """Depth first, then width; the width inside of branches exists where one of them does."""
    taken = [key(name) for name in (*branches, *(one.name for one in units if one.group is None))]
    if len(set(taken)) < len(taken):
        raise ValueError(f"supernet: two branches share a name in {taken}; choose some with depth=")
    depth: dict[str, Any] = {key(name): IntRange(0, 1) for name in branches}
    width: dict[str, Any] = {}
    for one in units:
        if one.group is None:
            depth[key(one.name)] = _numbers(one.counts)
        elif len(one.counts) > 1:
            variable: Any = _numbers(one.counts)
            for branch in one.branches:
                variable = Conditional(variable, on=f"depth/{key(branch)}", equals=1)
            width[key(one.name)] = variable
    return {name: found for name, found in (("depth", depth), ("width", width)) if found}


def _numbers(counts: Sequence[int]) -> Choice | IntRange:
    """Ascending numbers as a range where they are one."""
    steps = set(np.diff(counts).tolist())
    return IntRange(counts[0], counts[-1], steps.pop()) if len(steps) == 1 else Choice(tuple(counts))


def refuse_unknown(space: Space, genome: Mapping[str, Any]) -> None:
    """Refuses a genome that names what a space does not have.

    Raises:
        TypeError: if it is no nested dict.
        ValueError: naming it, and what there is.
    """
    if not isinstance(genome, Mapping):
        raise TypeError(f"supernet: a genome is Genes or a nested dict, {{'width': {{name: units}}}}, got {genome!r}")
    names = [name.split("/", 1) for name in space.names]
    for part, values in genome.items():
        if not isinstance(values, Mapping):
            raise TypeError(
                f"supernet: a genome is a nested dict, {{'width': {{name: units}}}}, got {values!r} for {part!r}; "
                f"there are {list(space.names)}"
            )
        there = [name for of, name in names if of == part]
        unknown = [name for name in values if name not in there]
        if unknown:
            raise ValueError(f"supernet: there is no {unknown[0]!r} in {part}; there are {there}")


def whole_number(name: str, value: Any, least: int, most: int) -> jax.Array:
    """A number of a genome, int32. One that is traced is taken as it comes.

    Raises:
        ValueError: if it is more than one, or concrete and no whole number in range; names it.
    """
    if np.ndim(value):
        raise ValueError(f"supernet: {name!r} has the shape {np.shape(value)}: give one genome; vmap over several")
    if not isinstance(value, Tracer):
        number = np.asarray(value).item()
        if not least <= number <= most or number != int(number):
            raise ValueError(f"supernet: {name!r} must be a whole number from {least} to {most}, got {number!r}")
    return jnp.asarray(value).astype(jnp.int32)
