"""Continuous relaxation: instead of one operation the mean of all, weighted by a softmax of architecture parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def start_alphas(key: jax.Array, shapes: Any, *, scale: float = 1e-3) -> Any:
    """Architecture parameters at the start: all but equal, normal with a small deviation (as the authors' code).

    Args:
        key: consumed.
        shapes: a tree of shapes ``(..., operations)``, e.g. ``{"cell": (6, 5)}``: six edges, five operations each.
        scale: the standard deviation.

    Returns:
        The same tree with float32 arrays.

    Example:
        >>> jax.tree.map(jnp.shape, start_alphas(jax.random.key(0), {"cell": (6, 5)}))
        {'cell': (6, 5)}
    """
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [scale * jax.random.normal(k, shape, jnp.float32) for k, shape in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, drawn)


def relax(alphas: Any) -> Any:
    """The mixture that each choice is: softmax over the last axis of every array.

    References:
        Liu et al., 2019, eq. 2. https://arxiv.org/abs/1806.09055
    """
    return jax.tree.map(lambda alpha: jax.nn.softmax(alpha, axis=-1), alphas)


def mixed(weights: jax.Array, results: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum of what the operations gave: ``sum_o weights[o] * results[o]``.

    Args:
        weights: ``[operations]``.
        results: of each operation, equal shapes. Zeros of an operation ``none`` count as any other.
    """
    total = weights[0].astype(results[0].dtype) * results[0]
    for weight, result in zip(weights[1:], results[1:], strict=True):
        total = total + weight.astype(result.dtype) * result
    return total


def doubt(alphas: Any) -> jax.Array:
    """How undecided the mixtures are: their mean entropy over that of equal weights, from 1 down to 0."""
    entropies = [
        -jnp.sum(p * jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)), axis=-1).reshape(-1)
        / jnp.log(jnp.asarray(max(p.shape[-1], 2), p.dtype))
        for p in jax.tree.leaves(relax(alphas))
    ]
    return jnp.mean(jnp.concatenate(entropies))
