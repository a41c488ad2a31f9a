"""What counts as better: failed candidates behind those that break constraints, these behind the rest."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.search.strategy import Fitness

FAILED = float(jnp.finfo(jnp.float32).max)  # as a violation; whoever was not told at all has an infinite one
_MOST = 1e38


class Judged(NamedTuple):
    """Fitness without NaN, ordered: violations decide, objectives where these are equal.

    Attributes:
        objectives: float32 ``[n, m]``, finite, or all infinite.
        violation: float32 ``[n]``: 0, or up to 1e38, or `FAILED`, or infinite in places nobody has taken.
    """

    objectives: jax.Array
    violation: jax.Array


def judged(fitness: Fitness) -> Judged:
    """Candidates of which an objective is not finite, or whose violation is NaN, have failed: nobody is worse."""
    objectives = jnp.asarray(fitness.objectives, jnp.float32)
    violation = jnp.asarray(fitness.violation, jnp.float32)
    failed = ~jnp.isfinite(objectives).all(-1) | jnp.isnan(violation)
    return Judged(
        jnp.where(failed[:, None], jnp.inf, objectives), jnp.where(failed, FAILED, jnp.clip(violation, 0, _MOST))
    )


def nobody(n: int, objectives: int) -> Judged:
    """Places that nobody has taken, behind everybody."""
    return Judged(jnp.full((n, objectives), jnp.inf, jnp.float32), jnp.full(n, jnp.inf, jnp.float32))


def join(first: Judged, second: Judged) -> Judged:
    """One after the other."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def best_first(fitness: Judged) -> jax.Array:
    """Int32 ``[n]``: the rows from the best by the first objective to the worst; equals stay in order."""
    return jnp.lexsort((fitness.objectives[:, 0], fitness.violation)).astype(jnp.int32)


def places(fitness: Judged) -> jax.Array:
    """Int32 ``[n]``: 0 for the best by the first objective, 1 for the next; equals share a place."""
    order = best_first(fitness)
    violation, objective = fitness.violation[order], fitness.objectives[order, 0]
    other = (violation[1:] != violation[:-1]) | (objective[1:] != objective[:-1])
    place = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(other, dtype=jnp.int32)])
    return jnp.zeros_like(place).at[order].set(place)


def no_worse(first: Judged, second: Judged) -> jax.Array:
    """Bool ``[n]``: row by row, whether the first is as good as the second by the first objective."""
    as_good = first.objectives[:, 0] <= second.objectives[:, 0]
    return (first.violation < second.violation) | ((first.violation == second.violation) & as_good)


def tournament(key: jax.Array, place: ArrayLike, *, size: int, winners: int) -> jax.Array:
    """Int32 ``[winners]``: each the lowest ``place`` of ``size`` rows that are drawn with replacement.

    Among equals the one drawn first wins.

    Args:
        key: a typed PRNG key.
        place: ``[n]``, lower is better.
        size: how many are drawn for each winner, static.
        winners: how many tournaments are held, static.
    """
    place = jnp.asarray(place)
    drawn = jax.random.randint(key, (winners, size), 0, len(place), jnp.int32)
    return jnp.take_along_axis(drawn, jnp.argmin(place[drawn], axis=1)[:, None], 1)[:, 0]
