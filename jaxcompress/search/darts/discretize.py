"""From mixtures to one operation per edge: the two rules in use."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def strongest_operations(alphas: jax.Array, *, never: int | None = None) -> jax.Array:
    """Of every edge its strongest operation: the rule of cells that keep all their edges (NAS-Bench-201).

    Args:
        alphas: ``[..., operations]``. Any leading axes; may be traced.
        never: the number of an operation that is not to be chosen (``none`` in cells where an edge has to exist).

    Returns:
        int32 ``[...]``; among equals the first.

    Example:
        >>> strongest_operations(jnp.array([[0.1, 0.9, 0.3], [2.0, 0.0, 1.0]])).tolist()
        [1, 0]
        >>> strongest_operations(jnp.array([[0.1, 0.9, 0.3], [2.0, 0.0, 1.0]]), never=0).tolist()
        [1, 2]
    """
    return jnp.argmax(_without(alphas, never), axis=-1).astype(jnp.int32)


def strongest_edges(
    alphas: jax.Array, targets: Sequence[int], *, none: int | None, edges: int = 2
) -> tuple[jax.Array, jax.Array]:
    """Of every node the strongest incoming edges, each with its strongest operation: the rule of DARTS for cells.

    The strength of an edge is the weight of its strongest operation other than ``none``, in the softmax over all of
    them, ``none`` included.

    Args:
        alphas: ``[all edges, operations]``. May be traced.
        targets: the node that each edge leads to. Static.
        none: the number of the operation ``none``; None where there is no such.
        edges: how many a node keeps (all, where it has fewer).

    Returns:
        ``(codes, kept)``: int32 ``[all edges]``, the operation of every edge (never ``none``); bool ``[all edges]``,
        whether it stays. Among equal edges the first stay.

    Raises:
        ValueError: if ``targets`` does not name one node per edge.

    Example:
        >>> alphas = jnp.array([[9.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 3.0]])  # three edges into node 3
        >>> codes, kept = strongest_edges(alphas, [3, 3, 3], none=0)
        >>> codes.tolist(), kept.tolist()
        ([1, 1, 2], [False, True, True])

    References:
        Liu et al., 2019, section 2.4. https://arxiv.org/abs/1806.09055
    """
    into = np.asarray(targets)
    if into.shape != alphas.shape[:1]:
        raise ValueError(
            f"targets has to name a node for each of the {alphas.shape[0]} edges, it has shape {into.shape}"
        )
    weights = _without(jax.nn.softmax(alphas, axis=-1), none)
    strength = jnp.max(weights, axis=-1)
    rival = jnp.asarray(into[:, None] == into[None, :])  # [edge, its rivals]
    stronger = (strength[None, :] > strength[:, None]) | (
        (strength[None, :] == strength[:, None]) & jnp.asarray(np.tri(len(into), k=-1, dtype=bool))
    )
    kept = jnp.sum(rival & stronger, axis=-1) < edges
    return jnp.argmax(weights, axis=-1).astype(jnp.int32), kept


def one_hot(codes: jax.Array, operations: int, kept: jax.Array | None = None) -> jax.Array:
    """The mixture that is a discrete choice, all weight on one operation; an edge that is not kept weighs nothing."""
    mixture = jax.nn.one_hot(codes, operations, dtype=jnp.float32)
    return mixture if kept is None else mixture * kept[..., None].astype(jnp.float32)


def _without(scores: jax.Array, operation: int | None) -> jax.Array:
    if operation is None:
        return scores
    return jnp.where(jnp.arange(scores.shape[-1]) == operation, jnp.asarray(-jnp.inf, scores.dtype), scores)
