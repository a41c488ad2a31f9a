"""Axes that a reshape merges or splits: which factor moves is decided when everything else is known.

A merged axis of ``heads * dim`` entries can lose whole heads or the same dims of every head. Where one factor is pinned
the other moves; where both could, a policy chooses, and the choice is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from jaxcompress.core.groups.components import Components
from jaxcompress.core.groups.labels import Graph, Pinned, Reshape, line_of

Policy: TypeAlias = Literal["outer", "inner"] | Callable[[tuple[int, ...], str], int]


def factor_axes(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes that a reshape turns into each other; axes of size 1 are left out.

    Example:
        >>> factor_axes((4, 6, 5), (4, 2, 3, 5))
        [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [old[i]], [new[j]]
        p, q = before[old[i]], after[new[j]]
        i, j = i + 1, j + 1
        while p != q:
            if p < q:
                left.append(old[i])
                p, i = p * before[old[i]], i + 1
            else:
                right.append(new[j])
                q, j = q * after[new[j]], j + 1
        runs.append((left, right))
    return runs


class Choice(NamedTuple):
    """What a policy chose: the factor that moves, out of those that could."""

    reshape: Reshape
    factor: int
    free: list[int]

    def __str__(self) -> str:
        sizes = "x".join(str(len(labels)) for labels in self.reshape.factors)
        line = line_of(self.reshape.source)
        return f"of the axes {sizes} that are one at {line}, the {_ORDINALS.get(self.factor, self.factor)} moves"


def decide(graph: Graph, policy: Policy) -> tuple[Components, list[Choice]]:
    """Ties every merged axis to one of its factors and pins the others.

    A choice of ``"outer"`` or ``"inner"`` after which nothing of the axis can be removed is made the other way.

    Args:
        graph: with the reshapes; ties and pins are added to it.
        policy: ``"outer"``, ``"inner"``, or ``(sizes of the factors, source line) -> index of the one that moves``.

    Returns:
        The components of the labels, and the choices that were made.
    """
    mark = graph.mark()
    components, choices = _settled(graph, policy, {})
    futile = {id(c.reshape): c.free[-1 if c.factor == c.free[0] else 0] for c in choices if _futile(c, components)}
    if not futile or callable(policy):
        return components, choices
    graph.rollback(mark)
    return _settled(graph, policy, futile)


def _settled(graph: Graph, policy: Policy, given: Mapping[int, int]) -> tuple[Components, list[Choice]]:
    """Settles all reshapes; ``given`` says what moves at some of them, should they come to a choice."""
    components, choices, waiting = Components(graph), [], graph.reshapes
    while waiting:
        step = _Step(graph, policy, given)
        later = [reshape for reshape in waiting if not step.certain(reshape, components)]
        if len(later) == len(waiting):
            later = step.choose(later, components)
        components.add(step.ties, step.pins)
        choices += step.choices
        waiting = later
    return components, choices


def _futile(choice: Choice, components: Components) -> bool:
    units = np.unique(components.of[choice.reshape.merged])
    return int((~components.pinned[units]).sum()) <= 1


class _Step:
    """Ties and pins of one round."""

    def __init__(self, graph: Graph, policy: Policy, given: Mapping[int, int]) -> None:
        self._graph, self._given = graph, given
        self._policy: Policy = policy
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[np.ndarray] = []
        self.choices: list[Choice] = []

    def certain(self, reshape: Reshape, components: Components) -> bool:
        """Settles a reshape of which at most one factor can move."""
        free = _free(reshape, components)
        if len(free) > 1 or (free and not reshape.weight):
            return False
        self.settle(reshape, free[0] if free else None)
        return True

    def choose(self, waiting: list[Reshape], components: Components) -> list[Reshape]:
        """Lets the policy settle reshapes, but none that another choice of this round could have settled."""
        touched: set[int] = set()
        later = []
        for reshape in (reshape for reshape in waiting if reshape.weight):
            near = _movable(reshape, components)
            if near & touched:
                later.append(reshape)
                continue
            touched |= near
            free = _free(reshape, components)
            factor = self._given.get(id(reshape), _chosen(self._policy, reshape, free))
            self.choices.append(Choice(reshape, factor, free))
            self.settle(reshape, factor)
        return later

    def settle(self, reshape: Reshape, factor: int | None) -> None:
        """Ties the merged axis to one factor and pins the others; with None, pins all."""
        sizes = [len(labels) for labels in reshape.factors]
        for i, labels in enumerate(reshape.factors):
            if i != factor:
                self._pin(
                    labels, "another factor of a reshaped axis moves" if factor is not None else _NOTHING, reshape
                )
        if factor is None:
            self._pin(reshape.merged, _NOTHING, reshape)
            return
        index = np.indices(sizes)[factor].ravel()
        tie = (reshape.merged, reshape.factors[factor][index])
        self.ties.append(tie)
        self._graph.ties.append(tie)

    def _pin(self, labels: np.ndarray, reason: str, reshape: Reshape) -> None:
        self.pins.append(labels)
        self._graph.pins.append(Pinned(labels, reason, reshape.source))


_ORDINALS = {0: "first", 1: "second", 2: "third"}
_NOTHING = "a reshape with axes that cannot shrink"


def _movable(reshape: Reshape, components: Components) -> set[int]:
    """Components that meet in a reshape and are not pinned."""
    met = np.unique(components.of[np.concatenate([*reshape.factors, reshape.merged])])
    return set(met[~components.pinned[met]].tolist())


def _free(reshape: Reshape, components: Components) -> list[int]:
    if not components.free(reshape.merged):
        return []
    return [i for i, labels in enumerate(reshape.factors) if components.free(labels)]


def _chosen(policy: Policy, reshape: Reshape, free: list[int]) -> int:
    if not callable(policy):
        return free[0] if policy == "outer" else free[-1]
    sizes, line = tuple(map(len, reshape.factors)), line_of(reshape.source)
    factor = policy(sizes, line)
    if factor not in free:
        raise ValueError(f"groups: reshape= chose factor {factor} of {sizes} at {line}; those that can move: {free}")
    return factor
