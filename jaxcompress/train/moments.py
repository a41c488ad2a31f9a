"""Moments of an optimizer, found by the structure of its state and never by its type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_leaves_with_path, tree_map_with_path


def reset_moments(state: Any, fresh: Any, params: Any, keep: Any) -> Any:
    """The state in which all that belongs to single weights starts anew where ``keep`` is False.

    Every subtree of ``state`` with the structure of ``params`` (leaves may be missing, as below `optax.masked`) holds
    something per parameter; of its float arrays those with the parameter's shape hold something per weight: first and
    second moments, accumulated gradients, averages. What is shared by rows or whole arrays (the factored moments of
    Adafactor, step counts) stays.

    Args:
        state: state of any optimizer.
        fresh: what its ``init`` gives: a moment that begins at 0.1 begins there again.
        params: the parameters.
        keep: tree of the structure of ``params``: bool arrays, `optax.MaskedNode` where everything is kept.

    Example:
        >>> import optax
        >>> tx, params = optax.trace(0.9), {"w": jnp.ones(2), "b": jnp.ones(1)}
        >>> state = optax.TraceState({"w": jnp.array([3.0, 4.0]), "b": jnp.array([5.0])})
        >>> keep = {"w": jnp.array([True, False]), "b": optax.MaskedNode()}
        >>> after = reset_moments(state, tx.init(params), params, keep).trace
        >>> after["w"].tolist(), after["b"].tolist()
        ([3.0, 0.0], [5.0])
    """
    known = {tuple(keys) for keys, _ in tree_leaves_with_path(params)}
    masks = {tuple(keys): mask for keys, mask in tree_leaves_with_path(keep)}

    def is_parallel(node: Any) -> bool:
        paths = [tuple(keys) for keys, _ in tree_leaves_with_path(node)]
        return bool(paths) and known.issuperset(paths)

    def reset(keys: Any, now: Any, start: Any) -> Any:
        mask = masks.get(tuple(keys))
        if mask is None or now.shape != mask.shape or not jnp.issubdtype(now.dtype, jnp.floating):
            return now
        return jnp.where(mask, now, jnp.asarray(start, now.dtype))

    def visit(node: Any, start: Any) -> Any:
        return tree_map_with_path(reset, node, start) if is_parallel(node) else node

    return jax.tree.map(visit, state, fresh, is_leaf=is_parallel)
