"""What a value carries at shrunk shapes: for each axis, the kept indices of the dense one.

An axis is either whole (``None``) or holds the entries of the dense axis at the indices of a `Kept`, in order. A value
with no cut axis is a plain array; any other is a `Cut`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Kept:
    """The kept indices of one dense axis: static, hashable, compared by value.

    Attributes:
        size: length of the dense axis.
        indices: int64, ascending, unique.
        loose: bool for each of them; True where the entry comes from something whole (padding, a joined constant) and
            may still be cut to what it meets, as a whole axis is.
        origin: where the cut comes from, for messages; no part of the value.
    """

    __slots__ = ("_key", "indices", "loose", "origin", "size")

    def __init__(self, size: int, indices: np.ndarray, loose: np.ndarray | None = None, origin: str = ""):
        self.size = size
        self.indices = np.ascontiguousarray(indices, np.int64)
        self.loose = np.zeros(len(self.indices), np.bool_) if loose is None else loose
        self.origin = origin
        self._key = (size, self.indices.tobytes(), self.loose.tobytes())

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kept) and self._key == other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.indices[:6])) + (", ..." if len(self) > 6 else "")
        return f"{len(self)} of {self.size} ({shown})" + (f" from {self.origin}" if self.origin else "")

    @property
    def full(self) -> bool:
        """True if nothing is dropped."""
        return len(self.indices) == self.size

    def same(self, other: Kept) -> bool:
        """True if both keep the same indices."""
        return self._key[:2] == other._key[:2]

    def mask(self) -> np.ndarray:
        """Bool, of the dense length; True keeps."""
        return _marked(self.size, self.indices)

    def firm(self) -> np.ndarray:
        """Bool, of the dense length; True where an entry is kept and may not be cut any more."""
        return _marked(self.size, self.indices[~self.loose])

    def moved(self, positions: np.ndarray, indices: np.ndarray, size: int) -> Kept:
        """The kept entries at some positions, as indices of another axis."""
        return Kept(size, indices, self.loose[positions], self.origin)

    def meet(self, other: Kept) -> Kept | None:
        """What both keep; None where that would drop an entry that is not loose."""
        if self.same(other):
            return Kept(self.size, self.indices, self.loose & other.loose, self.origin)
        both = self.mask() & other.mask() if self.size == other.size else None
        if both is None or (self.firm() & ~both).any() or (other.firm() & ~both).any():
            return None
        loose = ~(self.firm() | other.firm())[both]
        return Kept(self.size, np.flatnonzero(both), loose, other.origin if self.loose.any() else self.origin)


def _marked(size: int, indices: np.ndarray) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[indices] = True
    return mask


Keep: TypeAlias = "tuple[Kept | None, ...]"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """An array of which some axes hold kept entries only. A pytree, so that it enters nested calls."""

    array: jax.Array
    keep: Keep = dataclasses.field(metadata={"static": True})


Value: TypeAlias = "jax.Array | Cut"


def value_of(array: Any, keep: Sequence[Kept | None]) -> Any:
    """An array with what its axes keep; a plain array where nothing is cut."""
    exact = tuple(None if kept is None or kept.full else kept for kept in keep)
    return Cut(array, exact) if any(kept is not None for kept in exact) else array


def is_cut(value: Any) -> bool:
    """True for a value with a cut axis."""
    return isinstance(value, Cut)


def array_of(value: Any) -> Any:
    """The array itself."""
    return value.array if isinstance(value, Cut) else value


def keep_of(value: Any) -> Keep:
    """What each axis keeps."""
    return value.keep if isinstance(value, Cut) else (None,) * np.ndim(value)


def small_shape(shape: Sequence[int], keep: Sequence[Kept | None]) -> tuple[int, ...]:
    """A dense shape after the cut."""
    return tuple(size if kept is None else len(kept) for size, kept in zip(shape, keep, strict=True))


def take(array: Any, axis: int, positions: np.ndarray) -> Any:
    """Entries at static positions along one axis; a slice where the positions run evenly."""
    positions = np.asarray(positions, np.int64)
    count = len(positions)
    if count == 0:
        return lax.slice_in_dim(array, 0, 0, axis=axis)
    step = int(positions[1] - positions[0]) if count > 1 else 1
    start, stop = int(positions[0]), int(positions[-1]) + 1
    if step > 0 and (np.diff(positions) == step).all():
        whole = start == 0 and step == 1 and stop == array.shape[axis]
        return array if whole else lax.slice_in_dim(array, start, stop, step, axis=axis)
    ascending = bool((np.diff(positions) > 0).all())
    return jnp.take(
        array,
        positions.astype(np.int32),
        axis=axis,
        mode="clip",
        unique_indices=ascending,
        indices_are_sorted=ascending,
    )


def spread(array: Any, axis: int, kept: Kept) -> Any:
    """The inverse of a cut: zeros at what is dropped."""
    shape = (*array.shape[:axis], kept.size, *array.shape[axis + 1 :])
    at = (slice(None),) * axis + (kept.indices.astype(np.int32),)
    return jnp.zeros(shape, array.dtype).at[at].set(array, unique_indices=True, indices_are_sorted=True)
