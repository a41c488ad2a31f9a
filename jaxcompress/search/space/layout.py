"""Where the variables of a space sit in a genome, and which of them exist only under conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcompress.search.space.conditional import Conditional
from jaxcompress.search.space.repeated import Repeated
from jaxcompress.search.space.variables import Choice, Discrete, Float, IntRange, LogFloat, Variable


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One variable; ``places`` are its positions among the slots, an axis for every `Repeated` around it."""

    variable: Variable
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Branch:
    """A dict of variables."""

    children: dict[str, Node]


@dataclasses.dataclass(frozen=True)
class Stack:
    """A `Repeated`: what is inside of it, with an axis more in all places, and the variable that counts."""

    inside: Node
    times: Repeated
    count: Leaf | None


Node = Leaf | Branch | Stack


@dataclasses.dataclass(frozen=True)
class Condition:
    """Holds where the slot ``on`` has one of the codes ``codes``."""

    on: int
    codes: frozenset[int]


@dataclasses.dataclass
class Slot:
    """One gene: its name, its variable, and the conditions under which it exists."""

    name: str
    variable: Variable
    asked: tuple[tuple[str, str, Any], ...]  # (scope, on, equals), to be resolved when all names are known
    conditions: tuple[Condition, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """All genes of a space; ``codes`` and ``values`` are the slots of the two rows of `Genes`, in order."""

    root: Branch
    slots: tuple[Slot, ...]
    codes: tuple[int, ...]
    values: tuple[int, ...]

    @property
    def discrete(self) -> tuple[Discrete, ...]:
        """The variables of the codes."""
        return tuple(slot.variable for slot in self.slots if isinstance(slot.variable, Choice | IntRange))

    @property
    def order(self) -> tuple[int, ...]:
        """Slots such that what a slot depends on comes before it."""
        return topological(self.slots)

    def rows(self) -> tuple[Slot, ...]:
        """The slots in the order of the genes: the codes, then the values."""
        return tuple(self.slots[i] for i in (*self.codes, *self.values))

    def positions(self) -> np.ndarray:
        """Of each slot its position in its own row of `Genes`."""
        positions = np.zeros(len(self.slots), np.int32)
        for row in (self.codes, self.values):
            positions[list(row)] = np.arange(len(row))
        return positions


def lay_out(variables: Mapping[str, Any]) -> Layout:
    """Walks the variables in the order they are written in and gives each a slot."""
    slots: list[Slot] = []
    root = place(variables, "", (), slots)
    assert isinstance(root, Branch)
    names = {slot.name: i for i, slot in enumerate(slots)}
    for slot in slots:
        slot.conditions = tuple(resolve(slot, *asked, slots, names) for asked in slot.asked)
    discrete = [isinstance(slot.variable, Choice | IntRange) for slot in slots]
    codes = tuple(i for i, is_code in enumerate(discrete) if is_code)
    values = tuple(i for i, is_code in enumerate(discrete) if not is_code)
    topological(slots)
    return Layout(root, tuple(slots), codes, values)


def place(node: Any, name: str, asked: tuple, slots: list[Slot]) -> Node:
    """Gives slots to a variable and all that is inside of it; ``asked`` are the conditions around it."""
    if isinstance(node, Mapping):
        return place_dict(node, name, asked, slots)
    if isinstance(node, Conditional):
        return place(node.inside, name, (*asked, (name, node.on, node.equals)), slots)
    if isinstance(node, Repeated):
        return place_repeated(node, name, asked, slots)
    if isinstance(node, Choice | IntRange | Float | LogFloat):
        slots.append(Slot(name, node, asked))
        return Leaf(node, np.asarray(len(slots) - 1))
    raise TypeError(
        f"Space: {name!r} is {node!r}; use Choice, IntRange, Float, LogFloat, Conditional, Repeated or a dict of them "
        "(a constant is Choice((value,)))"
    )


def place_dict(node: Mapping, name: str, asked: tuple, slots: list[Slot]) -> Branch:
    """The entries of a dict, in its order."""
    if not node:
        raise ValueError(f"Space: {name!r} is an empty dict; leave it out" if name else "Space: give it a variable")
    for key in node:
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"Space: the name {key!r} {f'in {name!r} ' * bool(name)}must be a string without '/'")
    return Branch({key: place(child, join(name, key), asked, slots) for key, child in node.items()})


