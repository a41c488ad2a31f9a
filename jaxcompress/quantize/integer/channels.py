"""Where the output channels of a contraction are, while its result is reshaped and transposed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.shrink.rules.structural import factor_groups


@dataclasses.dataclass(frozen=True)
class Channels:
    """Axes of a value whose entries, flattened in this order, are the output channels of its weight.

    Attributes:
        axes: of the value; of size 1 none is named.
        sizes: of those axes.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Channels:
        """Leaves out the axes of size 1."""
        pairs = [pair for pair in zip(axes, sizes, strict=True) if pair[1] != 1]
        return cls(tuple(axis for axis, _ in pairs), tuple(size for _, size in pairs))

    @property
    def count(self) -> int:
        """Number of channels."""
        return math.prod(self.sizes)

    def vector(self, array: np.ndarray) -> np.ndarray:
        """What a factor or an addend of the value is for each channel; it varies along channels alone."""
        if array.ndim == 0:
            return np.full(self.count, array[()])
        others = tuple(axis for axis in range(array.ndim) if axis not in self.axes)
        order = np.argsort(self.axes)
        held = np.transpose(np.squeeze(array, others), np.argsort(order))
        return np.broadcast_to(held, self.sizes).reshape(-1)

    def placed(self, vector: jax.Array, ndim: int) -> jax.Array:
        """A vector over channels as an array of ``ndim`` axes that broadcasts against the value."""
        order = [int(at) for at in np.argsort(self.axes)]
        shape = [1] * ndim
        for axis, size in zip(self.axes, self.sizes, strict=True):
            shape[axis] = size
        return lax.transpose(vector.reshape(self.sizes), order).reshape(shape)

    def through(self, eqn: JaxprEqn, before: tuple[Any, ...], after: tuple[Any, ...]) -> Channels | None:
        """The channels behind a primitive that moves entries; None where they are mixed with other axes, or cut."""
        rule = _RULES.get(eqn.primitive.name)
        return None if rule is None else rule(self, eqn.params, before, after)

    def _renumbered(self, place: dict[int, int]) -> Channels:
        return dataclasses.replace(self, axes=tuple(place[axis] for axis in self.axes))


def _transpose(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels:
    del before, after
    return channels._renumbered({axis: at for at, axis in enumerate(params["permutation"])})


def _squeeze(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels:
    del after
    left = [axis for axis in range(len(before)) if axis not in params["dimensions"]]
    return channels._renumbered({axis: at for at, axis in enumerate(left)})


def _expand(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels:
    del before
    old = [axis for axis in range(len(after)) if axis not in params["dimensions"]]
    return channels._renumbered(dict(enumerate(old)))


def _broadcast(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels | None:
    sent = dict(zip(params["broadcast_dimensions"], before, strict=True))
    if any(sent.get(axis, 1) != size for axis, size in enumerate(after)):  # copies are made of codes
        return None
    return channels._renumbered(dict(enumerate(params["broadcast_dimensions"])))


def _slice(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels | None:
    del params
    return channels if all(before[axis] == after[axis] for axis in channels.axes) else None


def _rev(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels | None:
    del before, after
    return None if set(params["dimensions"]) & set(channels.axes) else channels


def _reshape(channels: Channels, params: dict[str, Any], before: Any, after: Any) -> Channels | None:
    if params.get("dimensions") is not None:
        return None
    axes, sizes = list(channels.axes), list(channels.sizes)
    for sources, targets in factor_groups(before, after):
        held = [axis for axis in sources if axis in channels.axes]
        if not held:
            continue
        at = axes.index(sources[0]) if held == sources else -1
        if at < 0 or axes[at : at + len(sources)] != sources:
            return None
        marked = [-1 - target for target in targets]  # so that new axes are not taken for old ones
        axes[at : at + len(sources)], sizes[at : at + len(sources)] = marked, [after[target] for target in targets]
    return Channels(tuple(-1 - axis for axis in axes), tuple(sizes)) if all(axis < 0 for axis in axes) else None


_RULES = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": _rev,
    "reshape": _reshape,
}
