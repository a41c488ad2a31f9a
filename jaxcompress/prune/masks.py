"""Masks of many leaves at once: layer by layer with same-shaped leaves batched, or together on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense
from jaxcompress.prune.masked import Masked
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import topk_mask, topk_masks

_LARGE = 1 << 17  # entries of a layer from which one after the other is faster: the passes then stay in the cache


def drop_smallest(
    leaves: Sequence[ArrayOrLeaf],
    keep: Sequence[ArrayLike],
    *,
    stacks: Sequence[tuple[int, ...]],
    names: Sequence[str],
) -> list[Masked]:
    """Keeps the ``keep`` entries of largest absolute value in every leaf. Same-shaped leaves are batched.

    Args:
        leaves: float arrays or leaves with one element per weight.
        keep: entries to keep, per leaf or per layer of a stacked leaf; may be traced.
        stacks: per leaf, the axes along which it holds separate layers, each pruned by itself (`layer_size`).
        names: what to call the leaves in errors.

    Raises:
        ValueError: if a leaf holds NaN or infinity (seen only outside ``jit``).
    """
    groups: dict[tuple[Any, Any, tuple[int, ...]], list[int]] = {}
    for i, (leaf, stack) in enumerate(zip(leaves, stacks, strict=True)):
        shapes = tuple((array.shape, array.dtype) for array in jax.tree.leaves(leaf))
        groups.setdefault((jax.tree.structure(leaf), shapes, stack), []).append(i)
    masked: dict[int, Masked] = {}
    for (_, _, stack), members in groups.items():
        traced = any(isinstance(leaf, Tracer) for i in members for leaf in jax.tree.leaves(leaves[i]))
        batches = [members] if traced else [[i] for i in members]  # outside jit one program serves them in turn
        for batch in batches:
            counts = jnp.stack([jnp.asarray(keep[i], jnp.int32) for i in batch])
            results, finite = _drop_batch([leaves[i] for i in batch], counts, stack=stack)
            _check_finite(finite, [names[i] for i in batch])
            masked.update(zip(batch, results, strict=True))
    return [masked[i] for i in range(len(leaves))]


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


def layer_size(shape: tuple[int, ...], stack: tuple[int, ...]) -> int:
    """Entries of one layer of a leaf that holds layers along the axes ``stack``.

    Example:
        >>> layer_size((12, 3, 4), (0,))
        12
    """
    return math.prod(size for axis, size in enumerate(shape) if axis not in stack)


@partial(jax.jit, static_argnames="stack")
def _drop_batch(
    leaves: list[ArrayOrLeaf], keep: jax.Array, *, stack: tuple[int, ...]
) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    masks = keeping_placement(partial(_layer_masks, stack=stack), scores, keep)
    return [_masked(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)], [_finite(s) for s in scores]


def _layer_masks(scores: list[jax.Array], keep: jax.Array, *, stack: tuple[int, ...]) -> list[jax.Array]:
    """Masks of same-shaped arrays, of every layer of each by itself."""
    front = tuple(range(len(stack)))
    moved = [jnp.moveaxis(score, stack, front) for score in scores]
    size, layers = layer_size(scores[0].shape, stack), math.prod(moved[0].shape[: len(stack)])
    rows = jnp.stack(moved).reshape(len(scores) * layers, size)
    keep = jnp.repeat(keep, layers)
    if size < _LARGE:
        stacked = jax.vmap(topk_mask)(rows, keep)
    else:
        stacked = jax.lax.map(lambda row: topk_mask(*row), (rows, keep))
    return [jnp.moveaxis(mask, front, stack) for mask in stacked.reshape(len(scores), *moved[0].shape)]


@jax.jit
def _drop_together(leaves: list[ArrayOrLeaf], keep: jax.Array) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    widest = max((score.dtype for score in scores), key=lambda dtype: dtype.itemsize)
    mixed = len({score.dtype for score in scores}) > 1 and widest.itemsize < 4  # bfloat16 and float16 meet in float32
    masks = keeping_placement(topk_masks, [s.astype(jnp.float32 if mixed else widest) for s in scores], keep)
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
