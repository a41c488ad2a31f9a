"""What methods that fit weights to observed data act on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxcompress.core.leaf import CompressedArray, dense
from jaxcompress.core.moments import Matrices, Statistics, matrices_of, observed_paths, statistic_of
from jaxcompress.core.parts import Part, find_parts, require_finite
from jaxcompress.core.paths import Where, flatten_with_paths, matches, select


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A weight that met observed data.

    Attributes:
        path: its path.
        weight: its dense values, entries that are pruned already being zero.
        support: where it is not pruned yet; None if nowhere.
        layout: how it is read as matrices ``[features, outputs]``.
        stats: what was observed.
        method: name for errors.
        part: where its values stand in the tree: the leaf itself, or inside of a masked leaf (`parts.with_parts`).
    """

    path: str
    weight: jax.Array
    support: jax.Array | None
    layout: Matrices
    stats: Statistics
    method: str
    part: Part

    def statistic(self, name: str) -> jax.Array:
        """A mean, or an extreme, over the rows of data that met each matrix: ``[batch, features, ...]``."""
        return statistic_of(self.path, self.layout, self.stats, name, method=self.method)


def find_targets(
    params: Any,
    stats: Statistics,
    *,
    where: Where = None,
    settings: Any = None,
    method: str,
    name: str = "second_moment",
) -> list[Target]:
    """The weights that a method shall fit, in tree order.

    Args:
        params: tree of float arrays, or of leaves that say which of their entries are zero (masked ones).
        stats: what `jaxcompress.observe` found; it knows what the axes mean.
        where: which leaves; by default those that have the statistic ``name``.
        settings: if a dict from globs to settings, only the leaves that fit one of the globs.
        method: name for errors.
        name: the statistic that the method needs.

    Raises:
        ValueError: if nothing has that statistic, ``where`` or a glob fits nothing, a chosen leaf was not observed, is
            coded or factorized already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.
    """
    known = frozenset(observed_paths(stats, name))
    if not known:
        raise ValueError(f"{method}: stats hold no {name!r}: call jc.observe(fn, params, batches, what={name!r})")
    parts = find_parts(
        params,
        where=(lambda path, leaf: path in known) if where is None else where,
        settings=_observed_settings(params, settings, known, method) if where is None else settings,
        method=method,
    )
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    for part in parts:
        if part.fields and not _only_masks(leaves[part.path], part):
            raise ValueError(
                f"{method}: {part.name!r} is a factor, which meets other data than {part.path!r} did: materialize the "
                "leaf first (jc.materialize), or leave it out with where="
            )
    require_finite(parts, method)
    return [_target(part, stats, method) for part in parts]


def _observed_settings(params: Any, settings: Any, known: frozenset[str], method: str) -> Any:
    """The settings for what was observed: a glob may fit leaves that have their turn with other statistics."""
    if not isinstance(settings, Mapping):
        return settings
    for glob in settings:
        select(params, glob)
    fits = {glob: value for glob, value in settings.items() if any(matches(path, glob) for path in known)}
    if not fits:
        raise ValueError(f"{method}: no glob of {list(settings)} fits what was observed: {sorted(known)}")
    return fits


def _target(part: Part, stats: Statistics, method: str) -> Target:
    weight = dense(part.array)
    if part.support is not None:
        weight = jnp.where(part.support, weight, jnp.zeros_like(weight))
    layout = matrices_of(part.path, weight.shape, stats, method=method)
    return Target(part.path, weight, part.support, layout, stats, method, part)


def _only_masks(leaf: CompressedArray, part: Part) -> bool:
    """True if the part is what the leaf holds but for a mask: it meets the data that the leaf does."""
    rest = [field for name, field in leaf.components().items() if name != part.fields[0]]
    whole = len(part.fields) == 1 and part.array.shape == leaf.shape
    return whole and all(field.dtype == jnp.bool_ for field in rest)


def require_solved(targets: Sequence[Target], finite: Sequence[jax.Array]) -> None:
    """Raises ValueError if a concrete verdict on the result of a fit is False; says what to change."""
    for target, ok in zip(targets, finite, strict=True):
        if not isinstance(ok, Tracer) and not ok:
            raise ValueError(
                f"{target.method}: the second moment of the data at {target.path!r} is not positive definite (fewer "
                "rows than features, or features that depend on each other): raise damping=, or observe more data"
            )


def over_batch(fn: Callable[[Any], Any], arrays: Any) -> Any:
    """``fn`` of every matrix: in turn on a CPU (12 times faster for 35 sweeps of 64 x 64), side by side elsewhere.

    Example:
        >>> over_batch(lambda x: x + 1, jnp.arange(3)).tolist()
        [1, 2, 3]
    """
    if jax.tree.leaves(arrays)[0].shape[0] == 1:  # no loop to compile
        return jax.tree.map(lambda x: x[None], fn(jax.tree.map(lambda x: x[0], arrays)))
    return lax.platform_dependent(arrays, cpu=lambda x: lax.map(fn, x), default=lambda x: jax.vmap(fn)(x))


def support_or_all(target: Target) -> jax.Array:
    """Where a weight is not pruned yet, as an array."""
    return jnp.ones(target.weight.shape, bool) if target.support is None else target.support
