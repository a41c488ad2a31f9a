"""Lazy views: what a compressed leaf becomes between the parameter tree and the primitive that consumes it.

Transposes, reshapes, slices, broadcasts and scalar factors on their way to a contraction are kept symbolically, so
that a leaf kind has to serve only `matmul`, `take` (through `map_axis`) and `conv` on its own axes. A view's layout
lists, for every axis of the viewed array, the `Atom`s it is made of: a leaf axis of size 12 that was reshaped to (3,
4) is the atoms (axis, inner=4, size=3) and (axis, inner=1, size=4). Axes of size 1 hold no atoms.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray

BROADCAST = -1


class Atom(NamedTuple):
    """A factor of one leaf axis: index = position // inner % size. ``axis == BROADCAST``: copies, no leaf axis."""

    axis: int
    inner: int
    size: int


Layout: TypeAlias = "tuple[tuple[Atom, ...], ...]"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a view comes from: the path of its leaf, and for each axis of the leaf the axis of the parameter there.

    ``shape`` is the parameter's shape; its axes missing from ``axes`` were taken off by `scan`. ``picked`` holds, for
    axes of the parameter that a slice or lookup went through, the one index that was taken, or ``None`` where that is
    several or not known. A value that is no parameter but derived from some has no path.
    """

    path: str | None
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    picked: tuple[tuple[int, int | None], ...] = ()

    def pick(self, leaf_axis: int, index: int | None) -> Origin:
        """The origin after an indexing operation along a leaf axis; what was indexed before is not known any more."""
        axis, before = self.axes[leaf_axis], dict(self.picked)
        return dataclasses.replace(self, picked=tuple((before | {axis: None if axis in before else index}).items()))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaf", "scale"], meta_fields=["layout", "origin"])
@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A leaf seen through a layout, times an optional scalar."""

    leaf: CompressedArray
    scale: jax.Array | None
    layout: Layout
    origin: Origin

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the viewed array."""
        return tuple(math.prod(atom.size for atom in atoms) for atoms in self.layout)

    @property
    def ndim(self) -> int:
        """Number of axes of the viewed array."""
        return len(self.layout)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the viewed array."""
        return self.leaf.dtype

    def materialize(self) -> jax.Array:
        """The viewed array, dense."""
        atoms = [atom for axis in self.layout for atom in axis]
        real = sorted((atom for atom in atoms if atom.axis != BROADCAST), key=_leaf_order)
        out = _reshape(self.leaf.materialize(), tuple(atom.size for atom in real))
        out = _transpose(out, [real.index(atom) for atom in atoms if atom.axis != BROADCAST])
        if len(real) != len(atoms):
            kept = [i for i, atom in enumerate(atoms) if atom.axis != BROADCAST]
            out = lax.broadcast_in_dim(out, tuple(atom.size for atom in atoms), kept)
        return self.scaled(_reshape(out, self.shape))

    def scaled(self, out: jax.Array) -> jax.Array:
        """Applies the pending scalar to a result that is linear in the leaf."""
        return out if self.scale is None else out * self.scale.astype(out.dtype)

    def with_layout(self, layout: Sequence[tuple[Atom, ...]]) -> View:
        """The same leaf under another layout."""
        return dataclasses.replace(self, layout=tuple(layout))

    def transpose(self, permutation: Sequence[int]) -> View:
        """The view of the transposed array."""
        return self.with_layout([self.layout[axis] for axis in permutation])

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The view of the reshaped array, or ``None`` where an atom would have to be cut unevenly."""
        if 0 in self.shape:
            return None
        pending = [atom for axis in self.layout for atom in axis]
        layout: list[tuple[Atom, ...]] = []
        for size in shape:
            taken: list[Atom] = []
            while size != 1:  # sizes may be symbolic: they are compared with == and % alone
                atom = pending.pop(0)
                if atom.size != size and atom.size % size == 0:
                    rest = atom.size // size
                    pending.insert(0, Atom(atom.axis, atom.inner, rest))
                    atom = Atom(atom.axis, atom.inner * rest, size)
                if size % atom.size != 0:
                    return None
                size //= atom.size
                taken.append(atom)
            layout.append(_fused(taken))
        return self.with_layout(layout)

    def broadcast(self, shape: Sequence[int], dimensions: Sequence[int]) -> View:
        """The view under `jax.lax.broadcast_in_dim`."""
        layout: list[tuple[Atom, ...]] = []
        for axis, size in enumerate(shape):
            held = self.layout[dimensions.index(axis)] if axis in dimensions else ()
            layout.append(held if held or size == 1 else (Atom(BROADCAST, 1, size),))
        return self.with_layout(layout)

    def window(self, axis: int, start: Any, size: int, stride: int = 1) -> View | None:
        """The view of ``size`` entries from ``start`` (static or traced) along one axis, or ``None``.

        Possible where the axis begins with the outermost factor of a leaf axis; strides need the whole leaf axis.
        """
        if size == self.shape[axis] and stride == 1:
            return self
        if size == 0:
            return None
        first, *rest = self.layout[axis] or (Atom(BROADCAST, 1, 1),)
        if rest or first.axis == BROADCAST or first.inner * first.size != self.leaf.shape[first.axis]:
            return None
        if stride != 1 and first.inner != 1:
            return None
        leaf = self.leaf.map_axis(first.axis, lambda f, ax: _window(f, ax, start, size, stride, first.inner))
        index = start if isinstance(start, int) and first.inner == size == 1 else None
        return None if leaf is None else self._resized(leaf, axis, Atom(first.axis, first.inner, size), index)

    def indexed(self, axis: int, fn: Any, size: int) -> View | None:
        """The view after an indexing operation along one axis that is a whole leaf axis, or ``None``."""
        leaf_axis = self.whole_axis(axis)
        leaf = None if leaf_axis is None else self.leaf.map_axis(leaf_axis, fn)
        if leaf is None or leaf_axis is None:
            return None
        return self._resized(leaf, axis, Atom(leaf_axis, 1, size), None)

    def looked_up(self, axis: int, indices: jax.Array) -> jax.Array | None:
        """Entries along one axis, dense, where the kind decodes them alone and the view permutes axes; or ``None``.

        Leaf axes of size 1 (a layer taken from a stack) may be gone, or stand anywhere.
        """
        axes = [self.whole_axis(i) for i in range(self.ndim)]
        taken = axes[axis]
        if taken is None or any(held is None and atoms for held, atoms in zip(axes, self.layout, strict=True)):
            return None
        rows = self.leaf.lookup(indices, taken)
        if rows is None:
            return None
        kept = [held for held in axes if held is not None]
        rows = _transpose(rows, [*kept, *(i for i in range(self.leaf.ndim) if i not in kept)])
        return self.scaled(_reshape(rows, (*self.shape[:axis], indices.shape[0], *self.shape[axis + 1 :])))

    def whole_axis(self, axis: int) -> int | None:
        """The leaf axis that this axis is, if it is one, whole."""
        atoms = self.layout[axis]
        whole = len(atoms) == 1 and atoms[0].axis != BROADCAST and atoms[0].size == self.leaf.shape[atoms[0].axis]
        return atoms[0].axis if whole else None

    def leaf_axes(self) -> tuple[int, ...] | None:
        """For each axis of the view its leaf axis, where the view is no more than a transpose; else ``None``.

        Leaf axes of size 1 are dealt out in order among the view's axes of size 1.
        """
        ones = iter(axis for axis, size in enumerate(self.leaf.shape) if size == 1)
        axes = [self.whole_axis(axis) if self.layout[axis] else next(ones, None) for axis in range(self.ndim)]
        found = tuple(axis for axis in axes if axis is not None)
        return found if sorted(found) == list(range(self.leaf.ndim)) == list(range(self.ndim)) else None

    def unstacked(self) -> tuple[CompressedArray, Layout, Origin] | None:
        """What `scan` needs to slice axis 0: the leaf with that axis in front, and layout and origin of a slice."""
        axis = self.whole_axis(0)
        leaf = None if axis is None else self.leaf.move_to_front(axis)
        if leaf is None or axis is None:
            return None
        layout = tuple(
            tuple(atom._replace(axis=atom.axis - (atom.axis > axis)) for atom in atoms) for atoms in self.layout[1:]
        )
        axes = self.origin.axes[:axis] + self.origin.axes[axis + 1 :]
        return leaf, layout, dataclasses.replace(self.origin, axes=axes)

    def astype(self, dtype: Any) -> View | None:
        """The view of the converted array, or ``None`` where the kind cannot stay compressed."""
        if dtype == self.dtype:
            return self
        leaf = self.leaf.astype(dtype)
        return None if leaf is None else dataclasses.replace(self, leaf=leaf)

    def times(self, factor: jax.Array) -> View:
        """The view of the array times a scalar."""
        return dataclasses.replace(self, scale=factor if self.scale is None else self.scale * factor)

    def _resized(self, leaf: CompressedArray, axis: int, atom: Atom, index: int | None) -> View:
        layout = list(self.layout)
        layout[axis] = (atom,) if atom.size != 1 else ()
        # Inner atoms of the same leaf axis keep their meaning: only the outermost factor changed its size.
        origin = self.origin.pick(atom.axis, index)
        return dataclasses.replace(self, leaf=leaf, layout=tuple(layout), origin=origin)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=["axis"])
@dataclasses.dataclass(frozen=True, eq=False)
class Concat:
    """Views and dense arrays joined along one axis."""

    parts: tuple[View | jax.Array, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the joined array."""
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)

    @property
    def ndim(self) -> int:
        """Number of axes of the joined array."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the joined array."""
        return self.parts[0].dtype

    def materialize(self) -> jax.Array:
        """The joined array, dense."""
        return lax.concatenate([dense_value(part) for part in self.parts], self.axis)


