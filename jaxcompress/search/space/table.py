"""A space as rows that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxcompress.search.space.conditional import Conditional
from jaxcompress.search.space.layout import join
from jaxcompress.search.space.repeated import Repeated

COLUMNS = ("variable", "values", "genes", "exists where")


def rows(variables: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per variable; what is repeated is written once, with ``*`` for the running number."""
    return list(rows_of(variables, "", 1, ()))


def rows_of(node: Any, name: str, genes: int, where: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The rows of one entry: how many genes it has, and the conditions around it."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from rows_of(child, join(name, key), genes, where)
    elif isinstance(node, Conditional):
        values = node.equals if isinstance(node.equals, tuple) else (node.equals,)
        condition = f"{node.on} = {' | '.join(map(str, values))}"
        yield from rows_of(node.inside, name, genes, (*where, condition))
    elif isinstance(node, Repeated):
        if not isinstance(node.times, int):
            yield join(name, "count"), str(node.times), str(genes), ", ".join(where)
        yield from rows_of(node.inside, join(name, "*"), genes * node.most, where)
    else:
        yield name, str(node), str(genes), ", ".join(where)


def notes(size: int | float, discrete: int, continuous: int, bounds: Mapping[str, str]) -> list[str]:
    """What stands under the table: how large the space is, and its constraints."""
    if continuous:
        candidates = "infinitely many candidates"
    else:
        candidates = f"{size:,} candidates" if size < 10**9 else f"{in_powers(int(size))} candidates"
    lines = [f"{candidates}: {discrete} discrete and {continuous} continuous genes"]
    return lines + [f"constraint: {name} {bound}" for name, bound in bounds.items()]


def in_powers(size: int) -> str:
    """A number that may be beyond float64, with two digits.

    Example:
        >>> in_powers(20_130_000_000_000)
        '2.0e13'
    """
    digits = len(str(size)) - 1
    tenths = size // 10 ** (digits - 1)
    return f"{tenths // 10}.{tenths % 10}e{digits}"
