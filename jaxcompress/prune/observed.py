"""What methods that fit weights to observed data act on, and the patterns they can be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.leaf import CompressedArray, dense
from jaxcompress.core.moments import Matrices, Statistics, matrices_of, observed_paths, statistic_of
from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at
from jaxcompress.core.paths import Where, matches, select
from jaxcompress.prune.masked import Masked


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
    """

    path: str
    weight: jax.Array
    support: jax.Array | None
    layout: Matrices
    stats: Statistics
    method: str

    def statistic(self, name: str) -> jax.Array:
        """A mean over the rows of data that met each matrix, ``[batch, features, ...]``."""
        return statistic_of(self.path, self.layout, self.stats, name, method=self.method)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What is to be dropped: a fraction, or all but ``n`` of every ``m`` neighbouring features.

    Attributes:
        sparsity: fraction to drop, a dict from globs over paths to that, or None.
        n: entries to keep of each group; None with ``sparsity``.
        m: length of a group.
    """

    sparsity: ArrayLike | Mapping[str, ArrayLike] | None
    n: ArrayLike | None
    m: int | None

    @classmethod
    def read(
        cls, method: str, sparsity: ArrayLike | Mapping[str, ArrayLike] | None, n: ArrayLike | None, m: int | None
    ) -> Pattern:
        """Checks the three arguments.

        Raises:
            ValueError: unless either ``sparsity`` or both ``n`` and ``m`` are given, ``n`` in ``[0, m]``.
        """
        if (sparsity is None) == (m is None) or (n is None) != (m is None):
            raise ValueError(
                f"{method}: give either sparsity= or both n= and m=, got sparsity={sparsity!r}, n={n!r}, m={m!r}"
            )
        if m is not None and (m < 1 or (not isinstance(n, Tracer) and not 0 <= int(np.asarray(n)) <= m)):
            raise ValueError(f"{method}: n must lie in [0, m] and m be 1 or more, got n={n!r}, m={m!r}")
        return cls(sparsity, n, m)

    @property
    def settings(self) -> Any:
        """What `find_targets` selects by: the dict of globs, if there is one."""
        return self.sparsity if isinstance(self.sparsity, Mapping) else None

    def at(self, target: Target) -> ArrayLike:
        """The sparsity of one weight (without N:M)."""
        return setting_at(self.sparsity, target.path)

    def check_fits(self, target: Target) -> None:
        """Raises ValueError if groups of ``m`` neighbours do not divide the input features of a weight."""
        neighbours = target.layout.feature_sizes[-1]
        if self.m is not None and neighbours % self.m:
            raise ValueError(
                f"{target.method}: m={self.m} does not divide the {neighbours} input features of {target.path!r} "
                f"(shape {target.weight.shape}): leave it out with where="
            )


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
        params: tree of float arrays, or `Masked` leaves of them.
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
        whole=_is_plain_masked,
    )
    for part in parts:
        if part.fields:
            raise ValueError(
                f"{method}: {part.name!r} is a factor, which meets other data than {part.path!r} did: materialize the "
                "leaf first (jc.materialize), or leave it out with where="
            )
    require_finite([dataclasses.replace(part, array=dense(part.array)) for part in parts], method)
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
    support = part.array.support() if isinstance(part.array, CompressedArray) else None
    layout = matrices_of(part.path, weight.shape, stats, method=method)
    return Target(part.path, weight, support, layout, stats, method)


def _is_plain_masked(leaf: CompressedArray) -> bool:
    return isinstance(leaf, Masked) and not isinstance(leaf.values, CompressedArray)


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
    return lax.platform_dependent(arrays, cpu=lambda x: lax.map(fn, x), default=lambda x: jax.vmap(fn)(x))


def support_or_all(target: Target) -> jax.Array:
    """Where a weight is not pruned yet, as an array."""
    return jnp.ones(target.weight.shape, bool) if target.support is None else target.support
