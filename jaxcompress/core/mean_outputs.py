"""Biases that take up the mean of what a change of weights did to the outputs; which indices of an axis stay."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.moments import Matrices, Statistics, observed_paths
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.targets import Target, find_targets

Keep = Mapping[tuple[str, int], ArrayLike]


def with_mean_outputs(
    params: Any,
    changed: Any,
    stats: Statistics,
    *,
    biases: Mapping[str, str] | None = None,
    keep: Keep | None = None,
    where: Where = None,
    method: str,
    argument: str = "changed",
) -> Any:
    """Adds to the biases what the outputs lost on average: ``b + E[x] (W - V)``.

    Args:
        params: the dense tree.
        changed: what a method made of it. Not changed.
        stats: of `jaxcompress.observe` of the dense model, with ``mean``.
        biases: path of the bias that is added to a weight's outputs, by the weight's path. By default the leaf
            ``bias``, ``b`` or ``offset`` beside it.
        keep: kept indices by (path, axis): outputs that it drops get no bias.
        where: weights to compensate for; by default all that are observed and that were changed.
        method: name for errors.
        argument: name of ``changed`` for errors.

    Raises:
        ValueError: if a weight has no bias of the shape of its outputs, no weight was changed, or the weights hold NaN
            or infinity.
    """
    paths, leaves, _ = flatten_with_paths(changed)
    after = dict(zip(paths, leaves, strict=True))
    before = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    known = [path for path in observed_paths(stats, "mean") if after.get(path) is not before.get(path)]
    chosen = set(known) if where is None else set(select(params, where))
    if not chosen:
        raise ValueError(f"{method}: {argument} has no observed weight that differs from params")
    targets = find_targets(params, stats, where=lambda path, leaf: path in chosen, method=method, name="mean")
    changes: dict[str, jax.Array] = {}
    for target in targets:
        path = _bias_path(target, after, biases)
        bias: Any = changes.get(path, after[path])
        lost = _lost(target.weight, dense(after[target.path]), target.statistic("mean"), layout=target.layout)
        lost = lost.reshape(
            [target.weight.shape[axis] for axis in (*target.layout.roles.stack, *target.layout.roles.output)]
        )
        for axis, kept in kept_along(target, keep, target.layout.roles.output).items():
            at = (*target.layout.roles.stack, *target.layout.roles.output).index(axis)
            lost = jnp.where(
                jnp.expand_dims(kept, [i for i in range(lost.ndim) if i != at]), lost, jnp.zeros_like(lost)
            )
        changes[path] = bias + lost.reshape(bias.shape).astype(bias.dtype)
    return replace_at(changed, changes)


def kept_along(target: Target, keep: Keep | None, axes: Sequence[int]) -> dict[int, jax.Array]:
    """Of those axes of a weight that ``keep`` names, which indices stay: a bool array by axis.

    Raises:
        ValueError: if an index lies outside of its axis.
    """
    found = {}
    for (path, axis), indices in (keep or {}).items():
        if path != target.path or axis not in axes:
            continue
        size, kept = target.weight.shape[axis], np.asarray(indices)
        if kept.size and not (kept.min() >= 0 and kept.max() < size):
            raise ValueError(f"{target.method}: keep= has indices outside of axis {axis} of {path!r}, which has {size}")
        found[axis] = jnp.asarray(np.isin(np.arange(size), kept))
    return found


@functools.partial(jax.jit, static_argnames="layout")
def _lost(weight: jax.Array, left: jax.Array, mean: jax.Array, *, layout: Matrices) -> jax.Array:
    """The mean output of what was removed, ``[batch, outputs]``."""
    wide = wider(weight.dtype, jnp.float32)
    difference = layout.split(weight.astype(wide) - left.astype(wide))
    return jnp.einsum("bf,bfo->bo", mean.astype(wide), difference, precision=lax.Precision.HIGHEST)


def find_bias(target: Target, leaves: Mapping[str, Any], biases: Mapping[str, str] | None = None) -> str | None:
    """The bias that is added to a weight's outputs, None if there is none.

    Args:
        target: the weight.
        leaves: of the tree, by path.
        biases: as for `with_mean_outputs`.
    """
    size = np.prod(_outputs(target), dtype=int)
    for path in _candidates(target, biases):
        if path in leaves and not is_compressed(leaves[path]) and leaves[path].size == size:
            return path
    return None


def _bias_path(target: Target, leaves: Mapping[str, Any], biases: Mapping[str, str] | None) -> str:
    """The bias that is added to a weight's outputs."""
    path = find_bias(target, leaves, biases)
    if path is None:
        raise ValueError(
            f"{target.method}: found no bias of shape {_outputs(target)} for {target.path!r} at "
            f"{_candidates(target, biases)}: name it in biases=, or leave the weight out with where="
        )
    return path


def _outputs(target: Target) -> tuple[int, ...]:
    roles = target.layout.roles
    return tuple(target.weight.shape[axis] for axis in (*roles.stack, *roles.output))


def _candidates(target: Target, biases: Mapping[str, str] | None) -> list[str]:
    given = (biases or {}).get(target.path)
    folder = target.path.rpartition("/")[0]
    return [given] if given else [f"{folder}/{name}".lstrip("/") for name in ("bias", "b", "offset")]
