"""What to keep, checked: indices per path and axis of a parameter tree."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.core.leaf import CompressedArray, dense, is_compressed
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink.cut import Keep, Kept, spread, take

KeepDict: TypeAlias = "Mapping[tuple[str, int], ArrayLike]"
Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"


def leaf_shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Dense shape of every leaf, by path."""
    paths, leaves, _ = flatten_with_paths(params)
    return {path: tuple(np.shape(leaf)) for path, leaf in zip(paths, leaves, strict=True)}


def checked(keep: KeepDict, shapes: Shapes) -> dict[tuple[str, int], np.ndarray]:
    """Validates ``keep`` against the shapes of the leaves.

    Returns:
        Indices as sorted int64, by path and non-negative axis; axes that lose nothing are left out.

    Raises:
        TypeError: if ``keep`` is no mapping, a key is no ``(path, axis)``, or indices are no integers.
        ValueError: if a path, an axis or an index does not exist, or one comes twice.
    """
    if not isinstance(keep, Mapping):
        raise TypeError(f"keep= maps (path, axis) to kept indices, got {type(keep).__name__}")
    found: dict[tuple[str, int], np.ndarray] = {}
    for key, given in keep.items():
        path, axis = _place(key, shapes)
        if (path, axis) in found:
            raise ValueError(f"keep= names axis {axis} of {path!r} twice")
        found[path, axis] = _indices(given, f"keep[{path!r}, {axis}]", shapes[path][axis])
    return {key: kept for key, kept in found.items() if len(kept) < shapes[key[0]][key[1]]}


def _place(key: Any, shapes: Shapes) -> tuple[str, int]:
    if not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str)) or isinstance(key[1], bool):
        raise TypeError(f"keep= has the key {key!r}; keys are (path, axis), as ('params/Dense_0/kernel', 1)")
    path, axis = key
    if path not in shapes:
        close = difflib.get_close_matches(path, list(shapes), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"keep= names {path!r}, which is no leaf; {hint}The paths are: {', '.join(shapes)}")
    if not isinstance(axis, int | np.integer):
        raise TypeError(f"keep= has the axis {axis!r} for {path!r}; axes are integers")
    ndim = len(shapes[path])
    if not -ndim <= axis < ndim:
        raise ValueError(f"keep= names axis {axis} of {path!r}, which has the shape {shapes[path]}")
    return path, int(axis) % ndim


def _indices(given: Any, name: str, size: int) -> np.ndarray:
    indices = np.asarray(given)
    if indices.size == 0 and indices.ndim == 1:
        return np.zeros(0, np.int64)
    if not np.issubdtype(indices.dtype, np.integer) or indices.ndim != 1:
        hint = "; of a mask take np.flatnonzero" if indices.dtype == np.bool_ else ""
        raise TypeError(f"{name} must be a 1-D array of integers, got {indices.dtype} of shape {indices.shape}{hint}")
    ordered = np.sort(indices.astype(np.int64))
    if ordered[0] < 0 or ordered[-1] >= size:
        wrong = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise ValueError(f"{name} has the index {wrong}, the axis has the length {size}")
    if (np.diff(ordered) == 0).any():
        twice = ordered[:-1][np.diff(ordered) == 0][0]
        raise ValueError(f"{name} has the index {twice} twice")
    return ordered


def by_leaf(keep: Mapping[tuple[str, int], np.ndarray], shapes: Shapes) -> dict[str, Keep]:
    """What every axis of the leaves that lose something keeps."""
    found: dict[str, list[Kept | None]] = {}
    for (path, axis), kept in keep.items():
        held = found.setdefault(path, [None] * len(shapes[path]))
        held[axis] = Kept(shapes[path][axis], kept, origin=f"{path} axis {axis}")
    return {path: tuple(held) for path, held in found.items()}


def cut_leaf(leaf: Any, keep: Keep, path: str) -> Any:
    """One leaf without what is dropped. A compressed leaf stays of its kind: codes, masks and factors are cut.

    Raises:
        ValueError: if a field of a compressed leaf holds a cut axis in coarser steps.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda array: cut_leaf(array, keep, path), leaf)
    for axis, kept in enumerate(keep):
        if kept is None:
            continue
        if not isinstance(leaf, CompressedArray):
            leaf = take(jnp.asarray(leaf), axis, kept.indices)
            continue
        indexed = leaf.map_axis(axis, lambda field, at, kept=kept: take(field, at, kept.indices))
        if indexed is None:
            raise ValueError(
                f"shrink: the {leaf.kind} leaf {path!r} holds axis {axis} in groups (scales, say), which a cut would "
                "break. Shrink first and compress then, or give jaxcompress.materialize(params)"
            )
        leaf = indexed
    return leaf


def expand_leaf(leaf: Any, keep: Keep) -> Any:
    """The dense leaf with zeros at what was dropped."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda array: expand_leaf(array, keep), leaf)
    array = dense(leaf) if is_compressed(leaf) else jnp.asarray(leaf)
    for axis, kept in enumerate(keep):
        array = array if kept is None else spread(array, axis, kept)
    return array


def masked(params: Any, keep: KeepDict) -> Any:
    """The dense tree with zeros at what ``keep`` drops: what a shrunk model must agree with.

    Args:
        params: parameters; compressed leaves of which something is dropped become dense.
        keep: as for `jaxcompress.shrink`.

    Example:
        >>> masked({"w": jnp.ones((2, 3))}, {("w", 1): [0, 2]})["w"].tolist()
        [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """
    shapes = leaf_shapes(params)
    kept = by_leaf(checked(keep, shapes), shapes)
    paths, leaves, treedef = flatten_with_paths(params)
    return jax.tree.unflatten(
        treedef, [_zeroed(leaf, kept[p]) if p in kept else leaf for p, leaf in zip(paths, leaves, strict=True)]
    )


def _zeroed(leaf: Any, keep: Keep) -> Any:
    array = dense(leaf) if is_compressed(leaf) else jnp.asarray(leaf)
    for axis, kept in enumerate(keep):
        if kept is not None:
            mask = kept.mask().reshape([-1 if other == axis else 1 for other in range(array.ndim)])
            array = jnp.where(mask, array, jnp.zeros((), array.dtype))
    return array