def place_repeated(node: Repeated, name: str, asked: tuple, slots: list[Slot]) -> Stack:
    """The counting variable, then every element; an element exists where the count is above its position."""
    count = None
    if not isinstance(node.times, int):
        if isinstance(node.inside, Mapping) and "count" in node.inside:
            raise ValueError(f"Space: {name!r} is repeated a variable number of times: 'count' in it is taken")
        slots.append(Slot(join(name, "count"), node.times, asked))
        count = Leaf(node.times, np.asarray(len(slots) - 1))
    elements = []
    for i in range(node.most):
        around = asked
        if count is not None and min(node.counts) <= i:
            around = (*asked, (name + "/*", join(name, "count"), tuple(n for n in node.counts if n > i)))
        elements.append(place(node.inside, join(name, str(i)), around, slots))
    return Stack(stack(elements), node, count)


def stack(nodes: list[Any]) -> Node:
    """Nodes of one structure as one node, with an axis in front of their places."""
    first = nodes[0]
    if isinstance(first, Leaf):
        return Leaf(first.variable, np.stack([node.places for node in nodes]))
    if isinstance(first, Branch):
        return Branch({key: stack([node.children[key] for node in nodes]) for key in first.children})
    count = None if first.count is None else stack([node.count for node in nodes])
    assert count is None or isinstance(count, Leaf)
    return Stack(stack([node.inside for node in nodes]), first.times, count)


def resolve(slot: Slot, scope: str, on: str, equals: Any, slots: list[Slot], names: dict[str, int]) -> Condition:
    """Finds the variable that a condition speaks of: beside the conditional one first, then outwards."""
    here = scope
    while True:
        here = here.rpartition("/")[0]
        if (path := join(here, on)) in names:
            break
        if not here:
            raise ValueError(f"Conditional {scope!r}: there is no variable on={on!r}; there are {sorted(names)}")
    index = names[path]
    variable = slots[index].variable
    if not isinstance(variable, Choice | IntRange):
        raise ValueError(f"Conditional {scope!r}: on={on!r} is continuous, {variable}; use a Choice or IntRange")
    return Condition(index, codes_of(variable, equals, scope))


def codes_of(variable: Discrete, equals: Any, scope: str) -> frozenset[int]:
    """The codes that ``equals`` means: one value, or each value of a tuple."""
    try:
        return frozenset([variable.code(equals)])
    except ValueError as error:
        if not isinstance(equals, tuple) or not equals:
            raise ValueError(f"Conditional {scope!r}: equals={error}") from None
    try:
        return frozenset(variable.code(value) for value in equals)
    except ValueError as error:
        raise ValueError(f"Conditional {scope!r}: in equals, {error}") from None


def topological(slots: tuple[Slot, ...] | list[Slot]) -> tuple[int, ...]:
    """An order in which a slot comes after what it depends on, as near to the written one as that allows."""
    order: list[int] = []
    state = [0] * len(slots)  # 0 not seen, 1 on the way, 2 done

    def visit(i: int) -> None:
        if state[i] == 1:
            raise ValueError(f"Conditional {slots[i].name!r} depends on itself, by way of what it depends on")
        if state[i] == 0:
            state[i] = 1
            for condition in slots[i].conditions:
                visit(condition.on)
            state[i] = 2
            order.append(i)

    for i in range(len(slots)):
        visit(i)
    return tuple(order)


def join(scope: str, name: str) -> str:
    """Paths are ``/``-joined."""
    return f"{scope}/{name}" if scope else name
