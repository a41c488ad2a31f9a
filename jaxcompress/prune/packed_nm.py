"""The leaf kind of N:M patterns: of every m neighbours along an axis the n kept values, and where they stood.

The layout is that of hardware with sparse operands (2:4 on Ampere; Mishra et al., 2021, section 3): values without the
dropped ones, and indices of ``ceil(log2(m))`` bits, here packed without gaps, so that a float32 2:4 leaf takes 17/32 of
the dense bytes in memory. JAX has no product that reads it: every use makes the leaf dense first, nothing gets faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, dense, leaf_kind
from jaxcompress.prune.nm import nm_mask


@leaf_kind("nm", trainable=("values",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PackedNM(CompressedArray):
    """An array of which n of every m neighbours along one axis are held, in their order; the others are zero.

    Build it with `PackedNM.create`.

    Attributes:
        values: of the dense shape, but ``n / m`` as long along the axis; an array, or a leaf again.
        places: uint8; along the axis, bit by bit from the lowest, the place of every value in its group.
        n: values of a group, 1 to m.
        m: length of a group, up to 256.
        axis: along which groups lie, negative: counted from the last one, so that stack axes may lead.
    """

    values: ArrayOrLeaf
    places: jax.Array
    n: int = dataclasses.field(metadata={"static": True})
    m: int = dataclasses.field(metadata={"static": True})
    axis: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, values: jax.Array, mask: jax.Array, *, n: int, m: int, axis: int) -> Self:
        """Takes the kept entries of an array together.

        Args:
            values: array of any shape.
            mask: bool array of the same shape; True keeps. Where it keeps fewer than n of a group, zeros fill up.
            n: most entries that the mask keeps of a group (checked outside ``jit``).
            m: length of a group; divides the axis.
            axis: along which groups lie.

        Raises:
            TypeError: if the mask is not bool.
            ValueError: if the shapes differ, n, m or the axis are out of range, m does not divide the axis, or the mask
                keeps more than n of a group.

        Example:
            >>> w = jnp.array([4.0, 1.0, 3.0, 2.0, 0.0, 6.0, 7.0, 0.0])
            >>> leaf = PackedNM.create(w, w > 2, n=2, m=4, axis=0)
            >>> leaf.values.tolist(), leaf.places.tolist(), leaf.materialize().tolist()
            ([4.0, 3.0, 6.0, 7.0], [152], [4.0, 0.0, 3.0, 0.0, 0.0, 6.0, 7.0, 0.0])
        """
        if mask.dtype != jnp.bool_:
            raise TypeError(f"mask must be bool (True keeps), got {mask.dtype}")
        if values.shape != mask.shape:
            raise ValueError(f"values and mask must have one shape, got {values.shape} and {mask.shape}")
        if not (1 <= n <= m <= 256):
            raise ValueError(f"n and m must satisfy 1 <= n <= m <= 256, got n={n}, m={m}")
        if not -values.ndim <= axis < values.ndim:
            raise ValueError(f"axis must be one of the {values.ndim} axes of values, got {axis}")
        axis %= values.ndim
        if values.shape[axis] % m:
            raise ValueError(f"m={m} does not divide axis {axis} of shape {values.shape}")
        packed, places, most = _pack(values, mask, n=n, m=m, axis=axis)
        if not isinstance(most, Tracer) and most > n:
            raise ValueError(f"mask keeps {int(most)} of a group of {m}, more than n={n}")
        return cls(packed, places, n, m, axis - values.ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array."""
        shape = list(self.values.shape)
        shape[self.axis] = shape[self.axis] // self.n * self.m
        return tuple(shape)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the values."""
        return self.values.dtype

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes, in coarser steps along the one of the groups."""
        axes = tuple(range(len(self.values.shape)))
        return {"values": axes, "places": axes}

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """As of every leaf; the axis of the groups is held whole by no field."""
        return None if axis == self.ndim + self.axis else super().axis_positions(axis)

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """As of every leaf; no indexing along the axis of the groups."""
        return None if axis == self.ndim + self.axis else super().map_axis(axis, fn)

    def materialize(self) -> jax.Array:
        """The values at their places, zeros elsewhere."""
        at = self.ndim + self.axis
        values = jnp.expand_dims(_grouped(dense(self.values), at, self.n), at + 2)
        spread = jnp.where(self._holds(), values, jnp.zeros((), values.dtype)).sum(at + 1, dtype=values.dtype)
        return spread.reshape(self.shape)

    def support(self) -> jax.Array:
        """Where a value is held."""
        return self._holds().any(self.ndim + self.axis + 1).reshape(self.shape)

    def astype(self, dtype: Any) -> Self | None:
        """The same places with the cast values."""
        values = self.values.astype(dtype)
        return None if values is None else self.replace(values=values)

    def _holds(self) -> jax.Array:
        """``[..., groups, n, m, ...]``: whether a value stands at a place of its group."""
        at = self.ndim + self.axis
        width = _width(self.m)
        count = self.values.shape[at]
        bits = jnp.unpackbits(self.places, axis=at, count=count * width, bitorder="little")
        digits = _grouped(bits, at, width)
        weights = jnp.left_shift(jnp.uint8(1), jnp.arange(width, dtype=jnp.uint8))
        codes = (digits * _along(weights, at + 1, digits.ndim)).sum(at + 1, dtype=jnp.uint8)
        codes = jnp.expand_dims(_grouped(codes, at, self.n), at + 2)
        return codes == _along(jnp.arange(self.m).astype(jnp.uint8), at + 2, codes.ndim)


def _width(m: int) -> int:
    """Bits of an index into a group."""
    return max(1, (m - 1).bit_length())


def _grouped(array: jax.Array, at: int, length: int) -> jax.Array:
    """Axis ``at`` cut into groups: ``[..., groups, length, ...]``."""
    return array.reshape(*array.shape[:at], array.shape[at] // length, length, *array.shape[at + 1 :])


def _along(vector: jax.Array, at: int, ndim: int) -> jax.Array:
    """A vector as axis ``at`` of ``ndim``."""
    return jnp.expand_dims(vector, [axis for axis in range(ndim) if axis != at])


@partial(jax.jit, static_argnames=("n", "m", "axis"))
def _pack(values: jax.Array, mask: jax.Array, *, n: int, m: int, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values, packed places, and the most entries that the mask keeps of a group."""
    kept = _grouped(mask, axis, m)
    exact = _grouped(
        nm_mask(mask.astype(jnp.float32), n=n, m=m, axis=axis), axis, m
    )  # n of each group, kept ones first
    order = jnp.argsort(~exact, axis=axis + 1, stable=True)
    codes = jax.lax.slice_in_dim(order, 0, n, axis=axis + 1)
    zeroed = jnp.where(mask, values, jnp.zeros((), values.dtype))
    packed = jnp.take_along_axis(_grouped(zeroed, axis, m), codes, axis=axis + 1)
    short = (*values.shape[:axis], values.shape[axis] // m * n, *values.shape[axis + 1 :])
    codes = jnp.expand_dims(codes.reshape(short).astype(jnp.uint8), axis + 1)
    shifts = _along(jnp.arange(_width(m)).astype(jnp.uint8), axis + 1, codes.ndim)
    bits = jnp.right_shift(codes, shifts) & jnp.uint8(1)
    flat = bits.reshape(*short[:axis], short[axis] * _width(m), *short[axis + 1 :])
    most = kept.sum(axis + 1, dtype=jnp.int32).max(initial=0)
    return packed.reshape(short), jnp.packbits(flat, axis=axis, bitorder="little"), most
