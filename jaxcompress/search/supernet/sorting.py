"""The units of a network in the order of their importance, for supernets whose subnets take the first ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.groups import Group
from jaxcompress.core.groups import groups as find_groups
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.core.sites import sites as find_sites
from jaxcompress.prune.scores.aggregate import Aggregate
from jaxcompress.search.supernet.depths import numbers
from jaxcompress.search.supernet.widths import ranked

_L1 = Aggregate("l1", normalize=None)


def sorted_by_importance(
    fn: Callable[..., Any], params: Any, *inputs: Any, scores: Any = _L1, tolerance: float = 1e-4, **kwargs: Any
) -> Any:
    """Moves the units of every group so that the most important come first; the whole network stays what it is.

    Once-for-All does so before less width is trained, since elastic layers keep the first channels. (`Supernet` needs
    it not: it knows the order.) That a group can be permuted is tried: where the results on some numbers change, as
    where channels are shuffled between parts, the group stays as it is.

    Args:
        fn: a function that ``jit`` accepts, the whole network in evaluation mode.
        params: its first argument: all variables; concrete, dense.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        scores: of units, as for `jaxcompress.prune.channels`.
        tolerance: largest difference of results that counts as none, relative to their largest magnitude.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The tree with permuted leaves.

    Example:
        >>> fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> params = {"a": jnp.array([[1.0, 3.0, 2.0]]), "b": jnp.ones((3, 1))}
        >>> sorted_by_importance(fn, params, jnp.ones((1, 1)))["a"].tolist()
        [[3.0, 2.0, 1.0]]

    References:
        Cai et al., 2020, section 3.3 (channel sorting). https://arxiv.org/abs/1908.09791
    """
    found = find_groups(fn, params, *inputs, **kwargs)
    if not len(found):
        return params
    order = ranked(found, params, scores=scores, sites=find_sites(fn, params, *inputs, **kwargs))
    inputs, kwargs = jax.tree.map(numbers, (inputs, kwargs))
    run = jax.jit(lambda params: jax.tree.leaves(fn(params, *inputs, **kwargs)))
    wanted = run(params)
    for group in found:
        moved = _permuted(params, group, order[group.index])
        if all(_equal(a, b, tolerance) for a, b in zip(run(moved), wanted, strict=True)):
            params = moved
    return params


def _permuted(params: Any, group: Group, order: np.ndarray) -> Any:
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    changes: dict[str, Any] = {}
    for member in group.members:
        leaf = changes.get(member.path, leaves[member.path])
        places = np.arange(leaf.shape[member.axis])
        places[member.positions] = member.positions[order]
        changes[member.path] = jnp.take(leaf, places, axis=member.axis)
    return replace_at(params, changes)


def _equal(ours: jax.Array, theirs: jax.Array, tolerance: float) -> bool:
    if not jnp.issubdtype(theirs.dtype, jnp.inexact):
        return bool(jnp.all(ours == theirs))
    return bool(jnp.max(jnp.abs(ours - theirs)) <= tolerance * jnp.max(jnp.abs(theirs)))
