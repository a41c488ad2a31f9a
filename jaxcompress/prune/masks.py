"""Masks of many leaves at once: layer by layer, or together on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense
from jaxcompress.prune.layers import layer_count, over_layers
from jaxcompress.prune.masked import Masked
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import topk_mask, topk_masks


def drop_smallest(
    leaves: Sequence[ArrayOrLeaf],
    keep: Sequence[ArrayLike],
    *,
    stacks: Sequence[tuple[int, ...]],
    names: Sequence[str],
) -> list[Masked]:
    """Keeps the ``keep`` entries of largest absolute value in every leaf, or in every layer of a stacked one.

    Args:
        leaves: float arrays or leaves with one element per weight.
        keep: entries to keep, per leaf or per layer of a stacked leaf; may be traced.
        stacks: per leaf, the axes along which it holds separate layers, each pruned by itself (`layer_size`).
        names: what to call the leaves in errors.

    Raises:
        ValueError: if a leaf holds NaN or infinity (seen only outside ``jit``).
    """
    traced = any(isinstance(array, Tracer) for array in jax.tree.leaves(list(leaves)))
    batches = [range(len(leaves))] if traced else [[i] for i in range(len(leaves))]  # outside jit a program per shape
    masked: list[Masked] = []
    for batch in batches:
        counts = [jnp.asarray(keep[i], jnp.int32) for i in batch]
        results, finite = _drop_batch([leaves[i] for i in batch], counts, stacks=tuple(stacks[i] for i in batch))
        _check_finite(finite, [names[i] for i in batch])
        masked += results
    return masked


def drop_smallest_together(leaves: Sequence[ArrayOrLeaf], keep: ArrayLike, *, names: Sequence[str]) -> list[Masked]:
    """Keeps the ``keep`` entries of largest absolute value of all leaves together; among equals the earlier stays.

    Args:
        leaves: float arrays or leaves with one element per weight, fewer than 2^31 - 2^17 entries in total.
        keep: entries to keep; may be traced.
        names: what to call the leaves in errors.

    Raises:
        ValueError: as `drop_smallest`.
    """
    results, finite = _drop_together(list(leaves), jnp.asarray(keep, jnp.int32))
    _check_finite(finite, names)
    return results


@partial(jax.jit, static_argnames="stacks")
def _drop_batch(
    leaves: list[ArrayOrLeaf], keep: list[jax.Array], *, stacks: tuple[tuple[int, ...], ...]
) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    masks = keeping_placement(partial(layer_masks, stacks=stacks), scores, keep)
    return [_masked(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)], [_finite(s) for s in scores]


def layer_masks(
    scores: list[jax.Array], keep: list[jax.Array], *, stacks: tuple[tuple[int, ...], ...]
) -> list[jax.Array]:
    """Masks of the ``keep`` highest-scoring entries of every layer of each array by itself. Call it under ``jit``.

    Example:
        >>> layer_masks([jnp.array([[3.0, 1.0], [1.0, 2.0]])], [jnp.int32(1)], stacks=((0,),))[0].tolist()
        [[True, False], [False, True]]
    """
    counts = [
        jnp.broadcast_to(count, (layer_count(score.shape, stack),))
        for score, count, stack in zip(scores, keep, stacks, strict=True)
    ]
    return over_layers(topk_mask, [scores], [counts], stacks=stacks)


def masks_together(scores: list[jax.Array], keep: jax.Array) -> list[jax.Array]:
    """Masks of the ``keep`` highest-scoring entries of all arrays, of any float dtypes. Call it under ``jit``.

    Example:
        >>> [mask.tolist() for mask in masks_together([jnp.array([1.0, 3.0]), jnp.array([2.0])], jnp.int32(2))]
        [[False, True], [True]]
    """
    widest = max((score.dtype for score in scores), key=lambda dtype: dtype.itemsize)
    mixed = len({score.dtype for score in scores}) > 1 and widest.itemsize < 4  # bfloat16 and float16 meet in float32
    return keeping_placement(topk_masks, [s.astype(jnp.float32 if mixed else widest) for s in scores], keep)


@jax.jit
def _drop_together(leaves: list[ArrayOrLeaf], keep: jax.Array) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    masks = masks_together(scores, keep)
    return [_masked(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)], [_finite(s) for s in scores]


def _scores(leaf: ArrayOrLeaf) -> jax.Array:
    """Absolute values; -1 where the leaf is already pruned, so that those entries go first."""
    size = jnp.abs(dense(leaf))
    support = leaf.support() if isinstance(leaf, CompressedArray) else None
    return size if support is None else jnp.where(support, size, jnp.asarray(-1, size.dtype))


def _masked(leaf: ArrayOrLeaf, mask: jax.Array) -> Masked:
    support = leaf.support() if isinstance(leaf, CompressedArray) else None
    values = leaf.values if isinstance(leaf, Masked) else leaf
    return Masked.create(values, mask if support is None else mask & support)


def _finite(scores: jax.Array) -> jax.Array:
    return jnp.isfinite(scores).all()


def _check_finite(finite: Sequence[jax.Array], names: Sequence[str]) -> None:
    for ok, name in zip(finite, names, strict=True):
        if not isinstance(ok, Tracer) and not ok:
            raise ValueError(f"{name!r} holds NaN or infinity: there is no order of magnitude among its weights")
