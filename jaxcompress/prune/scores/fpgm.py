"""FPGM: filters near the geometric median are the ones that the others can replace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.prune.scores.aggregate import Normalize, normalized
from jaxcompress.prune.scores.lp import wide
from jaxcompress.prune.scores.units import AxisRoles, Members, dense_arrays

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@jax.jit
def fpgm(units: jax.Array) -> jax.Array:
    """Sum of the Euclidean distances of each row to all others.

    The row of the smallest sum is the one nearest to the geometric median. Differences are formed before they are
    squared, so that equal rows are exactly 0 apart.

    Args:
        units: the weights of each unit, ``[units, weights]``, any float dtype.

    Returns:
        ``[units]``; higher keeps.

    Example:
        >>> fpgm(jnp.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])).tolist()
        [15.0, 10.0, 15.0]

    References:
        He et al., 2019, equation 4. https://arxiv.org/abs/1811.00250
    """
    rows = wide(units)
    return jax.lax.map(lambda row: jnp.sqrt(jnp.square(rows - row[None]).sum(1)).sum(), rows)


@dataclasses.dataclass(frozen=True)
class FPGM:
    """Scores units by `fpgm` of their weights in each kernel, summed over the kernels that count.

    Attributes:
        members: which kernels; the paper takes the filters, ``"producers"``.
        normalize: as in `Aggregate`.
    """

    members: Members = "producers"
    normalize: Normalize = "mean"

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        members = {group.index: roles.members(group, self.members) for group in groups}
        arrays = dense_arrays(params, members.values())
        scores = {}
        for group in groups:
            if found := members[group.index]:
                units = [_units(arrays[m.path], m.positions, axis=m.axis) for m in found]
                total = np.sum([np.asarray(fpgm(rows), np.float64) for rows in units], axis=0)
                scores[group.index] = normalized(total, self.normalize)
        return scores


def _units(array: jax.Array, positions: np.ndarray, *, axis: int) -> jax.Array:
    """The entries that each unit owns, ``[units, weights]``."""
    return jnp.moveaxis(array, axis, 0)[jnp.asarray(positions)].reshape(positions.shape[0], -1)
