"""What dominates what: fronts of several objectives, and how alone a candidate stands on its front."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def non_dominated_ranks(objectives: ArrayLike, violation: ArrayLike | None = None) -> jax.Array:
    """The front each candidate is on: 0 where nothing dominates it, 1 where only front 0 does, and so on.

    One dominates another if it breaks the constraints by less; or by as much (feasible ones break them by 0), if it is
    nowhere worse and somewhere better. Equal candidates share a front. Exact, for any number of objectives.

    Args:
        objectives: ``[n, m]``, minimised. May be infinite; NaN counts as infinite.
        violation: ``[n]``: by how much constraints are broken, nothing where 0 or negative. None: by nobody.

    Returns:
        int32 ``[n]``.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> non_dominated_ranks([[1.0, 3.0], [2.0, 2.0], [2.0, 4.0], [0.0, 0.0]], [0.0, 0.0, 0.0, 0.5]).tolist()
        [0, 0, 1, 2]

    References:
        Deb et al., 2002: fast non-dominated sort (section III-A), constrained domination (section VI-A).
        https://doi.org/10.1109/4235.996017
    """
    objectives, violation = _checked(objectives, violation)
    dominates = _dominates(objectives, violation)

    def peel(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        ranks, left, front = carry
        free = left & ~(dominates & left[:, None]).any(0)
        return jnp.where(free, front, ranks), left & ~free, front + 1

    n = len(objectives)
    ranks, _, _ = lax.while_loop(
        lambda carry: carry[1].any(), peel, (jnp.zeros(n, jnp.int32), jnp.ones(n, bool), jnp.int32(0))
    )
    return ranks


def crowding_distance(objectives: ArrayLike, ranks: ArrayLike) -> jax.Array:
    """How far the neighbours of each candidate on its front are apart, of the front's extent; the mean over objectives.

    Infinite at either end of an objective and on fronts of one or two. An objective in which a whole front is equal
    says nothing (0). Among equals the order of the rows decides who is whose neighbour.

    Args:
        objectives: ``[n, m]``. Differences that are no numbers (of infinite objectives) count 0.
        ranks: int ``[n]``, the front of each, in ``[0, n)``.

    Returns:
        float32 ``[n]``.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> crowding_distance([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]], [0, 0, 0]).tolist()
        [inf, 1.0, inf]

    References:
        Deb et al., 2002, section III-B. https://doi.org/10.1109/4235.996017
        The sum there is a mean here, and fronts of two and flat objectives are treated as pymoo 0.6 does.
    """
    objectives, _ = _checked(objectives, None)
    ranks = jnp.asarray(ranks, jnp.int32)
    if ranks.shape != objectives.shape[:1]:
        raise ValueError(f"ranks must have one entry per row of objectives {objectives.shape}, got {ranks.shape}")
    n = len(objectives)
    gaps = jax.vmap(_gaps, in_axes=(1, None))(objectives, ranks)  # [m, n]
    members = jax.ops.segment_sum(jnp.ones(n, jnp.int32), ranks, n)[ranks]
    return jnp.where(members <= 2, jnp.inf, gaps.mean(0))


def _gaps(values: jax.Array, ranks: jax.Array) -> jax.Array:
    """Of one objective ``[n]``: the distance between the neighbours of each on its front, relative to its extent."""
    n = len(values)
    order = jnp.lexsort((values, ranks))
    value, rank = values[order], ranks[order]
    border = rank[1:] != rank[:-1]
    first = jnp.concatenate([jnp.ones(1, bool), border])
    last = jnp.concatenate([border, jnp.ones(1, bool)])
    below = jnp.where(first, jnp.inf, value - jnp.roll(value, 1))
    above = jnp.where(last, jnp.inf, jnp.roll(value, -1) - value)
    extent = (jax.ops.segment_max(value, rank, n) - jax.ops.segment_min(value, rank, n))[rank]
    parts = jnp.stack([below, above]) / jnp.where(extent == 0, jnp.nan, extent)[None]
    return jnp.zeros(n, jnp.float32).at[order].set(jnp.where(jnp.isnan(parts), 0, parts).sum(0))


def _dominates(objectives: jax.Array, violation: jax.Array) -> jax.Array:
    """Whether row dominates column, ``[n, n]``; an objective at a time, so that no ``[n, n, m]`` is made."""
    n = len(objectives)
    no_worse, better = jnp.ones((n, n), bool), jnp.zeros((n, n), bool)
    for objective in objectives.T:
        no_worse &= objective[:, None] <= objective[None, :]
        better |= objective[:, None] < objective[None, :]
    less, as_much = violation[:, None] < violation[None, :], violation[:, None] == violation[None, :]
    return less | (as_much & no_worse & better)


def _checked(objectives: ArrayLike, violation: ArrayLike | None) -> tuple[jax.Array, jax.Array]:
    objectives = jnp.asarray(objectives, jnp.float32)
    if objectives.ndim != 2 or 0 in objectives.shape:
        raise ValueError(f"objectives must be [candidates, objectives], none of them 0, got shape {objectives.shape}")
    violation = jnp.zeros(len(objectives), jnp.float32) if violation is None else jnp.asarray(violation, jnp.float32)
    if violation.shape != objectives.shape[:1]:
        raise ValueError(f"violation must have one entry per row of objectives {objectives.shape}: {violation.shape}")
    return jnp.where(jnp.isnan(objectives), jnp.inf, objectives), jnp.where(
        jnp.isnan(violation), jnp.inf, jnp.maximum(violation, 0)
    )
