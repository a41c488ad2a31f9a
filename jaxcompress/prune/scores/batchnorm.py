"""BatchNorm scales: what network slimming ranks channels by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.paths import matches
from jaxcompress.prune.scores.lp import wide
from jaxcompress.prune.scores.units import AxisRoles, dense_arrays, unit_totals

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@dataclasses.dataclass(frozen=True)
class BatchNormScale:
    """Scores a unit by ``|gamma|``, the mean over the scales of its group where there are several.

    Groups without a scale have no score: selection leaves them whole. Scales of different layers are compared as they
    are, as in the paper.

    Attributes:
        where: globs over paths of the scales. Flax and Haiku call them ``scale``; in Equinox it is the ``weight`` of a
            norm. Leave out by ``!`` what is the scale of another norm.

    References:
        Liu et al., 2017. https://arxiv.org/abs/1708.06519
    """

    where: str | Sequence[str] = "**/scale"

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        del roles
        members = {group.index: [m for m in group.members if matches(m.path, self.where)] for group in groups}
        if not any(members.values()):
            paths = sorted({m.path for group in groups for m in group.members})
            raise ValueError(f"BatchNormScale: where={self.where!r} fits no member of a group; there are {paths}")
        return unit_totals(_sizes(dense_arrays(params, members.values())), members, "mean")


@jax.jit
def _sizes(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: jnp.abs(wide(array)) for path, array in arrays.items()}
