"""Which variables of shared weights gradients move."""

from __future__ import annotations

from typing import Any

from jaxcompress.core.paths import Where
from jaxcompress.core.tree import split_trainable


def split_shared(params: Any, where: Where = None) -> tuple[Any, Any]:
    """What gradients move, and what stays: by default running statistics do, which subnets do not share.

    Args:
        params: all variables.
        where: the leaves that train; default all float ones outside of a ``batch_stats`` collection.

    Returns:
        The two halves, as of `jaxcompress.split_trainable`; `jaxcompress.merge` puts them together.

    Example:
        >>> trained, still = split_shared({"params": {"gain": jnp.ones(1)}, "batch_stats": {"mean": jnp.zeros(1)}})
        >>> jax.tree.leaves(trained), jax.tree.leaves(still)
        ([Array([1.], dtype=float32)], [Array([0.], dtype=float32)])
    """
    return split_trainable(params, where=where or (lambda path, _: "batch_stats" not in path.split("/")))
