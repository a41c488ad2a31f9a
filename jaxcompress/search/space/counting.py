"""How many candidates there are, and all of them one after the other."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxcompress.search.genes import Genes
from jaxcompress.search.space.layout import Layout


def count(layout: Layout) -> int:
    """The exact number of different candidates of a discrete space.

    A variable that others depend on is given its values one after the other (those with the same consequences
    together); what is left falls into parts that do not depend on each other, whose numbers multiply.
    """
    cardinality = dict(zip(layout.codes, (variable.cardinality for variable in layout.discrete), strict=True))
    slots = {i: tuple((c.on, c.codes) for c in layout.slots[i].conditions) for i in layout.order}
    known: dict[frozenset, int] = {}

    def total(open_slots: dict[int, tuple]) -> int:
        return math.prod(part_total(part) for part in parts(open_slots))

    def part_total(part: dict[int, tuple]) -> int:
        asked = frozenset(part.items())
        if asked not in known:
            known[asked] = branch(part)
        return known[asked]

    def branch(part: dict[int, tuple]) -> int:
        root = next(i for i in part if not part[i])
        alike: dict[tuple, list] = {}
        for code in range(cardinality[root]):
            rest = assigned(part, root, code)
            alike.setdefault(tuple(rest.items()), [rest, 0])[1] += 1
        return sum(times * total(rest) for rest, times in alike.values())

    return total(slots)


def assigned(part: dict[int, tuple], root: int, code: int) -> dict[int, tuple]:
    """What is left when a variable has a value: conditions on it are gone, and so is what must not exist."""
    gone = {root}
    rest = {}
    for i, conditions in part.items():  # in topological order
        if i == root:
            continue
        if any((on == root and code not in codes) or (on in gone and on != root) for on, codes in conditions):
            gone.add(i)
        else:
            rest[i] = tuple(condition for condition in conditions if condition[0] != root)
    return rest


def parts(slots: dict[int, tuple]) -> list[dict[int, tuple]]:
    """Slots that depend on each other, by way of any others, together."""
    label = {i: i for i in slots}

    def head(i: int) -> int:
        while label[i] != i:
            label[i] = i = label[label[i]]
        return i

    for i, conditions in slots.items():
        for on, _ in conditions:
            label[head(i)] = head(on)
    together: dict[int, dict[int, tuple]] = {}
    for i, conditions in slots.items():
        together.setdefault(head(i), {})[i] = conditions
    return list(together.values())


def enumerate_all(layout: Layout) -> Genes:
    """Every candidate once, canonical, sorted by its codes (the first is the most significant)."""
    positions = layout.positions()
    cardinality = dict(zip(layout.codes, (variable.cardinality for variable in layout.discrete), strict=True))
    codes = np.zeros((1, len(layout.codes)), np.int32)
    existing: dict[int, np.ndarray] = {}  # of each slot so far, in which candidates it exists
    for i in layout.order:
        slot = layout.slots[i]
        exists = np.ones(len(codes), bool)
        for condition in slot.conditions:
            exists &= existing[condition.on] & np.isin(codes[:, positions[condition.on]], list(condition.codes))
        times = np.where(exists, cardinality[i], 1)
        codes = np.repeat(codes, times, axis=0)
        within = np.arange(len(codes)) - np.repeat(np.cumsum(times) - times, times)
        codes[:, positions[i]] = within
        existing = {on: np.repeat(row, times) for on, row in {**existing, i: exists}.items()}
    if codes.shape[1]:
        codes = codes[np.lexsort(codes.T[::-1])]
    return Genes(jnp.asarray(codes), jnp.zeros((len(codes), 0), jnp.float32))
