"""Where a training run keeps its masks: a node in the optimizer state that can be found again."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxcompress.core.paths import flatten_with_paths


class MaskState(NamedTuple):
    """Masks inside an optimizer state, however deeply it is nested.

    Attributes:
        masks: tree of the structure of the parameters: bool arrays (True keeps), `optax.MaskedNode` at leaves that are
            not pruned.
    """

    masks: Any


def masks_of(opt_state: Any) -> dict[str, jax.Array]:
    """The masks that a training run holds, by the path of the parameter.

    Args:
        opt_state: state of any optimizer built with a pruning transformation of `jaxcompress.train`
            (``gradual_pruning``, ``rigl``, ``fixed_masks``, ...), nested in any other transformation.

    Returns:
        Bool arrays; True keeps. Where two transformations prune one parameter, what both keep.

    Raises:
        ValueError: if the state holds no masks.

    Example:
        >>> state = (MaskState({"w": jnp.array([True, False])}), "state of another transformation")
        >>> {path: mask.tolist() for path, mask in masks_of(state).items()}
        {'w': [True, False]}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, MaskState))
    states = [node for node in nodes if isinstance(node, MaskState)]
    if not states:
        raise ValueError(
            "opt_state holds no masks: wrap the optimizer in jaxcompress.train.gradual_pruning, rigl or the like; "
            "after a checkpoint, restore against tx.init(params): without a target the types of the state are lost"
        )
    found: dict[str, jax.Array] = {}
    for state in states:
        paths, masks, _ = flatten_with_paths(state.masks)
        for path, mask in zip(paths, masks, strict=True):
            found[path] = found[path] & mask if path in found else mask
    return found
