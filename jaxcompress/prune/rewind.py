"""Rewinding: pruned weights go back to values of an earlier time."""

from __future__ import annotations

from typing import Any

import jax

from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.prune.masked import Masked


def rewind(params: Any, initial: Any) -> Any:
    """Gives every array the value it had in ``initial``, under the masks that it has now.

    With the parameters before training this makes a lottery ticket; with those of an early step, weight rewinding.
    (Learning-rate rewinding keeps the weights and repeats the schedule only: it needs no function.)

    Args:
        params: a pruned tree: `Masked` leaves and plain arrays. Not changed.
        initial: the same tree at an earlier time; its leaves may be compressed.

    Returns:
        A tree like ``params``.

    Raises:
        ValueError: if a path is missing in ``initial``, or has another shape there.
        TypeError: if a leaf of ``params`` is neither masked nor plain, for what is coded has no value to go back to.

    Example:
        >>> trained = jc.prune.magnitude({"w": jnp.array([5.0, 1.0]), "b": jnp.ones(1)}, sparsity=0.5, where="w")
        >>> ticket = rewind(trained, {"w": jnp.array([0.25, 0.5]), "b": jnp.zeros(1)})
        >>> ticket["w"].materialize().tolist(), ticket["b"].tolist()
        ([0.25, 0.0], [0.0])

    References:
        Frankle and Carbin, 2019. https://arxiv.org/abs/1803.03635
        Frankle et al., 2020 (to an early step). https://arxiv.org/abs/1912.05671
        Renda et al., 2020 (weights or learning rate). https://arxiv.org/abs/2003.02389
    """
    paths, leaves, treedef = flatten_with_paths(params)
    earlier = dict(zip(*flatten_with_paths(initial)[:2], strict=True))
    return jax.tree.unflatten(treedef, [_rewound(p, leaf, earlier) for p, leaf in zip(paths, leaves, strict=True)])


def _rewound(path: str, leaf: Any, earlier: dict[str, Any]) -> Any:
    if path not in earlier:
        raise ValueError(f"initial has nothing at {path!r}: it must be the same tree at an earlier time")
    value = dense(earlier[path])
    if value.shape != leaf.shape:
        raise ValueError(f"{path!r} has shape {leaf.shape}, in initial {value.shape}")
    if isinstance(leaf, Masked):
        return Masked.create(value.astype(leaf.dtype), leaf.mask)
    if is_compressed(leaf):
        raise TypeError(f"{path!r} is a {leaf.kind} leaf: rewind before it is coded, or materialize it")
    return value.astype(leaf.dtype)
