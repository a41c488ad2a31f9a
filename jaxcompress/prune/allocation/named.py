"""The rules by name: how many entries each layer keeps when so many stay of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax

from jaxcompress.prune.allocation.layers import Layer
from jaxcompress.prune.allocation.ranks import ranked_counts
from jaxcompress.prune.allocation.rules import erk_counts, uniform_counts
from jaxcompress.prune.ranking import ranked

NamedRule = Literal["uniform", "erk", "global", "lamp"]
NAMED_RULES: tuple[str, ...] = get_args(NamedRule)


def counts_by(
    rule: NamedRule, params: Any, layers: Sequence[Layer], scores: Sequence[jax.Array] | Any
) -> Callable[[int], list[int]]:
    """The counts of a rule as a function of the total.

    Args:
        rule: one of `NAMED_RULES`.
        params: the tree that the layers are of.
        layers: what the total is shared over.
        scores: what ``"global"`` compares: one array per layer, or as in `jaxcompress.prune.weight_scores`.

    Example:
        >>> from jaxcompress.prune.allocation.layers import find_layers
        >>> params = {"a": jnp.ones((2, 2)), "b": jnp.arange(4.0).reshape(2, 2)}
        >>> counts_by("global", params, find_layers(params), "l1")(3)
        [1, 2]
    """
    if rule == "uniform":
        return partial(uniform_counts, layers)
    if rule == "erk":
        return partial(erk_counts, layers)
    parts = [layer.part for layer in layers]
    given = rule == "global" and isinstance(scores, list)
    found = scores if given else ranked(params, parts, "lamp" if rule == "lamp" else scores)
    return partial(ranked_counts, layers, found)
