"""Random masks of exact counts: where sparse training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.parts import Part, setting_at
from jaxcompress.prune.allocation.rules import erk
from jaxcompress.prune.layers import layer_count, layer_size, over_layers
from jaxcompress.solvers.topk import kept_count, topk_mask
from jaxcompress.train.selection import Selection

Allocation = Literal["erk", "uniform"]


def layer_sparsities(
    params: Any, selection: Selection, *, sparsity: float | Mapping[str, float], allocation: Allocation
) -> dict[str, float]:
    """The sparsity of every chosen leaf, by path.

    Args:
        params: tree of plain arrays.
        selection: which leaves.
        sparsity: of all chosen entries together; or a dict from globs to fractions, which says all by itself.
        allocation: ``"erk"`` gives small layers a higher density, ``"uniform"`` all the same.

    Example:
        >>> params = {"wide": jnp.ones((100, 100)), "thin": jnp.ones((100, 10))}
        >>> layer_sparsities(params, Selection("rigl"), sparsity=0.9, allocation="uniform")
        {'thin': 0.9, 'wide': 0.9}
    """
    parts = selection.parts(params)
    if isinstance(sparsity, Mapping):
        return {part.path: float(setting_at(sparsity, part.path)) for part in parts}
    if not parts or allocation == "uniform":
        return {part.path: sparsity for part in parts}
    return dict(erk(params, sparsity=sparsity, where=selection.where, sites=selection.sites))


def random_masks(parts: Sequence[Part], sparsities: Mapping[str, float], key: jax.Array) -> dict[str, jax.Array]:
    """Masks by path that drop exactly ``round(sparsity * size)`` random entries of every layer.

    Args:
        parts: the leaves.
        sparsities: fraction to drop, by path.
        key: a typed key; consumed.

    Example:
        >>> parts = Selection("rigl").parts({"w": jnp.ones((4, 4))})
        >>> int(random_masks(parts, {"w": 0.75}, jax.random.key(0))["w"].sum())
        4
    """
    if not parts:
        return {}
    stacks = tuple(part.stack for part in parts)
    kept = [kept_count(layer_size(part.array.shape, part.stack), sparsities[part.path]) for part in parts]
    shapes = tuple(tuple(part.array.shape) for part in parts)
    masks = _draw([jnp.asarray(count, jnp.int32) for count in kept], key, shapes=shapes, stacks=stacks)
    return {part.path: _like(mask, part.array) for part, mask in zip(parts, masks, strict=True)}


def layer_keys(key: jax.Array, counts: Sequence[int]) -> list[jax.Array]:
    """A key for every layer of every leaf: per leaf an array of as many keys as it has layers.

    Example:
        >>> [keys.shape for keys in layer_keys(jax.random.key(0), [1, 3])]
        [(1,), (3,)]
    """
    return jnp.split(jax.random.split(key, sum(counts)), np.cumsum(counts)[:-1].tolist())


@partial(jax.jit, static_argnames=("shapes", "stacks"))
def _draw(
    kept: list[jax.Array], key: jax.Array, *, shapes: tuple[tuple[int, ...], ...], stacks: tuple[tuple[int, ...], ...]
) -> list[jax.Array]:
    counts = [layer_count(shape, stack) for shape, stack in zip(shapes, stacks, strict=True)]
    keep = [jnp.broadcast_to(count, (n,)) for count, n in zip(kept, counts, strict=True)]
    blank = [jnp.zeros(shape, bool) for shape in shapes]
    return over_layers(_random_mask, [blank], [keep, layer_keys(key, counts)], stacks=stacks)


def _random_mask(layer: jax.Array, keep: jax.Array, key: jax.Array) -> jax.Array:
    return topk_mask(jax.random.uniform(key, layer.shape), keep)


def _like(mask: jax.Array, array: Any) -> jax.Array:
    """The mask where the array is (what the key alone determines has no place of its own)."""
    if isinstance(mask, Tracer) or isinstance(array, Tracer) or array.sharding == mask.sharding:
        return mask
    return jax.device_put(mask, array.sharding)
