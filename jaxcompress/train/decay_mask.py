"""Which parameters weight decay should reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray
from jaxcompress.core.paths import flatten_with_paths, is_weight

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def decay_mask(params: Any, *, sites: Sites | None = None) -> Any:
    """Marks what weight decay should shrink: weights, and the factors or values that a compressed weight trains.

    Biases, norm scales, codebooks, quantization scales and ranges do not decay: a scale that decays changes every
    weight that it serves.

    Args:
        params: tree of arrays or leaves.
        sites: what `jaxcompress.sites` found; then weights are what it shows as such. Without it, float leaves of two
            axes or more (which takes the stacked norm scales of a scanned model for weights).

    Returns:
        A tree of Python bools, one per array of ``params``, as the ``mask`` of `optax.adamw` and
        `optax.add_decayed_weights`. Make it from the whole tree, before `jaxcompress.split_trainable`.

    Example:
        >>> decay_mask({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
        {'bias': False, 'kernel': True}
    """
    weights = None if sites is None else frozenset(sites.weights())
    paths, leaves, treedef = flatten_with_paths(params)
    flags = [
        _flags(leaf, is_weight(path, leaf) if weights is None else path in weights)
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, flags)


def _flags(leaf: ArrayOrLeaf, decays: bool) -> Any:
    if not isinstance(leaf, CompressedArray):
        return decays
    spanning = _spanning_fields(leaf) if decays else frozenset()
    return leaf.replace(**{name: _flags(field, name in spanning) for name, field in leaf.components().items()})


def _spanning_fields(leaf: CompressedArray) -> frozenset[str]:
    """The trained fields that hold the weight itself: one with an element per weight, else factors that span its axes.

    A codebook or scale spans no axis in full, or only axes that other fields span with it.
    """
    spans = {
        name: {axis for axis, size in zip(axes, getattr(leaf, name).shape, strict=True) if _covers(leaf, axis, size)}
        for name, axes in leaf.alignment().items()
        if name in leaf.trainable and jnp.issubdtype(getattr(leaf, name).dtype, jnp.floating)
    }
    every = set(range(leaf.ndim))
    whole = {name for name, span in spans.items() if span == every}
    factors = {name for name in spans if getattr(leaf, name).ndim >= 2}
    together = set().union(*(spans[name] for name in factors)) if factors else set()
    return frozenset(whole or (factors if together == every else ()))


def _covers(leaf: CompressedArray, axis: int | None, size: int) -> bool:
    return axis is not None and size == leaf.shape[axis]
