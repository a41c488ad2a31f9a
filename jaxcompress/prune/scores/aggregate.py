"""A score per weight, added up over the weights of a unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxcompress.core.parts import find_parts
from jaxcompress.prune.scores.units import AxisRoles, Members, Reduce, dense_arrays, unit_totals
from jaxcompress.prune.scores.weight_scores import part_scores

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group

Normalize = Literal["mean", "max", "l2"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregate:
    """Scores units by the scores of their weights.

    A unit of a group owns entries of every member: a filter of the kernel that produces it, the slices of all kernels
    that consume it; of a head, ``m`` neighbouring indices each. Where both axes of a kernel belong to one group (a
    convolution between two ends of a residual stream), an entry counts for the unit that it writes and for the one that
    it reads.

    Attributes:
        scores: of the weights, as `jaxcompress.prune.scores.weight_scores` takes them.
        reduce: over the entries of a unit: ``"sum"``, ``"mean"``, ``"max"``, or ``"l2"`` (root of the sum of squares).
        members: what counts: ``"kernels"`` everything that is contracted with data or looked up, on either side
            (DepGraph); ``"producers"`` the filters alone (Li 2017); ``"consumers"``; ``"all"`` with biases, scales and
            statistics; or globs over paths.
        normalize: divides the scores of a group by their ``"mean"``, ``"max"`` or ``"l2"`` norm, so that groups of
            different sizes can be compared; None leaves them on the scale of the weights.

    References:
        Fang et al., 2023, equation 5. https://arxiv.org/abs/2301.12900; Li et al., 2017. https://arxiv.org/abs/1608.08710
        ; normalization by the l2 norm: Molchanov et al., 2017. https://arxiv.org/abs/1611.06440
    """

    scores: Any = "l2"
    reduce: Reduce = "sum"
    members: Members = "kernels"
    normalize: Normalize = "mean"

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean", "max", "l2"):
            raise ValueError(f"reduce must be 'sum', 'mean', 'max' or 'l2', got {self.reduce!r}")
        if self.normalize not in ("mean", "max", "l2", None):
            raise ValueError(f"normalize must be 'mean', 'max', 'l2' or None, got {self.normalize!r}")

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        members = {group.index: roles.members(group, self.members) for group in groups}
        arrays = dense_arrays(params, members.values())
        parts = find_parts(arrays, where=lambda path, _: path in arrays, sites=roles.sites, method="Aggregate")
        scores = dict(zip((part.path for part in parts), part_scores(arrays, parts, self.scores), strict=True))
        totals = unit_totals(scores, members, self.reduce)
        return {index: normalized(total, self.normalize) for index, total in totals.items()}


def normalized(scores: np.ndarray, by: Normalize) -> np.ndarray:
    """Scores of a group on a scale that other groups share; zeros stay zeros.

    Example:
        >>> normalized(np.array([1.0, 3.0]), "mean").tolist()
        [0.5, 1.5]
    """
    if by is None:
        return scores
    size = np.abs(scores)
    scale = {"mean": size.mean, "max": size.max, "l2": lambda: np.sqrt(np.square(size).sum())}[by]()
    return scores / scale if 0 < scale < np.inf else scores
