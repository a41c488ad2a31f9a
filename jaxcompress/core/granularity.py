"""Which weights share a scale: an output channel, a group of one, or a whole layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

Granularity: TypeAlias = Literal["channel", "tensor"]
GRANULARITIES = ("channel", "tensor")


class AxisRoles(Protocol):
    """What the axes of a weight mean (`jaxcompress.core.parts.Roles`)."""

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes of separate layers."""
        ...

    @property
    def contracting(self) -> tuple[int, ...]:
        """Axes that are summed over."""
        ...


def scale_shape(
    shape: Sequence[int],
    roles: AxisRoles,
    *,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    method: str = "quantize",
    name: str = "",
) -> tuple[int, ...]:
    """The shape of the scales of a weight.

    Args:
        shape: of the weight.
        roles: of its axes. Stack axes keep scales of their own in every granularity.
        granularity: ``"channel"``: a scale for each index of the output axes; ``"tensor"``: one for each layer.
        group_size: number of weights of one output channel that share a scale, counted along the contracted axes in
            their order; must divide them evenly. None: the whole channel.
        method: name for errors.
        name: of the weight, for errors.

    Returns:
        As many sizes as the weight has, each dividing its (see `jaxcompress.solvers.grid`).

    Raises:
        ValueError: if the granularity is not known or ``group_size`` does not fit.

    Example:
        >>> from jaxcompress.core.parts import Roles
        >>> roles = Roles(stack=(0,), contracting=(1,), output=(2,))
        >>> scale_shape((3, 64, 10), roles), scale_shape((3, 64, 10), roles, group_size=16)
        ((3, 1, 10), (3, 4, 10))
        >>> scale_shape((3, 64, 10), roles, granularity="tensor")
        (3, 1, 1)
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"{method}: granularity must be 'channel' or 'tensor', got {granularity!r}")
    if granularity == "tensor":
        if group_size is not None:
            raise ValueError(
                f"{method}: group_size={group_size} divides output channels, but granularity='tensor' has one scale "
                "for all of them: use granularity='channel', or group_size=None"
            )
        return tuple(size if axis in roles.stack else 1 for axis, size in enumerate(shape))
    return _of_channels(tuple(shape), roles.contracting, group_size, f"{method}: group_size={group_size}", name)


def _of_channels(
    shape: tuple[int, ...], contracting: tuple[int, ...], group_size: int | None, what: str, name: str
) -> tuple[int, ...]:
    """Full size everywhere, 1 along the contracted axes, or the number of groups there."""
    sizes, channel = list(shape), math.prod(shape[axis] for axis in contracting)
    if group_size is None:
        return tuple(1 if axis in contracting else size for axis, size in enumerate(shape))
    remaining = group_size
    for axis in reversed(contracting):
        size = sizes[axis]
        within = min(remaining, size)  # of one group, along this axis
        if within < 1 or size % within or remaining % within:
            raise ValueError(
                f"{what} does not divide the contracted axes of {name!r} evenly (shape {shape}, contracted "
                f"{contracting}): choose another, or leave the weight out with where="
            )
        sizes[axis], remaining = size // within, remaining // within
    if remaining != 1:
        raise ValueError(
            f"{what} is more than the {channel} weights of an output channel of {name!r}: choose a smaller one, or "
            "leave the weight out with where="
        )
    return tuple(sizes)