Value: TypeAlias = "jax.Array | View | Concat"


def view_of(leaf: CompressedArray, path: str | None) -> View:
    """The plain view of a leaf of the parameter tree."""
    layout = tuple((Atom(axis, 1, size),) if size != 1 else () for axis, size in enumerate(leaf.shape))
    return View(leaf, None, layout, Origin(path, tuple(range(leaf.ndim)), leaf.shape))


def is_lazy(value: Any) -> bool:
    """True for a view or a join of views."""
    return isinstance(value, View | Concat)


def dense_value(value: Value) -> jax.Array:
    """The dense array of a value."""
    return value.materialize() if isinstance(value, View | Concat) else value


def _leaf_order(atom: Atom) -> tuple[int, int]:
    return atom.axis, -atom.inner


def _fused(atoms: list[Atom]) -> tuple[Atom, ...]:
    """Joins neighbours that are consecutive factors of one leaf axis."""
    out: list[Atom] = []
    for atom in atoms:
        if out and out[-1].axis == atom.axis != BROADCAST and out[-1].inner == atom.inner * atom.size:
            out[-1] = Atom(atom.axis, atom.inner, out[-1].size * atom.size)
        else:
            out.append(atom)
    return tuple(out)


def _window(field: jax.Array, axis: int, start: Any, size: int, stride: int, inner: int) -> jax.Array:
    if isinstance(start, int):
        return lax.slice_in_dim(field, start * inner, (start + (size - 1) * stride + 1) * inner, stride, axis)
    return lax.dynamic_slice_in_dim(field, start * jnp.asarray(inner, start.dtype), size * inner, axis)


def _reshape(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x if x.shape == shape else lax.reshape(x, shape)


def _transpose(x: jax.Array, permutation: Sequence[int]) -> jax.Array:
    return x if list(permutation) == list(range(x.ndim)) else lax.transpose(x, tuple(permutation))
