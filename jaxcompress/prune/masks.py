"""Masks of many leaves at once: layer by layer with same-shaped leaves batched, or together on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.core.leaf import ArrayOrLeaf, dense, is_compressed
from jaxcompress.prune.masked import Masked
from jaxcompress.solvers.topk import kept_count, topk_mask, topk_masks


def drop_smallest(
    leaves: Sequence[ArrayOrLeaf],
    fractions: Sequence[ArrayLike],
    *,
    stacks: Sequence[tuple[int, ...]],
    names: Sequence[str],
) -> list[Masked]:
    """Drops the given fraction of every leaf: its entries of smallest absolute value. Same-shaped leaves are batched.

    Args:
        leaves: float arrays or leaves with one element per weight.
        fractions: sparsity per leaf; may be traced.
        stacks: per leaf, the axes along which it holds separate layers, each dropped from by itself.
        names: what to call the leaves in errors.

    Raises:
        ValueError: if a fraction is outside ``[0, 1]``, or a leaf holds NaN or infinity (seen only outside ``jit``).
    """
    groups: dict[object, list[int]] = {}
    for i, (leaf, stack) in enumerate(zip(leaves, stacks, strict=True)):
        shapes = tuple((array.shape, array.dtype) for array in jax.tree.leaves(leaf))
        groups.setdefault((jax.tree.structure(leaf), shapes, stack), []).append(i)
    masked: dict[int, Masked] = {}
    for (_, _, stack), members in groups.items():
        layer_size = leaves[members[0]].size // max(1, _layers(leaves[members[0]].shape, stack))
        keep = jnp.stack([jnp.asarray(kept_count(layer_size, fractions[i]), jnp.int32) for i in members])
        results, finite = _drop_batch([leaves[i] for i in members], keep, stack=stack)
        _check_finite(finite, [names[i] for i in members])
        masked.update(zip(members, results, strict=True))
    return [masked[i] for i in range(len(leaves))]


def drop_smallest_together(leaves: Sequence[ArrayOrLeaf], fraction: ArrayLike, *, names: Sequence[str]) -> list[Masked]:
    """Drops the given fraction of all leaves taken together; among equals the earlier leaf stays.

    Args:
        leaves: float arrays or leaves with one element per weight, below 2^31 entries in total.
        fraction: sparsity; may be traced.
        names: what to call the leaves in errors.

    Raises:
        ValueError: as `drop_smallest`.
    """
    total = sum(leaf.size for leaf in leaves)
    results, finite = _drop_together(list(leaves), jnp.asarray(kept_count(total, fraction), jnp.int32))
    _check_finite(finite, names)
    return results


@partial(jax.jit, static_argnames="stack")
def _drop_batch(
    leaves: list[ArrayOrLeaf], keep: jax.Array, *, stack: tuple[int, ...]
) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    front = tuple(range(len(stack)))
    rows = jnp.stack([jnp.moveaxis(score, stack, front).reshape(_layers(score.shape, stack), -1) for score in scores])
    stacked = jax.vmap(jax.vmap(topk_mask, in_axes=(0, None)))(rows, keep)  # [leaves, layers, layer size]
    moved = [scores[0].shape[axis] for axis in stack]
    moved += [size for axis, size in enumerate(scores[0].shape) if axis not in stack]
    masks = [jnp.moveaxis(mask.reshape(moved), front, stack) for mask in stacked]
    return [_masked(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)], [_finite(s) for s in scores]


@jax.jit
def _drop_together(leaves: list[ArrayOrLeaf], keep: jax.Array) -> tuple[list[Masked], list[jax.Array]]:
    scores = [_scores(leaf) for leaf in leaves]
    widest = max((score.dtype for score in scores), key=lambda dtype: dtype.itemsize)
    mixed = len({score.dtype for score in scores}) > 1 and widest.itemsize < 4  # bfloat16 and float16 meet in float32
    masks = topk_masks([score.astype(jnp.float32 if mixed else widest) for score in scores], keep)
    return [_masked(leaf, mask) for leaf, mask in zip(leaves, masks, strict=True)], [_finite(s) for s in scores]


def _scores(leaf: ArrayOrLeaf) -> jax.Array:
    """Absolute values; -1 where the leaf is already pruned, so that those entries go first."""
    size = jnp.abs(dense(leaf))
    support = leaf.support() if is_compressed(leaf) else None
    return size if support is None else jnp.where(support, size, jnp.asarray(-1, size.dtype))


def _masked(leaf: ArrayOrLeaf, mask: jax.Array) -> Masked:
    support = leaf.support() if is_compressed(leaf) else None
    values = leaf.values if isinstance(leaf, Masked) else leaf
    return Masked.create(values, mask if support is None else mask & support)


def _finite(scores: jax.Array) -> jax.Array:
    return jnp.isfinite(scores).all()


def _layers(shape: tuple[int, ...], stack: tuple[int, ...]) -> int:
    layers = 1
    for axis in stack:
        layers *= shape[axis]
    return layers


def _check_finite(finite: Sequence[jax.Array], names: Sequence[str]) -> None:
    for ok, name in zip(finite, names, strict=True):
        if not isinstance(ok, jax.core.Tracer) and not ok:
            raise ValueError(f"{name!r} holds NaN or infinity: there is no order of magnitude among its weights")
