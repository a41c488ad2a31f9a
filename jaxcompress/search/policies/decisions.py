"""What a policy decides: for every chosen weight its setting, for every chosen group of channels how many stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.parts import find_parts
from jaxcompress.core.paths import matches
from jaxcompress.prune.scores.group_scores import group_scores
from jaxcompress.search.policies.applied import resolved_ranks
from jaxcompress.search.policies.setting import Channels, Setting, setting_of

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups
    from jaxcompress.core.sites import Sites

Choices = Mapping[str, Sequence[Setting | Channels | Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True, eq=False)
class LeafDecision:
    """What may become of one weight.

    Attributes:
        path: of the leaf.
        settings: the variants; number 0 leaves it as it is, and stands here whether it may be chosen or not.
        ranks: of each variant its rank, 0 where it is not factorized.
        allowed: numbers of the variants that may be chosen.
        asked: of every setting that was asked for the variant that it comes to.
    """

    path: str
    settings: tuple[Setting, ...]
    ranks: tuple[int, ...]
    allowed: tuple[int, ...]
    asked: Mapping[Any, int]

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def label(self, variant: int) -> str:
        """A variant in words."""
        return str(self.settings[variant])


@dataclasses.dataclass(frozen=True, eq=False)
class GroupDecision:
    """How many units of one group may stay.

    Attributes:
        index: of the group in `jaxcompress.groups`.
        paths: of its members.
        settings: the variants; number 0 keeps all units.
        counts: of each variant how many units stay.
        order: units, those that go last first.
        allowed: numbers of the variants that may be chosen.
        asked: of every setting that was asked for the variant that it comes to.
    """

    index: int
    paths: tuple[str, ...]
    settings: tuple[Channels, ...]
    counts: tuple[int, ...]
    order: np.ndarray
    allowed: tuple[int, ...]
    asked: Mapping[Any, int]

    @property
    def name(self) -> str:
        """The group and its first member."""
        first, *others = self.paths
        return f"group {self.index}: {first}" + (f" and {len(others)} more" if others else "")

    def label(self, variant: int) -> str:
        """A variant in words."""
        return f"{self.counts[variant]} of {self.counts[0]} units"

    def units(self, variant: int) -> np.ndarray:
        """The units that stay, ascending."""
        return np.sort(self.order[: self.counts[variant]])


Decision = LeafDecision | GroupDecision


def find_decisions(
    params: Any, choices: Choices, *, sites: Sites | None, groups: Groups | None, unit_scores: Any
) -> tuple[tuple[LeafDecision, ...], tuple[GroupDecision, ...]]:
    """What ``choices`` mean for a tree; of weights and of groups the first glob that fits counts.

    Settings that come to the same (a rank that saves nothing, two fractions of one rank) are one variant.

    Raises:
        ValueError: if a glob fits nothing or has no settings, or channels are asked for without groups.
        TypeError: if ``choices`` is no mapping to lists, settings of weights and of channels stand under one glob, or
            one is neither.
    """
    read = read_choices(choices)
    weights = {glob: given for glob, given in read.items() if isinstance(given[0], Setting)}
    channels = {glob: given for glob, given in read.items() if isinstance(given[0], Channels)}
    if channels and groups is None:
        raise ValueError(
            f"choices: {list(channels)} choose numbers of channels, which takes the groups of the function: pass "
            "inputs= (example arguments of fn after the parameters)"
        )
    leaves = _leaf_decisions(params, weights, sites) if weights else ()
    units = _group_decisions(params, channels, groups, unit_scores, sites) if channels and groups is not None else ()
    return leaves, units


def read_choices(choices: Choices) -> dict[str, tuple[Any, ...]]:
    """The settings of every glob, dicts made settings.

    Raises:
        ValueError: if there are none.
        TypeError: as `find_decisions` says.
    """
    if not isinstance(choices, Mapping):
        raise TypeError(f"choices= is a mapping from globs to lists of settings, {{'**': [...]}}, got {choices!r}")
    if not choices:
        raise ValueError("choices= is empty: give globs with the settings to choose from")
    return {glob: _read(glob, given) for glob, given in choices.items()}


def _read(glob: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, Setting | Channels | Mapping | str) or not isinstance(given, Iterable):
        raise TypeError(f"choices[{glob!r}] is a list of settings to choose from, got {given!r}: put it into a list")
    found: tuple[Any, ...] = tuple(dict.fromkeys(setting_of(one) for one in given))
    if not found:
        raise ValueError(f"choices[{glob!r}] has no settings")
    if len({type(one) for one in found}) > 1:
        raise TypeError(
            f"choices[{glob!r}] mixes settings of weights and of channels: give them under globs of their own"
        )
    return found


def _leaf_decisions(params: Any, choices: Any, sites: Sites | None) -> tuple[LeafDecision, ...]:
    parts = find_parts(params, sites=sites, settings=choices, method="policy")
    paths = list(dict.fromkeys(part.path for part in parts))
    own = {path: next(given for glob, given in choices.items() if matches(path, glob)) for path in paths}
    longest = max(map(len, own.values()))
    ranks: list[dict[str, int]] = [
        resolved_ranks(params, {path: given[i] for path, given in own.items() if i < len(given)}, sites)
        for i in range(longest)
    ]
    found = []
    for path, given in own.items():
        variants: dict[tuple[Setting, int], Setting] = {(Setting(), 0): Setting()}
        asked = {}
        for i, one in enumerate(given):
            rank = ranks[i].get(path, 0)
            does = one if rank else dataclasses.replace(one, rank=None)
            does = Setting() if does.nothing else does
            key = (dataclasses.replace(does, rank=None), rank)
            variants.setdefault(key, does)
            asked[one] = list(variants).index(key)
        resolved = tuple(rank for _, rank in variants)
        found.append(LeafDecision(path, tuple(variants.values()), resolved, tuple(sorted({*asked.values()})), asked))
    return tuple(found)


def _group_decisions(
    params: Any, choices: Mapping[str, tuple[Channels, ...]], groups: Groups, unit_scores: Any, sites: Sites | None
) -> tuple[GroupDecision, ...]:
    own: dict[int, tuple[Channels, ...]] = {}
    for glob, given in choices.items():
        for group in groups.select(glob):
            own.setdefault(group.index, given)
    scores = group_scores(groups, params, unit_scores, where=lambda group: group.index in own, sites=sites)
    found = []
    for group in groups:
        if group.index not in scores:
            continue
        variants: dict[int, Channels] = {group.size: Channels(1.0)}
        asked = {}
        for one in own[group.index]:
            variants.setdefault(one.count(group.size), one)
            asked[one] = list(variants).index(one.count(group.size))
        order, allowed = np.argsort(-scores[group.index], kind="stable"), tuple(sorted({*asked.values()}))
        counts, own_settings = tuple(variants), tuple(variants.values())
        found.append(GroupDecision(group.index, group.paths, own_settings, counts, order, allowed, asked))
    if not found:
        raise ValueError(f"choices: no group of {list(choices)} has scores {unit_scores!r}: choose others with scores=")
    return tuple(found)
