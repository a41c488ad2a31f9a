"""The end of pruning in training: plain arrays and masks in the optimizer state become masked leaves."""

from __future__ import annotations

from typing import Any

from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.prune.mask_state import masks_of
from jaxcompress.prune.masked import Masked


def finish(params: Any, opt_state: Any) -> Any:
    """Turns the parameters of a pruned training run into `Masked` leaves.

    Args:
        params: the tree that was trained, or an average of it.
        opt_state: the state of its optimizer, which holds the masks.

    Returns:
        ``params`` with a `Masked` leaf wherever there is a mask.

    Raises:
        ValueError: if ``opt_state`` holds no masks.
        KeyError: if a mask belongs to a path that ``params`` does not have.

    Example:
        >>> import optax
        >>> params = {"w": jnp.array([[3.0, 1.0]])}
        >>> tx = jc.train.gradual_pruning(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=0)
        >>> updates, state = tx.update({"w": jnp.zeros((1, 2))}, tx.init(params), params)
        >>> finish(optax.apply_updates(params, updates), state)["w"].materialize().tolist()
        [[3.0, 0.0]]
    """
    masks = masks_of(opt_state)
    paths, leaves, _ = flatten_with_paths(params)
    by_path = dict(zip(paths, leaves, strict=True))
    changes = {path: Masked.create(by_path[path], mask) for path, mask in masks.items() if path in by_path}
    return replace_at(params, changes | {path: mask for path, mask in masks.items() if path not in by_path})
