"""How pruned weights stay zero under any optimizer: the last update of a dropped entry is minus its value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.paths import flatten_with_paths


def zero_dropped(updates: Any, params: Any, masks: Any) -> Any:
    """Replaces the updates of dropped entries by ``-p``, so that ``p + update`` is exactly ``+0.0``.

    The update gets a dtype that holds ``-p`` without rounding.

    Args:
        updates: tree of the structure of ``params``.
        params: the parameters that the updates will be added to.
        masks: tree of the structure of ``params``: bool arrays, `optax.MaskedNode` where nothing is dropped.
    """
    _, leaves, treedef = flatten_with_paths(params)
    columns = zip(treedef.flatten_up_to(updates), leaves, treedef.flatten_up_to(masks), strict=True)
    return jax.tree.unflatten(treedef, [u if is_hole(mask) else _zeroing(u, p, mask) for u, p, mask in columns])


def summed(params: Any, updates: Any) -> Any:
    """What `optax.apply_updates` will make of the two."""
    return jax.tree.map(_sum, params, updates)


def is_hole(mask: Any) -> bool:
    """True for the placeholder of a leaf that is not pruned."""
    return isinstance(mask, optax.MaskedNode)


def _sum(param: jax.Array, update: jax.Array) -> jax.Array:
    dtype = sum_dtype(update, param)
    return (param.astype(dtype) + update.astype(dtype)).astype(param.dtype)


def sum_dtype(update: jax.Array, param: jax.Array) -> jnp.dtype:
    """The dtype in which `optax.apply_updates` adds the two."""
    return jnp.promote_types(update.dtype, param.dtype)


def _zeroing(update: jax.Array, param: jax.Array, mask: jax.Array) -> jax.Array:
    dtype = sum_dtype(update, param)
    return jnp.where(mask, update.astype(dtype), -param.astype(dtype))
