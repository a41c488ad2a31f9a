"""Weights whose input channels are scaled together, because what makes their input absorbs the scales.

With the scale symmetries of a function (`jaxcompress.core.rescaling`) a scale per input channel costs nothing: what the
weight is multiplied by, the gain or the kernel before it is divided by. Everything that meets the same input then has
the same scales. A weight without such a symmetry keeps its scales to itself, in a `Rescaled` leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.moments import Matrices
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.rescaling import Member, Symmetries, Symmetry, apply
from jaxcompress.core.targets import Target
from jaxcompress.quantize.input_channels import channel_count, factor_shape, layer_count


@dataclasses.dataclass(frozen=True, eq=False)
class SharedInput:
    """Weights whose channels have their scales in common.

    Attributes:
        targets: places of the weights in a list.
        symmetry: what absorbs the scales; None: a single weight keeps them.
        units: for each weight the unit of every channel, ``[layers, channels]``, -1 where none can be scaled; empty
            without a symmetry.
    """

    targets: tuple[int, ...]
    symmetry: Symmetry | None = None
    units: tuple[np.ndarray, ...] = ()

    def merged(self, values: Sequence[jax.Array], how: Literal["mean", "max"]) -> list[jax.Array]:
        """Statistics ``[layers, channels]`` of each weight, made equal where channels share a unit."""
        if self.symmetry is None:
            return list(values)
        units = jnp.concatenate([jnp.asarray(self._placed(index).ravel()) for index in range(len(values))])
        flat = jnp.concatenate([value.ravel() for value in values])
        start = jnp.zeros(self.symmetry.size + 1, flat.dtype)
        if how == "max":
            merged = start.at[units].max(flat)
        else:
            merged = start.at[units].add(flat) / jnp.maximum(start.at[units].add(1), 1)
        return [merged[self._placed(index)] for index in range(len(values))]

    def free(self, index: int) -> jax.Array | None:
        """Which channels of a weight can be scaled; None: all."""
        return None if self.symmetry is None else jnp.asarray(self.units[index] >= 0)

    def absorb(self, params: Any, scales: Sequence[jax.Array]) -> Any:
        """The tree with every weight multiplied by the scales of its channels, and what makes their input divided.

        Args:
            params: tree of float arrays.
            scales: ``[layers, channels]`` of each weight; equal where channels share a unit.
        """
        if self.symmetry is None:
            return params
        of_units = jnp.ones(self.symmetry.size + 1, scales[0].dtype)
        for index, own in enumerate(scales):
            of_units = of_units.at[self._placed(index)].set(own)
        return apply(params, self.symmetry, 1 / of_units[:-1])

    def _placed(self, index: int) -> np.ndarray:
        """Units of the channels of a weight, a last one standing for none."""
        assert self.symmetry is not None
        return np.where(self.units[index] < 0, self.symmetry.size, self.units[index])


def shared_inputs(params: Any, targets: Sequence[Target], symmetries: Symmetries | None) -> list[SharedInput]:
    """Sorts weights by the symmetry that absorbs the scales of their channels.

    A weight stays by itself where there is no symmetry, where one would scale a compressed leaf, where a layer of a
    stack shares units with another one, or where not all weights of one symmetry are read alike.
    """
    paths, leaves, _ = flatten_with_paths(params)
    compressed = {path for path, leaf in zip(paths, leaves, strict=True) if is_compressed(leaf)}
    groups: dict[Any, list[tuple[int, np.ndarray]]] = {}
    found: dict[Any, Symmetry] = {}
    alone = []
    for index, target in enumerate(targets):
        symmetry = None if symmetries is None else symmetries.absorbing(target.path)
        units = None if symmetry is None else _units(target, symmetry)
        if symmetry is None or units is None or any(member.path in compressed for member in symmetry.members):
            alone.append(SharedInput((index,)))
            continue
        key = _key(symmetry)
        found[key] = symmetry
        groups.setdefault(key, []).append((index, units))
    shared = []
    for key, members in groups.items():
        indices, units = zip(*members, strict=True)
        if len({u.shape[0] for u in units}) == 1:
            shared.append(SharedInput(indices, found[key], units))
        else:
            alone += [SharedInput((index,)) for index in indices]
    return sorted([*shared, *alone], key=lambda entry: entry.targets)


def weights_now(params: Any, targets: Sequence[Target]) -> list[jax.Array]:
    """The weights of targets in a tree in which scales were absorbed, which changes no compressed leaf."""
    now = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    return [target.weight if is_compressed(now[target.path]) else now[target.path] for target in targets]


def _key(symmetry: Symmetry) -> Any:
    """Equal for symmetries that scale the same."""
    return tuple((m.path, m.axes, m.exponent, m.units.shape, m.units.tobytes()) for m in symmetry.members)


def _units(target: Target, symmetry: Symmetry) -> np.ndarray | None:
    """Units of the channels of a weight, ``[layers, channels]``; None where they do not fit the layers."""
    layout = target.layout
    shape = factor_shape(layout)
    members = [m for m in symmetry.consumers if m.path == target.path and m.role == "contracting" and m.exponent == -1]
    if len(members) != 1 or any(shape[axis] != size for axis, size in _sizes(members[0])):
        return None
    (member,) = members
    sizes = dict(_sizes(member))
    units = np.broadcast_to(member.units.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), shape)
    split = Matrices(shape, layout.roles).split(jnp.asarray(units))
    units = np.asarray(split).reshape(layer_count(layout), channel_count(layout))
    owners = [set(row[row >= 0].tolist()) for row in units]
    return None if sum(map(len, owners)) > len(set().union(*owners)) else units


def _sizes(member: Member) -> list[tuple[int, int]]:
    return list(zip(member.axes, member.units.shape, strict=True))
