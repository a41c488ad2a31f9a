"""What a compression method acts on: the chosen leaves of a tree, and inside compressed leaves the float fields.

A method that meets a masked leaf changes its values and keeps the mask; one that meets a low-rank leaf changes both
factors. Which fields those are, and what their axes mean, follows from the leaf protocol alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray
from jaxcompress.core.paths import Where, flatten_with_paths, is_weight, matches, replace_at, select
from jaxcompress.core.roles import Roles as Roles

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What a method may replace: a float array of a tree, or inside a compressed leaf; a leaf that it takes whole.

    Attributes:
        path: path of the leaf.
        fields: names of the fields that lead from the leaf to the array; empty if it is the leaf itself.
        array: the array or leaf.
        support: bool array of its shape, False where an entry is pruned; None if none is.
        roles: of its axes; None where neither ``sites`` nor the number of axes tells.
    """

    path: str
    fields: tuple[str, ...]
    array: ArrayOrLeaf
    support: jax.Array | None
    roles: Roles | None

    @property
    def name(self) -> str:
        """Path and fields, ``/``-joined."""
        return "/".join((self.path, *self.fields))

    @property
    def stack(self) -> tuple[int, ...]:
        """Axes along which it holds separate layers; none where the roles are not known."""
        return () if self.roles is None else self.roles.stack

    def known_roles(self, method: str) -> Roles:
        """The roles, for a method that cannot do without.

        Raises:
            ValueError: if they are not known; says how to make them known.
        """
        if self.roles is None:
            raise ValueError(
                f"{method}: what the axes of {self.name!r} (shape {self.array.shape}) mean is not known. Only kernels "
                "of two axes are read as (in, out); for others pass sites=jc.sites(fn, params, *inputs)"
            )
        if not self.roles.contracting:
            raise ValueError(f"{method}: {self.name!r} meets no contraction: leave it out of where=")
        return self.roles


def find_parts(
    params: Any,
    *,
    where: Where = None,
    sites: Sites | None = None,
    settings: Any = None,
    method: str = "method",
    whole: Callable[[CompressedArray], bool] | None = None,
) -> list[Part]:
    """The parts of a tree that a method shall change, in tree order.

    Args:
        params: tree of arrays or leaves.
        where: which leaves; None takes what ``sites`` show as weights, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.
        settings: if a dict from globs to settings, only the leaves that fit one of the globs.
        method: name for errors.
        whole: which compressed leaves the method takes as they are; of others their float fields are the parts.

    Raises:
        ValueError: if ``where`` or a glob fits nothing, or a chosen leaf is compressed and has no floats to change.
        TypeError: if a chosen leaf is not float.
    """
    weights = None if sites is None else frozenset(sites.weights())
    chosen = select(params, where, default=is_weight if weights is None else lambda path, leaf: path in weights)
    if isinstance(settings, Mapping):
        for glob in settings:
            if not any(matches(path, glob) for path in chosen):
                raise ValueError(f"{method}: the glob {glob!r} fits none of the chosen leaves: {chosen}")
        chosen = [path for path in chosen if any(matches(path, glob) for glob in settings)]
    wanted = frozenset(chosen)
    paths, leaves, _ = flatten_with_paths(params)
    found = []
    for path, leaf in zip(paths, leaves, strict=True):
        if path in wanted:
            found += _inside(path, (), leaf, None, _roles(path, leaf, sites), method, whole)
    return found


def setting_at(settings: Any, path: str) -> Any:
    """The setting of one leaf: that of the first glob that fits, if a dict of them is given.

    Example:
        >>> setting_at({"conv/*": 8, "**": 5}, "head/kernel"), setting_at(4, "head/kernel")
        (5, 4)
    """
    if not isinstance(settings, Mapping):
        return settings
    return next(setting for glob, setting in settings.items() if matches(path, glob))


def with_parts(params: Any, parts: Sequence[Part], changed: Sequence[ArrayOrLeaf]) -> Any:
    """The tree with each part replaced."""
    paths, leaves, _ = flatten_with_paths(params)
    now = dict(zip(paths, leaves, strict=True))
    for part, leaf in zip(parts, changed, strict=True):
        now[part.path] = _with_field(now[part.path], part.fields, leaf)
    return replace_at(params, {part.path: now[part.path] for part in parts})


def require_finite(parts: Sequence[Part], method: str) -> None:
    """Checks what a method is about to read.

    Raises:
        ValueError: if a part holds NaN or infinity; names it. Nothing is seen under ``jit``.
    """
    for part, finite in zip(parts, _finite([part.array for part in parts]), strict=True):
        if not isinstance(finite, Tracer) and not finite:
            raise ValueError(f"{method}: {part.name!r} holds NaN or infinity")


@jax.jit
def _finite(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(array).all() for array in arrays]


def _roles(path: str, leaf: ArrayOrLeaf, sites: Sites | None) -> Roles | None:
    if sites is None or path not in {site.path for site in sites}:
        return Roles((), (0,), (1,)) if sites is None and leaf.ndim == 2 else None
    found = sites.at(path)
    if any(site.contracting or site.lookup for site in found):
        spatial = {axis for site in found for axis in site.spatial}
        return Roles(*sites.axes(path), tuple(sorted(spatial)))
    return Roles(found[0].stack, (), ())


def _inside(
    path: str,
    fields: tuple[str, ...],
    leaf: ArrayOrLeaf,
    support: jax.Array | None,
    roles: Roles | None,
    method: str,
    whole: Callable[[CompressedArray], bool] | None,
) -> list[Part]:
    """The float arrays of a leaf that training may change: they say what the dense array is, at full freedom."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"{method}: {path!r} is {leaf.dtype}, not float: leave it out of where=")
    if not isinstance(leaf, CompressedArray):
        return [Part(path, fields, jnp.asarray(leaf), support, roles)]
    if whole is not None and whole(leaf):
        return [Part(path, fields, leaf, support, roles)]
    if leaf.sealed:
        raise ValueError(f"{method}: {'/'.join((path, *fields))!r} is a {leaf.kind} leaf, {leaf.sealed}")
    alignment = {name: axes for name, axes in leaf.alignment().items() if name in leaf.trainable}
    held = {axis for axes in alignment.values() for axis in axes} - {None}
    if not leaf.free and held != set(range(leaf.ndim)):
        raise ValueError(
            f"{method}: {'/'.join((path, *fields))!r} is a {leaf.kind} leaf, coded already: materialize it first "
            "(jc.materialize), or leave it out of where="
        )
    own = leaf.support()
    both = support if own is None else own if support is None else support & own
    parts = []
    for name, axes in alignment.items():
        field = getattr(leaf, name)
        per_entry = axes == tuple(range(leaf.ndim)) and field.shape == leaf.shape
        inner = both if per_entry else None
        own_roles = None if roles is None else leaf.field_roles(name, roles)
        parts += _inside(path, (*fields, name), field, inner, own_roles, method, whole)
    return parts


def _with_field(leaf: Any, fields: tuple[str, ...], changed: ArrayOrLeaf) -> Any:
    if not fields:
        return changed
    first, *rest = fields
    return leaf.replace(**{first: _with_field(getattr(leaf, first), tuple(rest), changed)})
