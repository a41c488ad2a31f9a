"""From connected labels to groups: components with the same members are units of one group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.core.groups.components import Components
from jaxcompress.core.groups.labels import Graph, Labelled, Pinned, line_of
from jaxcompress.core.groups.result import Axis, Group, Groups, Member, Pin, Work


class Leaf(NamedTuple):
    """A parameter: path, labels, dtype."""

    path: str
    value: Labelled
    dtype: np.dtype


def formed(
    graph: Graph,
    components: Components,
    leaves: Sequence[Leaf],
    *,
    choices: Sequence[str],
    call: tuple[Callable[..., Any], Any, Any],
) -> Groups:
    """Puts the result together."""
    axes = [(leaf.path, axis, labels) for leaf in leaves for axis, labels in enumerate(leaf.value.labels)]
    entries, group_of = _groups(components, axes)
    lengths = _Lengths(components, group_of, [group.size for group in entries])
    return Groups(
        entries,
        pins=_pins(graph, components, axes, group_of),
        choices=choices,
        allowed=sorted({_told(note) + _CONSEQUENCE for note in graph.allowed if _movable(note, components, group_of)}),
        work=[Work(p.trips * p.sizes, tuple(map(lengths.of, p.axes))) for p in graph.products],
        leaves={leaf.path: (tuple(map(lengths.of, leaf.value.labels)), leaf.dtype) for leaf in leaves},
        call=call,
    )


_CONSEQUENCE = ": the shrunk function reduces over what is kept, so that it differs from the masked one"


def _groups(components: Components, axes: Sequence[tuple[str, int, np.ndarray]]) -> tuple[list[Group], np.ndarray]:
    """The groups, and the group of every component (-1 where there is none)."""
    group_of = np.full(len(components.pinned), -1)
    if not axes:  # scalars only
        return [], group_of
    sizes = [len(labels) for _, _, labels in axes]
    member = np.repeat(np.arange(len(axes)), sizes)
    position = np.concatenate([np.arange(size) for size in sizes])
    component = components.of[np.concatenate([labels for _, _, labels in axes])]
    order = np.lexsort((position, member, component))
    order = order[~components.pinned[component[order]]]
    starts = np.flatnonzero(np.diff(component[order], prepend=-1)).tolist()
    by_signature: dict[bytes, list[np.ndarray]] = {}
    for start, end in itertools.pairwise([*starts, len(order)]):
        unit = order[start:end]
        by_signature.setdefault(member[unit].tobytes(), []).append(unit)
    tables = [np.stack(units) for units in by_signature.values()]  # [units, indices]
    tables = [table[np.argsort(position[table[:, 0]])] for table in tables if len(table) > 1]
    tables.sort(key=lambda table: (member[table[0, 0]], position[table[0, 0]]))
    entries = []
    for index, table in enumerate(tables):
        group_of[component[table[:, 0]]] = index
        owners = member[table[0]]
        members = [(axes[i], position[table[:, owners == i]]) for i in dict.fromkeys(owners.tolist())]
        entries.append(
            Group(index, len(table), tuple(Member(path, axis, places) for (path, axis, _), places in members))
        )
    return entries, group_of


class _Lengths:
    """Lengths of axes as functions of what is kept, one object for each array of labels."""

    def __init__(self, components: Components, group_of: np.ndarray, sizes: Sequence[int]) -> None:
        self._components, self._group_of, self._sizes = components, group_of, sizes
        self._known: dict[int, Axis] = {}

    def of(self, labels: np.ndarray) -> Axis:
        """The length of one axis."""
        if id(labels) not in self._known:  # the graph keeps the arrays alive
            met = self._group_of[self._components.of[labels]]
            counts = np.bincount(met[met >= 0], minlength=len(self._sizes))
            per_unit = tuple((g, int(counts[g]) // self._sizes[g]) for g in np.flatnonzero(counts).tolist())
            moving = sum(each * self._sizes[group] for group, each in per_unit)
            self._known[id(labels)] = Axis(len(labels) - moving, per_unit)
        return self._known[id(labels)]


def _pins(
    graph: Graph, components: Components, axes: Sequence[tuple[str, int, np.ndarray]], group_of: np.ndarray
) -> list[Pin]:
    first = _first_pins(graph, components)
    pins = []
    for path, axis, labels in axes:
        met = components.of[labels]
        stays = met[group_of[met] < 0]
        if len(stays):
            told = [first[component] for component in dict.fromkeys(stays.tolist()) if component in first]
            reason = _told(graph.pins[min(told)]) if told else "all that moves with it moves as one unit"
            pins.append(Pin(path, axis, len(stays), reason))
    return pins


def _first_pins(graph: Graph, components: Components) -> Mapping[int, int]:
    """For every pinned component the first pin that met it."""
    first: dict[int, int] = {}
    for number, pin in enumerate(graph.pins):
        for component in np.unique(components.of[pin.labels]).tolist():
            first.setdefault(component, number)
    return first


def _told(pin: Pinned) -> str:
    line = line_of(pin.source)
    return f"{pin.reason} at {line}" if line else pin.reason


def _movable(note: Pinned, components: Components, group_of: np.ndarray) -> bool:
    return bool((group_of[components.of[note.labels]] >= 0).any())
