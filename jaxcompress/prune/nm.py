"""N:M patterns: n entries stay of every m neighbours along an axis."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import ordered_keys


def nm_mask(scores: jax.Array, *, n: ArrayLike, m: int, axis: int) -> jax.Array:
    """Keeps the ``n`` highest-scoring entries of every ``m`` neighbours along one axis.

    Among equals the lower index stays. Ranks come from comparing all pairs of a group, without a sort.

    Args:
        scores: importance, higher means keep. Any float dtype; NaN has no place in the order.
        n: entries to keep of each group, in ``[0, m]``. May be traced.
        m: length of a group, static; divides the axis.
        axis: along which the groups lie. Hardware wants the contracted axis: 0 of an ``(in, out)`` kernel.

    Returns:
        Boolean mask of ``scores.shape``; ``True`` keeps.

    Raises:
        ValueError: if ``m`` does not divide the axis, or ``n`` is concrete and outside ``[0, m]``.

    Example:
        >>> nm_mask(jnp.array([4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]), n=2, m=4, axis=0).tolist()
        [True, False, True, False, True, True, False, False]

    References:
        Mishra et al., 2021. https://arxiv.org/abs/2104.08378
    """
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis must be one of the {scores.ndim} axes of scores, got {axis}")
    axis %= scores.ndim
    if m < 1 or scores.shape[axis] % m:
        raise ValueError(f"m={m} does not divide axis {axis} of shape {scores.shape}: prune another axis, or pad it")
    if not isinstance(n, Tracer) and not 0 <= int(np.asarray(n)) <= m:
        raise ValueError(f"n must lie in [0, m={m}], got {n}")
    return _keep_n(scores, jnp.asarray(n, jnp.int32), m=m, axis=axis)


@partial(jax.jit, static_argnames=("m", "axis"))
def _keep_n(scores: jax.Array, n: jax.Array, *, m: int, axis: int) -> jax.Array:
    return keeping_placement(partial(_group_masks, m=m, axis=axis), [scores], n)[0]


def _group_masks(arrays: list[jax.Array], n: jax.Array, *, m: int, axis: int) -> list[jax.Array]:
    (scores,) = arrays
    groups = (*scores.shape[:axis], scores.shape[axis] // m, m, *scores.shape[axis + 1 :])
    keys = ordered_keys(scores).reshape(groups)
    entries = [jax.lax.index_in_dim(keys, i, axis + 1, keepdims=False) for i in range(m)]
    return [jnp.stack([_rank(entries, i) < n for i in range(m)], axis + 1).reshape(scores.shape)]


def _rank(entries: list[jax.Array], i: int) -> jax.Array:
    """How many entries of the group come before entry ``i``: larger ones, and equal ones of lower index."""
    rank = jnp.zeros(entries[i].shape, jnp.int32)
    for j, other in enumerate(entries):
        if j != i:
            before = other >= entries[i] if j < i else other > entries[i]
            rank += before.astype(jnp.int32)
    return rank
