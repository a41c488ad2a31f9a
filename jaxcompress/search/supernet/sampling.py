"""Which subnets a training step draws: the extremes of a space, and draws from a part of it that grows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.paths import matches
from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def largest(space: Space) -> Genes:
    """The candidate with the last value of every variable: the whole network where values ascend.

    Example:
        >>> from jaxcompress.search import IntRange, Space
        >>> space = Space({"layers": IntRange(1, 3)})
        >>> space.config(largest(space)), space.config(smallest(space))
        ({'layers': 3}, {'layers': 1})
    """
    codes = jnp.asarray(space.cardinalities, jnp.int32) - 1
    return space.canonical(Genes(codes, jnp.ones(space.continuous, jnp.float32)))


def smallest(space: Space) -> Genes:
    """The candidate with the first value of every variable."""
    return space.canonical(Genes(jnp.zeros(space.discrete, jnp.int32), jnp.zeros(space.continuous, jnp.float32)))


def sample_above(space: Space, key: jax.Array, n: int, floors: jax.Array) -> Genes:
    """Draws candidates whose codes are at least ``floors``: uniform, independent, canonical.

    Args:
        space: values of its discrete variables ascend.
        key: consumed.
        n: how many.
        floors: int32 ``[discrete]``, the least code of every discrete variable; may be traced.

    Returns:
        ``[n]`` candidates.
    """
    one, two = jax.random.split(key)
    tops = jnp.asarray(space.cardinalities, jnp.int32)
    shape = (n, space.discrete)
    codes = jax.random.randint(one, shape, jnp.broadcast_to(floors, shape), jnp.broadcast_to(tops, shape), jnp.int32)
    return space.canonical(Genes(codes, jax.random.uniform(two, (n, space.continuous), jnp.float32)))


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """A part of a training in which some variables are elastic.

    Attributes:
        name: what became elastic, for people.
        floors: int32 ``[discrete]``: the least code of each variable.
    """

    name: str
    floors: np.ndarray


def progressive_shrinking(
    space: Space, *, order: Sequence[str] = ("kernel", "depth", "width"), phases: int | Sequence[int] = (1, 2, 2)
) -> list[Phase]:
    """The phases of Once-for-All: the whole network, then smaller kernels, then less depth, then less width.

    A variable that has become elastic stays so. Within its part of the order, the least value falls to the first one
    in equal steps.

    Args:
        space: values of its discrete variables ascend.
        order: names of top-level variables (or dicts of them), or globs over paths (``"width/**"``), in the order in
            which they become elastic; those that are not there are passed over.
        phases: in how many phases each falls; one number for all.

    Returns:
        The phases; the first one has the whole network only, the last one everything.

    Raises:
        ValueError: if ``order`` leaves a variable out, or ``phases`` are of another number or below 1.

    Example:
        >>> from jaxcompress.search import Choice, Space
        >>> space = Space({"kernel": Choice((3, 5, 7)), "width": Choice((4, 8, 16))})
        >>> [(phase.name, phase.floors.tolist()) for phase in progressive_shrinking(space)]
        [('whole', [2, 2]), ('kernel', [0, 2]), ('width 1', [0, 1]), ('width 2', [0, 0])]

    References:
        Cai et al., 2020, section 3.3. https://arxiv.org/abs/1908.09791
    """
    times = [phases] * len(order) if isinstance(phases, int) else list(phases)
    if len(times) != len(order) or min(times, default=1) < 1:
        raise ValueError(f"progressive_shrinking: phases= must be 1 or more for each of {order!r}, got {phases}")
    tops = np.asarray(space.cardinalities, np.int32) - 1
    names = space.names[: space.discrete]
    floors, found = tops.copy(), [Phase("whole", tops.copy())]
    for name, count in zip(order, times, strict=True):
        moving = np.asarray([matches(path, [name, f"{name}/**"]) for path in names], bool)
        if not moving.any():
            continue
        for phase in range(1, count + 1):
            floors = np.where(moving, np.rint(tops * (1 - phase / count)).astype(np.int32), floors)
            found.append(Phase(f"{name} {phase}" if count > 1 else name, floors.copy()))
    stuck = [name for name, floor in zip(names, floors, strict=True) if floor > 0]
    if stuck:
        raise ValueError(f"progressive_shrinking: order={order!r} never makes {stuck[0]!r} elastic; name it too")
    return found
