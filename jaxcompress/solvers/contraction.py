"""Products of several factors with data, two at a time in the cheapest order."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Names: TypeAlias = tuple[int, ...]
Step: TypeAlias = tuple[int, int]

UNKNOWN = 64
"""What a size counts as that is not known when the program is made (a symbolic batch)."""


def contract(
    operands: Sequence[jax.Array],
    names: Sequence[Sequence[int]],
    out: Sequence[int],
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The Einstein sum of some arrays, two at a time in the order of the fewest multiplications.

    The order depends on the sizes at hand: a small batch meets one factor after the other, a large one the factors
    multiplied out, where that is cheaper. Traceable; no compressed leaves (call it under `lift`).

    Args:
        operands: the arrays, at most some ten.
        names: for each of them, a number for each of its axes. Every number is in ``out`` or in two operands or more.
        out: numbers of the axes of the result.
        precision: of each product.
        preferred_element_type: of the last product; those before keep the dtype of the operands.

    Example:
        >>> tall, wide, x = jnp.ones((6, 2)), jnp.ones((2, 6)), jnp.ones((3, 6))
        >>> contract([tall, wide, x], [(0, 1), (1, 2), (3, 0)], (3, 2)).shape
        (3, 6)
        >>> cheapest_order(((0, 1), (1, 2), (3, 0)), (3, 2), {0: 6, 1: 2, 2: 6, 3: 3})[1]
        72
    """
    held = [(array, tuple(axes)) for array, axes in zip(operands, names, strict=True)]
    sizes = {name: size for array, axes in held for name, size in zip(axes, array.shape, strict=True)}
    steps, _ = cheapest_order(tuple(axes for _, axes in held), tuple(out), sizes)
    for first, second in steps:
        (a, of_a), (b, of_b) = held[first], held[second]
        held = [pair for i, pair in enumerate(held) if i not in (first, second)]
        last = not held
        left = tuple(out) if last else _kept(of_a, of_b, [*out, *(name for _, axes in held for name in axes)])
        element = preferred_element_type if last else None
        held.append((jnp.einsum(a, of_a, b, of_b, left, precision=precision, preferred_element_type=element), left))
    ((result, axes),) = held
    return result if axes == tuple(out) else jnp.einsum(result, axes, tuple(out))


def cheapest_order(names: tuple[Names, ...], out: Names, sizes: dict[int, Any]) -> tuple[tuple[Step, ...], int]:
    """The pairwise order of the fewest multiplications, over all orders there are.

    Args:
        names: of the axes of each operand.
        out: of the axes of the result.
        sizes: by name; what is no integer counts as `UNKNOWN`.

    Returns:
        For each step the places of two operands in the list, from which they are taken and to which their product is
        appended; and the number of multiplications.
    """
    known = tuple(sorted((name, size if isinstance(size, int) else UNKNOWN) for name, size in sizes.items()))
    return _cheapest_order(names, out, known)


@functools.lru_cache(maxsize=4096)
def _cheapest_order(
    names: tuple[Names, ...], out: Names, sizes: tuple[tuple[int, int], ...]
) -> tuple[tuple[Step, ...], int]:
    size_of = dict(sizes)
    full = (1 << len(names)) - 1

    @functools.cache
    def inside(subset: int) -> frozenset[int]:
        """Names that the product of a subset still carries: those that the rest or the result needs."""
        held = {name for i, axes in enumerate(names) if subset >> i & 1 for name in axes}
        needed = {name for i, axes in enumerate(names) if not subset >> i & 1 for name in axes} | {*out}
        return frozenset(held & needed) if subset & (subset - 1) else frozenset(held)

    @functools.cache
    def best(subset: int) -> tuple[int, tuple[int, int] | None]:
        if not subset & (subset - 1):
            return 0, None
        lowest, found = subset & -subset, (math.inf, (0, 0))
        part = (subset - 1) & subset
        while part:
            if part & lowest:
                other = subset ^ part
                own = math.prod(size_of[name] for name in inside(part) | inside(other))
                found = min(found, (best(part)[0] + best(other)[0] + own, (part, other)))
            part = (part - 1) & subset
        return int(found[0]), found[1]

    steps: list[Step] = []
    places = [1 << i for i in range(len(names))]

    def walk(subset: int) -> None:
        split = best(subset)[1]
        if split is None:
            return
        for side in split:
            walk(side)
        first, second = sorted(places.index(side) for side in split)
        steps.append((first, second))
        places[:] = [place for i, place in enumerate(places) if i not in (first, second)] + [subset]

    walk(full)
    return tuple(steps), best(full)[0]


def _kept(a: Names, b: Names, needed: Sequence[int]) -> Names:
    return tuple(name for name in dict.fromkeys((*a, *b)) if name in {*needed})
