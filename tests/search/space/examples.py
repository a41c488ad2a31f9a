"""Spaces that all laws are held against: flat, mixed, conditional, nested, large; and random ones for Hypothesis."""

import itertools
from collections.abc import Iterator, Mapping

from hypothesis import strategies as st

from jaxcompress.search.space import Choice, Conditional, Float, IntRange, LogFloat, Repeated, Space

CELL = Space({f"edge{i}": Choice(("none", "skip", "conv1", "conv3", "pool")) for i in range(6)})
MIXED = Space(
    {
        "optimizer": Choice(("sgd", "adam", "lamb")),
        "momentum": Conditional(Float(0.0, 0.99), on="optimizer", equals="sgd"),
        "adam": Conditional({"b1": Float(0.8, 0.99), "amsgrad": Choice((False, True))}, "optimizer", ("adam", "lamb")),
        "rate": LogFloat(1e-4, 1.0),
        "constant": Choice((7,)),
    }
)
NESTED = Space(
    {
        "stages": Repeated(
            {
                "width": Choice((16, 32)),
                "blocks": Repeated(
                    {
                        "op": Choice(("conv", "pool")),
                        "kernel": Conditional(Choice((3, 5, 7)), on="op", equals="conv"),
                    },
                    times=IntRange(0, 2),
                ),
            },
            times=2,
        ),
        "head": Repeated(IntRange(1, 4), times=Choice((1, 3))),
    }
)
LARGE = Space({"blocks": Repeated({"kernel": Choice((3, 5, 7)), "expand": Choice((3, 4, 6))}, times=IntRange(0, 60))})
CONTINUOUS = Space({"x": Repeated(Float(-1.0, 1.0), times=5)})
SPACES = {"cell": CELL, "mixed": MIXED, "nested": NESTED, "large": LARGE, "continuous": CONTINUOUS}


def configs(entries: Mapping) -> Iterator[dict]:
    """Every config of discrete variables, by the plainest recursion: the oracle. Conditions look in the same dict."""

    def of(node) -> Iterator:
        if isinstance(node, Mapping):
            yield from configs(node)
        elif isinstance(node, Repeated):
            for times in node.counts:
                yield from map(list, itertools.product(list(of(node.inside)), repeat=times))
        else:
            yield from (node.value(code) for code in range(node.cardinality))

    def grow(rest: list, told: dict) -> Iterator[dict]:
        if not rest:
            yield told
            return
        (name, node), *later = rest
        while isinstance(node, Conditional):
            if node.on not in told or told[node.on] not in node.equals:
                yield from grow(later, told)
                return
            node = node.inside
        for value in of(node):
            yield from grow(later, {**told, name: value})

    return grow(list(entries.items()), {})


@st.composite
def entries(draw, depth=2):
    """A dict of discrete variables: some in dicts, some repeated, some under conditions on earlier ones."""
    made = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        node = draw(variable(depth))
        if draw(st.booleans()) and (earlier := [n for n, v in made.items() if isinstance(v, Choice | IntRange)]):
            on = draw(st.sampled_from(earlier))
            codes = draw(st.sets(st.integers(0, made[on].cardinality - 1), min_size=1))
            node = Conditional(node, on=on, equals=tuple(made[on].value(code) for code in sorted(codes)))
            if draw(st.booleans()):
                node = Conditional(node, on=on, equals=tuple(made[on].value(c) for c in range(made[on].cardinality)))
        made[name] = node
    return made


def variable(depth):
    """A choice, a range, or, above the last level, a dict or something repeated."""
    small = st.integers(1, 3)
    leaves = st.one_of(
        small.map(lambda n: Choice(("x", 2, 2.5)[:n])), st.tuples(small, small).map(lambda t: IntRange(t[0], sum(t)))
    )
    if depth == 0:
        return leaves
    times = st.one_of(small.map(lambda n: min(n, 2)), st.integers(0, 1).map(lambda low: IntRange(low, 2)))
    inner = st.one_of(leaves, entries(depth=depth - 1))
    repeated = st.tuples(inner, times).map(lambda t: Repeated(*t))
    return st.one_of(leaves, leaves, entries(depth=depth - 1), repeated)
