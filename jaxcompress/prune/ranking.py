"""The order in which weights go: their scores, what is pruned already first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense
from jaxcompress.core.parts import Part
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.scores.weight_scores import part_scores, require


def ranked(params: Any, parts: Sequence[Part], scores: Any = "l1") -> list[jax.Array]:
    """One score per entry of every part; higher stays. Entries that are pruned already have -inf, and go first.

    Args:
        params: the tree that the parts are of.
        parts: what a method acts on.
        scores: as in `jaxcompress.prune.weight_scores`.

    Returns:
        Float arrays of the shapes of the parts.

    Raises:
        ValueError: if ``scores`` does not fit, or weights or scores are not finite (seen only outside ``jit``); names
            the path.

    Example:
        >>> from jaxcompress.core.parts import find_parts
        >>> params = {"w": jc.prune.Masked.create(jnp.array([[1.0, -3.0]]), jnp.array([[False, True]]))}
        >>> ranked(params, find_parts(params, whole=lambda leaf: True))[0].tolist()
        [[-inf, 3.0]]
    """
    found, finite = _ranked([part.array for part in parts], part_scores(params, parts, scores))
    for part, ok in zip(parts, finite, strict=True):
        require(ok, part.name)
    return found


def masked_leaf(leaf: ArrayOrLeaf, mask: jax.Array) -> Masked:
    """A leaf under a mask; what it had dropped stays dropped.

    Example:
        >>> once = masked_leaf(jnp.array([1.0, 2.0, 3.0]), jnp.array([True, True, False]))
        >>> masked_leaf(once, jnp.array([False, True, True])).materialize().tolist()
        [0.0, 2.0, 0.0]
    """
    support = _support(leaf)
    return Masked.create(leaf.values if isinstance(leaf, Masked) else leaf, mask if support is None else mask & support)


def _support(leaf: ArrayOrLeaf) -> jax.Array | None:
    return leaf.support() if isinstance(leaf, CompressedArray) else None


@jax.jit
def _ranked(leaves: list[ArrayOrLeaf], scores: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
    finite = [
        jnp.isfinite(dense(leaf)).all() & jnp.isfinite(score).all() for leaf, score in zip(leaves, scores, strict=True)
    ]
    supports = [_support(leaf) for leaf in leaves]
    lowest = [jnp.asarray(-jnp.inf, score.dtype) for score in scores]
    together = zip(scores, supports, lowest, strict=True)
    return [s if support is None else jnp.where(support, s, low) for s, support, low in together], finite
