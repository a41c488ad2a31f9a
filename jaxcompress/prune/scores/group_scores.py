"""One score per unit of every group: what structured selection takes as ``scores=``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from jaxcompress.prune.scores.aggregate import Aggregate
from jaxcompress.prune.scores.batchnorm import BatchNormScale
from jaxcompress.prune.scores.fpgm import FPGM
from jaxcompress.prune.scores.units import AxisRoles
from jaxcompress.prune.scores.weight_scores import NAMED as WEIGHT_SCORES

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups
    from jaxcompress.core.sites import Sites


@runtime_checkable
class GroupScore(Protocol):
    """What ranks the units of groups; higher keeps.

    `Aggregate`, `BatchNormScale`, `FPGM`, `Activation`, `Taylor`, `Fisher` and `Random` are such; a class of your own
    needs this one method.
    """

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, Any]:
        """Scores ``[units]`` by index of the group; groups for which there is no score are left out."""
        ...


NAMED: dict[str, GroupScore] = {"fpgm": FPGM(), "batchnorm_scale": BatchNormScale()}


def group_scores(
    groups: Groups, params: Any, scores: Any = "l2", *, where: Any = None, sites: Sites | None = None
) -> dict[int, np.ndarray]:
    """Scores of the units of the chosen groups; higher keeps.

    Args:
        groups: what `jaxcompress.groups` found.
        params: the tree it was found for; leaves may be compressed.
        scores: ``"l1"``, ``"l2"``, ``"lamp"`` (summed over the weights of a unit, see `Aggregate`), ``"fpgm"``,
            ``"batchnorm_scale"``; a `GroupScore`; a `WeightScore`, a tree like ``params`` or a dict from paths to
            arrays, which `Aggregate` sums; or numbers: a dict from indices of groups to ``[units]``.
        where: which groups, as `Groups.select` takes it; default all.
        sites: what `jaxcompress.sites` found for the same call; traced anew if not given.

    Returns:
        float64 ``[units]`` by index of the group, without groups that have no such score (no BatchNorm scale, say).

    Raises:
        ValueError: if ``scores`` is an unknown name, does not fit the groups, or is not finite; names group and paths.
        KeyError: if ``params`` lacks a leaf of a group.

    Example:
        >>> params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([[4.0], [1.0]])}
        >>> found = jc.groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
        >>> group_scores(found, params, jc.prune.scores.Aggregate("l2", normalize=None))[0].tolist()
        [25.0, 1.0]
    """
    chosen = groups.select(where)
    if isinstance(scores, str) and scores not in NAMED and scores not in WEIGHT_SCORES:
        raise ValueError(f"scores={scores!r} is no name of scores; there are {sorted({**NAMED, **WEIGHT_SCORES})}")
    score = NAMED.get(scores, scores) if isinstance(scores, str) else scores
    if isinstance(score, Mapping) and score and all(isinstance(key, int | np.integer) for key in score):
        found: Mapping[int, Any] = {group.index: score[group.index] for group in chosen if group.index in score}
    else:
        if isinstance(score, type) or not isinstance(score, GroupScore):
            score = Aggregate(score)
        found = score.of_groups(chosen, params, AxisRoles.of(groups, params, sites))
    return {group.index: _checked(group, found[group.index]) for group in chosen if group.index in found}


def _checked(group: Group, values: Any) -> np.ndarray:
    score = np.asarray(values, np.float64)
    name = f"group {group.index} ({', '.join(dict.fromkeys(m.path for m in group.members))})"
    if score.shape != (group.size,):
        raise ValueError(f"scores of {name} have shape {score.shape}, it has {group.size} units")
    if not np.isfinite(score).all():
        raise ValueError(f"scores of {name} hold NaN or infinity: look for them in its weights, or in the data")
    return score
