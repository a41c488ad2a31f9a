"""Elastic width: how many units each group may keep, and in which order they go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxcompress.core.paths import matches
from jaxcompress.prune.ladder import Ladder
from jaxcompress.prune.scores.group_scores import group_scores
from jaxcompress.prune.scores.units import AxisRoles

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups
    from jaxcompress.core.sites import Sites

Widths: TypeAlias = "Sequence[float] | str | Mapping[str, Sequence[float] | str] | None"


def ladder_of(
    groups: Groups, params: Any, *, scores: Any, sites: Sites | None, round_to: int | Mapping[str, int]
) -> Ladder:
    """Units of all groups, ranked, and the steps of their counts.

    Raises:
        ValueError: if scores give none for a group, or are not finite; names it.
    """
    scored = group_scores(groups, params, scores, sites=sites)
    missing = [group.index for group in groups if group.index not in scored]
    if missing:
        raise ValueError(f"supernet: scores={scores!r} give none for the group of {groups[missing[0]].paths}")
    return Ladder.build(tuple(groups), scored, scope="uniform", round_to=round_to, floors=1)


def chosen(groups: Groups, where: Any, protect: str | Sequence[str]) -> list[Group]:
    """The groups whose width is elastic."""
    guarded = [group for group in groups if protect and any(matches(path, protect) for path in group.paths)]
    return [group for group in groups.select(where) if group not in guarded and group.size > 1]


def counts(group: Group, widths: Widths, step: int) -> tuple[int, ...]:
    """How many units a group may keep, ascending; all of them always.

    Args:
        group: the group.
        widths: fractions in ``(0, 1]``; ``"all"`` for every multiple of the step; a dict from globs over paths to
            either, of which the first that fits counts; or None for all units only.
        step: counts are rounded up to multiples of it.

    Raises:
        ValueError: if a fraction is out of range or ``widths`` another word.

    Example:
        >>> params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
        >>> found = jc.groups(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((5, 3)))
        >>> counts(found[0], (0.25, 0.5, 1.0), step=3)
        (3, 6, 8)
    """
    if isinstance(widths, Mapping):
        widths = next((w for glob, w in widths.items() if any(matches(path, glob) for path in group.paths)), None)
    if widths is None:
        return (group.size,)
    if isinstance(widths, str):
        if widths != "all":
            raise ValueError(f"supernet: widths= are fractions or 'all', got {widths!r}")
        found = set(range(step, group.size, step))
    else:
        wrong = [width for width in widths if not 0 < width <= 1]
        if wrong:
            raise ValueError(f"supernet: widths= are fractions in (0, 1], got {wrong[0]!r}")
        # 0.7 of 10 is 7, whatever binary 0.7 is
        found = {step * math.ceil(round(width * group.size, 6) / step) for width in widths}
    return tuple(sorted({min(group.size, count) for count in found} | {group.size}))


def require_fitting_widths(groups: Groups, widths: Any) -> None:
    """Refuses ``widths`` that are no collection, and globs in them that fit no group.

    Raises:
        ValueError: naming it; lists the members.
    """
    if widths is not None and not isinstance(widths, str | Mapping | Sequence | np.ndarray):
        raise ValueError(
            f"supernet: widths= are fractions, (0.5, 1.0), 'all', or a dict of them by globs, got {widths!r}"
        )
    paths = [path for group in groups for path in group.paths]
    for glob in widths if isinstance(widths, Mapping) else ():
        if not any(matches(path, glob) for path in paths):
            raise ValueError(f"supernet: the glob {glob!r} in widths= fits no group; their members are {paths}")


def names(groups: Sequence[Group], roles: AxisRoles) -> list[str]:
    """A name for each group: the module of its first producer; the axis with it where that is not unique."""
    first = [roles.members(group, "producers")[0] for group in groups]
    modules = [member.path.rpartition("/")[0] or member.path for member in first]
    found = [m if modules.count(m) == 1 else f"{m}:{one.axis}" for m, one in zip(modules, first, strict=True)]
    return [n if found.count(n) == 1 else f"{n}:{found[: i + 1].count(n)}" for i, n in enumerate(found)]


def ranked(groups: Groups, params: Any, *, scores: Any, sites: Sites) -> dict[int, np.ndarray]:
    """Units of every group, the best first."""
    ladder = ladder_of(groups, params, scores=scores, sites=sites, round_to=1)
    return {group.index: units for group, units in zip(groups, ladder.ranked, strict=True)}
