"""What a pruning method acts on: the chosen leaves of a tree, and the parts of those that are compressed already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray
from jaxcompress.core.paths import Where, flatten_with_paths, is_weight, matches, replace_at, select
from jaxcompress.prune.masked import is_per_weight

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True)
class Target:
    """An array, or a leaf with one element per weight, that can take a mask.

    Attributes:
        path: path of the dense leaf it belongs to.
        fields: names of the fields that lead from that leaf to it; empty if it is the leaf itself.
        leaf: the array or leaf.
        stack: its axes along which it holds separate layers.
    """

    path: str
    fields: tuple[str, ...]
    leaf: ArrayOrLeaf
    stack: tuple[int, ...]

    @property
    def name(self) -> str:
        """Path and fields, ``/``-joined."""
        return "/".join((self.path, *self.fields))


def targets(
    params: Any, *, where: Where = None, sites: Sites | None = None, globs: Iterable[str] | None = None
) -> list[Target]:
    """The parts of a tree to prune, in tree order.

    A leaf with one element per weight (quantized, codebook, masked) takes a mask itself; of any other leaf (low rank)
    the factors do.

    Args:
        params: tree of arrays or leaves.
        where: which leaves; None takes what ``sites`` show as weights, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found; gives the stack axes.
        globs: keep only the leaves that fit one of these.

    Raises:
        ValueError: if ``where`` or one of the globs fits nothing.
        TypeError: if a chosen leaf is not float.
    """
    weights = None if sites is None else frozenset(sites.weights())
    chosen = select(params, where, default=is_weight if weights is None else lambda path, leaf: path in weights)
    if globs is not None:
        globs = list(globs)
        for glob in globs:
            if not any(matches(path, glob) for path in chosen):
                raise ValueError(f"the glob {glob!r} of sparsity= fits none of the chosen leaves: {chosen}")
        chosen = [path for path in chosen if any(matches(path, glob) for glob in globs)]
    paths, leaves, _ = flatten_with_paths(params)
    found = []
    for path, leaf in zip(paths, leaves, strict=True):
        if path in chosen:
            found += _parts(Target(path, (), leaf, stack_axes(path, sites)))
    return found


def stack_axes(path: str, sites: Sites | None) -> tuple[int, ...]:
    """The axes along which a leaf holds separate layers; none unless ``sites`` show it as a weight."""
    return sites.axes(path)[0] if sites is not None and path in sites.weights() else ()


def fraction_at(sparsity: ArrayLike | Mapping[str, ArrayLike], path: str) -> ArrayLike:
    """The sparsity of one leaf: that of the first glob that fits, if a dict of them is given.

    Raises:
        KeyError: if no glob fits.
    """
    if not isinstance(sparsity, Mapping):
        return sparsity
    fitting = [fraction for glob, fraction in sparsity.items() if matches(path, glob)]
    if not fitting:
        raise KeyError(f"no glob of sparsity= fits {path!r}, only {sorted(sparsity)}")
    return fitting[0]


def with_targets(params: Any, chosen: Sequence[Target], changed: Sequence[ArrayOrLeaf]) -> Any:
    """The tree with each target replaced."""
    paths, leaves, _ = flatten_with_paths(params)
    result = dict(zip(paths, leaves, strict=True))
    for target, leaf in zip(chosen, changed, strict=True):
        result[target.path] = _with_field(result[target.path], target.fields, leaf)
    return replace_at(params, result)


def _parts(target: Target) -> list[Target]:
    leaf = target.leaf
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"{target.name!r} is {leaf.dtype}, not float: leave it out of where=")
    if not isinstance(leaf, CompressedArray) or any(is_per_weight(leaf, name) for name in leaf.components()):
        return [target]
    parts = []
    for name, axes in leaf.alignment().items():
        field = getattr(leaf, name)
        if field.ndim >= 2 and jnp.issubdtype(field.dtype, jnp.floating):
            stack = tuple(position for position, axis in enumerate(axes) if axis in target.stack)
            parts += _parts(Target(target.path, (*target.fields, name), field, stack))
    return parts


def _with_field(leaf: Any, fields: tuple[str, ...], changed: ArrayOrLeaf) -> Any:
    if not fields:
        return changed
    first, *rest = fields
    return leaf.replace(**{first: _with_field(getattr(leaf, first), tuple(rest), changed)})
