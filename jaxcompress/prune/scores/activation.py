"""Activation scores: how strong a unit is when it reaches those who read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.moments import Statistics
from jaxcompress.prune.scores.aggregate import Normalize, normalized
from jaxcompress.prune.scores.inputs import mean_square_inputs
from jaxcompress.prune.scores.units import AxisRoles, dense_arrays, unit_totals

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """Scores a unit by the root mean square of its activations, over the kernels that read it and all rows of data.

    Groups that no observed kernel reads have no score. Wanda at the level of units, activation times weight, is
    ``Aggregate(Wanda(stats), members="consumers")``.

    Attributes:
        stats: what `jaxcompress.observe` gathered, with ``second_moment``.
        normalize: as in `Aggregate`.

    References:
        Molchanov et al., 2017, "activation" criterion. https://arxiv.org/abs/1611.06440
    """

    stats: Statistics
    normalize: Normalize = "mean"

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        members = {group.index: self._readers(group, roles) for group in groups}
        arrays = dense_arrays(params, members.values())
        if not arrays:
            raise ValueError(f"Activation: no kernel that reads a group was observed, only {list(self.stats)}")
        squares = {
            path: mean_square_inputs(path, array.shape, self.stats, "Activation") for path, array in arrays.items()
        }
        totals = unit_totals(squares, members, "mean")
        return {index: normalized(np.sqrt(total), self.normalize) for index, total in totals.items()}

    def _readers(self, group: Group, roles: AxisRoles) -> tuple[Any, ...]:
        reading = [m for m in group.members if "consumer" in roles.sides.get((m.path, m.axis), ())]
        return tuple(m for m in reading if m.path in self.stats)
