"""Fine-tuning under masks that do not change."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import Where, flatten_with_paths, select
from jaxcompress.prune.mask_state import MaskState
from jaxcompress.train.selection import beside, require_params
from jaxcompress.train.zeroing import zero_dropped


class FixedState(NamedTuple):
    """State of `fixed_masks`: the masks, and the state of the wrapped optimizer."""

    masks: MaskState
    inner: optax.OptState


def fixed_masks(
    tx: optax.GradientTransformation, masks: Any = None, *, where: Where = None
) -> optax.GradientTransformationExtraArgs:
    """Keeps dropped weights exactly zero while ``tx`` trains the others.

    Nothing may change the updates afterwards: in `optax.chain` it is the last link.

    Args:
        tx: any optimizer.
        masks: a pruned tree, whose masked leaves give the masks; or bool arrays (True keeps) at the paths of the
            parameters. By default the zeros that the parameters hold at ``init`` are what is dropped.
        where: with ``masks=None``, the leaves whose zeros count; by default float leaves of two axes or more.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``, plain arrays.

    Raises:
        ValueError: at ``init``, if ``masks`` holds no mask, one of another shape than its parameter, or one at a path
            that the parameters do not have.

    Example:
        >>> import optax
        >>> params = {"w": jnp.array([[2.0, 0.0, 1.0]])}
        >>> tx = fixed_masks(optax.sgd(1.0))
        >>> updates, _ = tx.update({"w": jnp.ones((1, 3))}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].tolist()
        [[1.0, 0.0, 0.0]]

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626
    """
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> FixedState:
        found = _zeros_of(params, where) if masks is None else _given(params, masks)
        return FixedState(MaskState(beside(params, found)), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, FixedState]:
        require_params(params, "fixed_masks")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        return zero_dropped(updates, params, state.masks.masks), FixedState(state.masks, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _zeros_of(params: Any, where: Where) -> dict[str, jax.Array]:
    paths, leaves, _ = flatten_with_paths(params)
    chosen = set(select(params, where)) if leaves else set()
    return {path: leaf != 0 for path, leaf in zip(paths, leaves, strict=True) if path in chosen}


def _given(params: Any, masks: Any) -> dict[str, jax.Array]:
    paths, leaves, _ = flatten_with_paths(params)
    shapes = {path: leaf.shape for path, leaf in zip(paths, leaves, strict=True)}
    found = {}
    for path, leaf in zip(*flatten_with_paths(masks)[:2], strict=True):
        mask = leaf.support() if is_compressed(leaf) else leaf if leaf.dtype == jnp.bool_ else None
        if mask is None:
            continue
        if shapes and shapes.get(path) != mask.shape:
            raise ValueError(
                f"masks= has {mask.shape} at {path!r}, the parameters have {shapes.get(path, 'no such path')}"
            )
        found[path] = jnp.asarray(mask)
    if not found:
        raise ValueError("masks= holds no mask: give a pruned tree, or a tree of bool arrays (True keeps)")
    return found if shapes else {}
