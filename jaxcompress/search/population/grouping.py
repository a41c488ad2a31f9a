"""Which candidates share a program: few programs compile fast and pad much, many pad little."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.table import html_table, text_table

Shape = tuple[int, ...]
_COLUMNS = ("padded to", "candidates", "lanes", "real MFLOPs", "padded MFLOPs", "waste")


@dataclasses.dataclass(frozen=True)
class Group:
    """Candidates of one program.

    Attributes:
        shape: what they are padded to.
        members: their numbers.
        lanes: candidates the program is compiled for: a power of two, so that groups of other populations find it
            compiled. The lanes beyond the members are copies of the last one.
        real_flops: what the members need, one example forward.
        padded_flops: what is computed for all lanes.
    """

    shape: Shape
    members: tuple[int, ...]
    lanes: int
    real_flops: float
    padded_flops: float


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How a population falls into programs; prints as a table.

    Attributes:
        groups: the programs, the cheapest first.
        candidates: how many there are in all.
    """

    groups: tuple[Group, ...]
    candidates: int

    @property
    def waste(self) -> float:
        """The part of the computed FLOPs that is padding, in ``[0, 1)``."""
        return _waste(self.groups)

    def __str__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, [_row(group) for group in self.groups], [self._note()])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, [_row(group) for group in self.groups], [self._note()])

    def _note(self) -> str:
        return f"{self.candidates} candidates in {len(self.groups)} programs, {self.waste:.0%} of the FLOPs are padding"


def group_by_shape(
    shapes: Any, real_flops: Any, padded_flops: Callable[[Shape], float], *, programs: int | None = None
) -> Grouping:
    """Puts candidates of one shape into one program, and joins shapes until there are few enough programs.

    Joined are, one pair after another, those two groups whose union adds the fewest padded FLOPs; it is padded to the
    larger of the two in every number of the shape.

    Args:
        shapes: int ``[n, numbers]``, e.g. ``jax.vmap(mlp.shape)(layers)``.
        real_flops: ``[n]``, e.g. ``jax.vmap(mlp.flops)(layers)``.
        padded_flops: what a candidate costs when padded to a shape.
        programs: at most so many; None: one for each shape.

    Returns:
        The grouping.

    Raises:
        ValueError: if there are no candidates, or ``programs`` is less than 1.

    Example:
        >>> print(group_by_shape([[4], [4], [8], [32]], [4, 4, 8, 32], lambda shape: shape[0], programs=2))
        padded to  candidates  lanes  real MFLOPs  padded MFLOPs  waste
        8          3           4      1.6e-05      3.2e-05        50%
        32         1           1      3.2e-05      3.2e-05        0%
        4 candidates in 2 programs, 25% of the FLOPs are padding
    """
    rows, real = np.asarray(shapes, np.int64), np.asarray(real_flops, np.float64)
    if rows.ndim != 2 or not len(rows) or real.shape != (len(rows),):
        raise ValueError(f"shapes must be [n, numbers] and real_flops [n], n >= 1, got {rows.shape} and {real.shape}")
    if programs is not None and programs < 1:
        raise ValueError(f"programs must be 1 or more, got {programs}")
    costs = functools.cache(padded_flops)
    unique, place = np.unique(rows, axis=0, return_inverse=True)
    sets = [(tuple(int(n) for n in shape), np.flatnonzero(np.ravel(place) == i)) for i, shape in enumerate(unique)]
    sets = _joined(sets, costs, len(sets) if programs is None else programs)
    groups = [_group(shape, members, real, costs) for shape, members in sets]
    return Grouping(tuple(sorted(groups, key=lambda group: (group.padded_flops, group.shape))), len(rows))


