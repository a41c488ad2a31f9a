"""Rungs of successive halving, and in which question each of their candidates is asked for."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Rungs in which ever fewer candidates get ever more effort.

    Attributes:
        sizes: how many candidates each rung has; those of a rung are the best of the rung before.
        levels: for each rung the place of its fidelity among all fidelities of a strategy.
    """

    sizes: tuple[int, ...]
    levels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """One rung among all jobs of a round: a job is one candidate on one rung.

    Attributes:
        bracket: which one.
        rung: which one.
        level: of its fidelity.
        jobs: its jobs, ``start .. stop``.
        before: the jobs of the rung before; empty for a first rung.
    """

    bracket: int
    rung: int
    level: int
    jobs: range
    before: range


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Who is asked for when, in one round through all brackets.

    Brackets run beside each other: where one waits for the rest of a rung, another fills the question. What is left
    empty is filled up with repetitions.

    Attributes:
        places: the rungs of all brackets.
        asks: int32 ``[questions, batch]``: the job in each slot, -1 where it is empty.
        first: the jobs of all first rungs, in the order in which they are asked for.
        levels: int32 ``[jobs]``: the level of each job's fidelity.
    """

    places: tuple[Place, ...]
    asks: np.ndarray
    first: np.ndarray
    levels: np.ndarray

    @property
    def jobs(self) -> int:
        """Evaluations of one round."""
        return len(self.levels)

    @property
    def empty(self) -> int:
        """Slots of one round that are filled with repetitions."""
        return int((self.asks < 0).sum())


@functools.lru_cache(maxsize=64)
def schedule(brackets: tuple[Bracket, ...], batch: int) -> Schedule:
    """Puts the jobs of all brackets into as few questions as waiting for whole rungs allows, longest brackets first.

    Example:
        >>> plan = schedule((Bracket((4, 2, 1), (0, 1, 2)), Bracket((2,), (2,))), 4)
        >>> plan.asks.tolist()
        [[0, 1, 2, 3], [4, 5, 7, 8], [6, -1, -1, -1]]
    """
    places = _places(brackets)
    waiting = sorted(
        ((len(brackets[place.bracket].sizes) - place.rung, place) for place in places),
        key=lambda item: (-item[0], item[1].bracket),
    )
    asked: dict[int, int] = {}
    asks = []
    total = sum(len(place.jobs) for place in places)
    while len(asked) < total:
        now = len(asks)
        ready = [place for _, place in waiting if all(asked.get(job, now) < now for job in place.before)]
        jobs = [job for place in ready for job in place.jobs if job not in asked][:batch]
        asked |= dict.fromkeys(jobs, now)
        asks.append(jobs + [-1] * (batch - len(jobs)))
    table = np.asarray(asks, np.int32)
    firsts = {job for place in places if place.rung == 0 for job in place.jobs}
    first = np.asarray([job for job in table.ravel() if job in firsts], np.int32)
    levels = np.concatenate([np.full(len(place.jobs), place.level, np.int32) for place in places])
    return Schedule(places, table, first, levels)


def _places(brackets: tuple[Bracket, ...]) -> tuple[Place, ...]:
    places, start = [], 0
    for number, bracket in enumerate(brackets):
        before = range(0)
        for rung, (size, level) in enumerate(zip(bracket.sizes, bracket.levels, strict=True)):
            jobs = range(start, start + size)
            places.append(Place(number, rung, level, jobs, before))
            before, start = jobs, jobs.stop
    return tuple(places)
