"""The order in which units of groups come back into a network, and how far up a budget reaches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxcompress.core.paths import matches

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group

Scope = Literal["global", "uniform"]
Counts = dict[int, int]
Cost = Callable[[Mapping[int, int]], int]


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """All choices of units that differ only in how many stay: the first ``rung`` units of one order.

    Counts are rounded up to multiples of a group's step, kept above its floor and below its size, so that they never
    fall while the rung rises.

    Attributes:
        groups: the groups that lose units.
        order: position in ``groups`` of every unit, the units that are worth most first.
        ranked: per group its units, the best first.
        steps: per group, what counts are multiples of.
        floors: per group, the fewest units that stay.
    """

    groups: tuple[Group, ...]
    order: np.ndarray
    ranked: tuple[np.ndarray, ...]
    steps: tuple[int, ...]
    floors: tuple[int, ...]

    @classmethod
    def build(
        cls,
        groups: Sequence[Group],
        scores: Mapping[int, np.ndarray],
        *,
        scope: Scope,
        round_to: int | Mapping[str, int],
        floors: int | float | Mapping[str, int | float],
    ) -> Ladder:
        """Orders the units: ``"global"`` by score, ``"uniform"`` by rank relative to the size of the group.

        Among equals the earlier group comes first, then the lower unit.
        """
        ranked = tuple(np.argsort(-scores[group.index], kind="stable") for group in groups)
        owner = np.concatenate([np.full(group.size, place) for place, group in enumerate(groups)])
        if scope == "global":
            worth = np.concatenate([-scores[g.index][units] for g, units in zip(groups, ranked, strict=True)])
        else:
            worth = np.concatenate([np.arange(1, group.size + 1) / group.size for group in groups])
        steps = tuple(_step(group, _setting(group, round_to, default=1)) for group in groups)
        least = tuple(_floor(group, _setting(group, floors, default=1)) for group in groups)
        return cls(tuple(groups), owner[np.lexsort((owner, worth))], ranked, steps, least)

    @property
    def top(self) -> int:
        """The rung on which every unit stays."""
        return len(self.order)

    def counts(self, rung: int) -> Counts:
        """Units kept of each group, by its index."""
        raw = np.bincount(self.order[:rung], minlength=len(self.groups))
        return {
            group.index: min(group.size, step * math.ceil(max(int(n), floor) / step))
            for group, n, step, floor in zip(self.groups, raw, self.steps, self.floors, strict=True)
        }

    def units(self, counts: Mapping[int, int]) -> dict[int, np.ndarray]:
        """The units themselves, ascending, for counts that this ladder gave."""
        return {
            group.index: np.sort(units[: counts[group.index]])
            for group, units in zip(self.groups, self.ranked, strict=True)
        }

    def fit(self, cost: Cost, budget: int) -> Counts | None:
        """The most that a budget allows: ``cost(counts) <= budget``; None if not even the floors do.

        The highest rung that fits is found by bisection. Then groups go on by single steps, in the order of their next
        unit, as long as a step fits: in the end no group could keep one step more.

        Args:
            cost: of counts by index of the group; may not fall when a count rises.
            budget: its limit.
        """
        if cost(self.counts(0)) > budget:
            return None
        low, high = 0, self.top + 1  # fits, does not fit (or is beyond the top)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(self.counts(middle)) <= budget else (low, middle)
        counts = self.counts(low)
        closed: set[int] = set()
        for place in self.order[low:]:
            group = self.groups[place]
            if group.index in closed or counts[group.index] == group.size:
                continue
            more = counts | {group.index: min(group.size, counts[group.index] + self.steps[place])}
            if cost(more) <= budget:
                counts = more
            else:
                closed.add(group.index)
        return counts

    def rungs(self) -> list[int]:
        """The lowest rung of each different choice of counts, ascending."""
        found, before = [], None
        for rung in range(self.top + 1):
            counts = self.counts(rung)
            if counts != before:
                found.append(rung)
            before = counts
        return found


def _setting(group: Group, setting: Any, *, default: Any) -> Any:
    if not isinstance(setting, Mapping):
        return setting
    fits = (value for glob, value in setting.items() if any(matches(member.path, glob) for member in group.members))
    return next(fits, default)


def _step(group: Group, round_to: int) -> int:
    """Units whose indices are a multiple of ``round_to`` along each member; 1 where the group is smaller than that."""
    if round_to < 1:
        raise ValueError(f"round_to must be 1 or more, got {round_to}")
    step = math.lcm(*(round_to // math.gcd(round_to, member.positions.shape[1]) for member in group.members))
    return step if step <= group.size else 1


def _floor(group: Group, floor: int | float) -> int:
    whole = isinstance(floor, int | np.integer)
    if floor < 1 if whole else not 0 < floor <= 1:
        raise ValueError(
            "floors are a number of units (int, at least 1) or a fraction of a group (float in (0, 1]), got "
            f"{floor!r}; prune.blocks empties groups"
        )
    return min(group.size, int(floor) if whole else math.ceil(floor * group.size))