def in_groups(
    make: Callable[[Shape], Callable[..., Any]], candidates: Any, keys: jax.Array, data: Any, grouping: Grouping
) -> list[Any]:
    """Evaluates every group by its own program.

    Args:
        make: ``make(shape) -> many``, where ``many(candidates, keys, data) -> results`` of as many (a
            `jaxcompress.search.population_evaluator`, or `train_population` with its training filled in). Let it return
            the same function for the same shape (`functools.lru_cache`), so that nothing is compiled twice.
        candidates: pytree of arrays that lead with ``n``.
        keys: ``[n]``: a candidate keeps its own in whichever group.
        data: handed through.
        grouping: of these candidates.

    Returns:
        For each group the results of its members, in the order of ``grouping.groups``.

    Raises:
        ValueError: if the grouping is one of another number of candidates.
    """
    if len(keys) != grouping.candidates:
        raise ValueError(f"the grouping is one of {grouping.candidates} candidates, got keys for {len(keys)}")
    results = []
    for group in grouping.groups:
        own = np.array(group.members)
        places = np.concatenate([own, np.full(group.lanes - len(own), own[-1])])
        found = make(group.shape)(jax.tree.map(lambda x, at=places: x[at], candidates), keys[places], data)
        results.append(jax.tree.map(lambda x, own=own: x[: len(own)], found))
    return results


def ungrouped(results: Sequence[Any], grouping: Grouping) -> Any:
    """The results of all groups in the order of the candidates; of results whose shapes do not depend on the group.

    Raises:
        ValueError: if they do (parameters, which each group pads to its shape).
    """
    shapes = {str(jax.tree.map(lambda x: x.shape[1:], result)) for result in results}
    if len(shapes) > 1:
        raise ValueError(f"the results of the groups differ in shape: {sorted(shapes)}; take them group by group")
    order = np.argsort(np.concatenate([group.members for group in grouping.groups]))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[order], *results)


def _joined(
    sets: list[tuple[Shape, np.ndarray]], padded_flops: Callable[[Shape], float], programs: int
) -> list[tuple[Shape, np.ndarray]]:
    """Joins pairs, the cheapest first, until there are at most ``programs`` sets."""
    alive = dict(enumerate(sets))
    more = {(i, j): _added(alive[i], alive[j], padded_flops) for j in alive for i in range(j)}
    while len(alive) > programs:
        i, j = min(more, key=lambda pair: (more[pair], pair))
        (a, first), (b, second) = alive.pop(i), alive.pop(j)
        new, union = len(sets) * 2 - len(alive), (_larger(a, b), np.sort(np.concatenate([first, second])))
        more = {pair: cost for pair, cost in more.items() if not {i, j} & set(pair)}
        more |= {(k, new): _added(other, union, padded_flops) for k, other in alive.items()}
        alive[new] = union
    return list(alive.values())


def _added(a: tuple[Shape, np.ndarray], b: tuple[Shape, np.ndarray], padded_flops: Callable[[Shape], float]) -> float:
    together = (len(a[1]) + len(b[1])) * padded_flops(_larger(a[0], b[0]))
    return float(together - len(a[1]) * padded_flops(a[0]) - len(b[1]) * padded_flops(b[0]))


def _larger(a: Shape, b: Shape) -> Shape:
    return tuple(max(pair) for pair in zip(a, b, strict=True))


def _group(shape: Shape, members: np.ndarray, real: np.ndarray, padded_flops: Callable[[Shape], float]) -> Group:
    lanes = 2 ** math.ceil(math.log2(len(members)))
    padded = float(padded_flops(shape)) * lanes
    return Group(shape, tuple(int(i) for i in members), lanes, float(real[members].sum()), padded)


def _waste(groups: Sequence[Group]) -> float:
    padded = sum(group.padded_flops for group in groups)
    return 1.0 - sum(group.real_flops for group in groups) / padded if padded else 0.0


def _row(group: Group) -> list[str]:
    shape = " x ".join(str(n) for n in group.shape)
    flops = [f"{value / 1e6:.3g}" for value in (group.real_flops, group.padded_flops)]
    return [shape, str(len(group.members)), str(group.lanes), *flops, f"{_waste([group]):.0%}"]
