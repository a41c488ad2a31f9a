"""The operations of an integer program: what constants they hold, and how they run.

A node is made while the function is planned, at every shape anew. ``constants`` is asked once, with the float
parameters and the grids at hand; ``run`` is traced with those constants as arrays. Between `Quantize` and `Dequantize`
no node computes with floats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.quantize.integer.apart import apart
from jaxcompress.quantize.integer.grids import Grid
from jaxcompress.quantize.integer.values import Arrays

Constants = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Building:
    """What constants are made of.

    Attributes:
        arrays: known values.
        shapes: their full shapes.
        grids: of every site, by name.
        weight_bits: width of a weight's codes, by the number of the known value.
        per_tensor: one scale for all channels of a weight.
    """

    arrays: Arrays
    shapes: Mapping[int, tuple[int, ...]]
    grids: Mapping[str, Grid]
    weight_bits: Mapping[int, int]
    per_tensor: bool


class Node(Protocol):
    """An operation.

    Attributes:
        name: key of its constants; "" where it has none.
        inputs: slots that it reads.
        outputs: slots that it writes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[int, ...]: ...  # noqa: D102

    def known(self) -> tuple[int, ...]:
        """Known values that its constants need."""
        ...

    def constants(self, building: Building) -> Constants:
        """Its constants, NumPy arrays."""
        ...

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Its results."""
        ...

    def signature(self) -> tuple[Any, ...]:
        """What must be the same at every shape of the inputs."""
        ...


@dataclasses.dataclass(frozen=True)
class Base:
    """What most nodes share."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def known(self) -> tuple[int, ...]:
        """Known values that its constants need."""
        return ()

    def constants(self, building: Building) -> Constants:
        """Its constants."""
        del building
        return {}

    def signature(self) -> tuple[Any, ...]:
        """What must be the same at every shape of the inputs."""
        return (type(self).__name__, self.name)


@dataclasses.dataclass(frozen=True)
class Quantize(Base):
    """Float data to codes: the way in."""

    grid: str

    def constants(self, building: Building) -> Constants:
        """Scale, zero point and ends of the grid."""
        grid = building.grids[self.grid]
        ends = np.array([grid.smallest, grid.largest], np.int8)
        return {"scale": np.float32(grid.scale), "zero_point": np.int8(grid.zero_point), "ends": ends}

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Rounds halves to even, and clips."""
        ends = constants["ends"].astype(jnp.float32)
        code = jnp.round(arrays[0].astype(jnp.float32) / constants["scale"]) + constants["zero_point"].astype(
            jnp.float32
        )
        return [apart(jnp.clip(code, ends[0], ends[1]).astype(jnp.int8))]


@dataclasses.dataclass(frozen=True)
class Dequantize(Base):
    """Codes to float data: the way out."""

    grid: str
    dtype: Any

    def constants(self, building: Building) -> Constants:
        """Scale and zero point."""
        grid = building.grids[self.grid]
        return {"scale": np.float32(grid.scale), "zero_point": np.int8(grid.zero_point)}

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The reals that the codes stand for."""
        centered = arrays[0].astype(jnp.int32) - constants["zero_point"].astype(jnp.int32)
        return [(centered.astype(jnp.float32) * constants["scale"]).astype(self.dtype)]


@dataclasses.dataclass(frozen=True)
class Move(Base):
    """A primitive that moves, compares or takes extremes of codes of one grid, bound to the codes as it stands.

    Attributes:
        eqn: the equation.
        fixed: operands that depend on the trace alone (indices), by position.
    """

    eqn: JaxprEqn
    fixed: tuple[tuple[int, Any], ...] = ()

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The results of the primitive."""
        del constants
        return bound(self.eqn, dict(self.fixed), arrays)

    def signature(self) -> tuple[Any, ...]:
        """The primitive."""
        return (type(self).__name__, self.eqn.primitive.name)


@dataclasses.dataclass(frozen=True)
class Pad(Base):
    """Pads with the code of a known real."""

    grid: str
    eqn: JaxprEqn
    filler: int

    def known(self) -> tuple[int, ...]:
        """The filler."""
        return (self.filler,)

    def constants(self, building: Building) -> Constants:
        """Its code."""
        return {"filler": building.grids[self.grid].codes(building.arrays[self.filler])}

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Padded codes."""
        return bind(self.eqn, [arrays[0], constants["filler"]])


@dataclasses.dataclass(frozen=True)
class Clip(Base):
    """Bounds on codes."""

    grid: str
    bounds: tuple[tuple[str, int], ...]

    def known(self) -> tuple[int, ...]:
        """The bounds."""
        return tuple(value for _, value in self.bounds)

    def constants(self, building: Building) -> Constants:
        """Their codes."""
        return bound_codes(self.bounds, building, self.grid)

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Clipped codes."""
        low, high = (jnp.broadcast_to(constants[name], arrays[0].shape) for name in ("low", "high"))
        return [lax.clamp(low, arrays[0], high)]


def bound_codes(bounds: Sequence[tuple[str, int]], building: Building, name: str) -> Constants:
    """The codes that a result may have: those of the grid, within the bounds."""
    grid = building.grids[name]
    low, high = np.array(-np.inf), np.array(np.inf)
    for kind, value in bounds:
        merge = np.maximum if kind == "max" else np.minimum
        low, high = merge(low, building.arrays[value]), merge(high, building.arrays[value])
    return {"low": grid.codes(low), "high": grid.codes(high)}


def on_grid(total: jax.Array, constants: Constants) -> jax.Array:
    """Rescaled int32 sums to codes: the zero point is added, the bounds are kept."""
    zero = constants["zero_point"].astype(jnp.int32)
    low, high = (jnp.broadcast_to(constants[end].astype(jnp.int32) - zero, total.shape) for end in ("low", "high"))
    return apart((lax.clamp(low, total, high) + zero).astype(jnp.int8))


@dataclasses.dataclass(frozen=True)
class Same(Move):
    """A primitive on data that is no float, as it stands."""


@dataclasses.dataclass(frozen=True)
class Tail(Base):
    """A primitive of the float tail.

    Attributes:
        eqn: the equation.
        fixed: operands that depend on the trace alone, by position.
        held: operands that depend on parameters: (position, known value, shape, dtype).
    """

    eqn: JaxprEqn
    fixed: tuple[tuple[int, Any], ...]
    held: tuple[tuple[int, int, tuple[Any, ...], Any], ...]

    def known(self) -> tuple[int, ...]:
        """Values of parameters."""
        return tuple(value for _, value, *_ in self.held)

    def constants(self, building: Building) -> Constants:
        """Those values, as they are."""
        return {f"operand_{at}": building.arrays[value].astype(dtype) for at, value, _, dtype in self.held}

    def run(self, constants: Constants, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """The results of the primitive."""
        fixed = dict(self.fixed)
        for at, _, shape, _ in self.held:
            fixed[at] = jnp.broadcast_to(constants[f"operand_{at}"], shape)
        return bound(self.eqn, fixed, arrays)


def bound(eqn: JaxprEqn, fixed: dict[int, Any], arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """Binds a primitive as it stands; ``fixed`` holds operands by position, ``arrays`` the others in order."""
    entering = iter(arrays)
    return bind(eqn, [fixed[at] if at in fixed else next(entering) for at in range(len(eqn.invars))])
