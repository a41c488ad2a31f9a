"""The integer parameters of a planned function, from its float parameters and the grids of its sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.granularity import Granularity
from jaxcompress.quantize.integer.flat import Flat
from jaxcompress.quantize.integer.grids import Grid
from jaxcompress.quantize.integer.nodes import Building, Constants
from jaxcompress.quantize.integer.plan import Plan
from jaxcompress.quantize.integer.sums import Contract, Sum
from jaxcompress.quantize.spec import Spec

IntegerParams = dict[str, Constants]


def integer_params(
    plan: Plan,
    grids: Mapping[str, Grid],
    leaves: Sequence[Any],
    bits: int | Mapping[str, int],
    granularity: Granularity,
) -> IntegerParams:
    """The constants of every node, by its name.

    Raises:
        ValueError: if a parameter is not finite (names it), or ``bits`` is a dict of which no glob fits a weight.
    """
    known = known_arrays(plan, leaves)
    _require_finite(plan, known)
    weights = {part.weight for node in plan.nodes if isinstance(node, Contract) for part in node.value.products}
    building = Building(
        known,
        {value: plan.flat.shape(value) for value in known},
        grids,
        {value: _width(plan.flat, value, bits) for value in weights},
        granularity == "tensor",
    )
    return {node.name: jax.tree.map(jnp.asarray, node.constants(building)) for node in plan.nodes if node.name}


def known_arrays(plan: Plan, leaves: Sequence[Any]) -> dict[int, np.ndarray]:
    """The known values that nodes need, in float64, with one entry along axes on which they are constant."""
    flat = plan.flat
    wanted = sorted({value for node in plan.nodes for value in node.known()})

    def evaluated(leaves: Sequence[Any]) -> list[Any]:
        found = flat.evaluate(dict(zip(flat.inputs, leaves, strict=False)), wanted)
        return [_once(jnp.asarray(array), flat, value) for value, array in zip(wanted, found, strict=True)]

    found = jax.jit(evaluated)(list(leaves))
    return {value: np.asarray(array, np.float64) for value, array in zip(wanted, found, strict=True)}


def _once(array: jax.Array, flat: Flat, value: int) -> jax.Array:
    for axis in flat.even.get(value, ()):
        array = jax.lax.slice_in_dim(array, 0, 1, axis=axis)
    return array


def _width(flat: Flat, value: int, bits: int | Mapping[str, int]) -> int:
    """Width of the codes of a weight; where several parameters make it, that of the first one."""
    if not isinstance(bits, Mapping):
        return bits
    paths = sorted(flat.paths[value]) or [""]
    return Spec(bits=bits).at(paths[0]).bits  # type: ignore[return-value]  # a plain width now


def _require_finite(plan: Plan, known: Mapping[int, np.ndarray]) -> None:
    """Bounds and fillers may be infinite, what is multiplied and added may not."""
    for node in plan.nodes:
        if not isinstance(node, Contract | Sum):
            continue
        for value in set(node.known()) - {bound for _, bound in node.value.bounds}:
            if not np.isfinite(known[value]).all():
                paths = ", ".join(sorted(plan.flat.paths[value])) or "a constant of the function"
                raise ValueError(f"integer_only: {paths} holds values that are not finite (site {node.name!r})")
