"""The leaf kind of pruned arrays: values under a bool mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, leaf_kind


@leaf_kind("masked", trainable=("values",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Masked(CompressedArray):
    """An array whose dropped entries are zero: ``materialize() == where(mask, values, 0)``.

    Gradients with respect to ``values`` are zero where the mask drops, so that fine-tuning keeps what is pruned.
    Build it with `Masked.create`, which makes ``values`` exactly zero there.

    Attributes:
        values: an array, or a leaf again (a codebook, say, of which only the kept codes are stored).
        mask: bool, of the dense shape; True keeps.
    """

    values: ArrayOrLeaf
    mask: jax.Array

    @classmethod
    def create(cls, values: ArrayOrLeaf, mask: jax.Array) -> Self:
        """Checks the two fields and zeroes what is dropped.

        Args:
            values: float array of any shape, or a leaf of any kind.
            mask: bool array of the same shape.

        Raises:
            TypeError: if the mask is not bool.
            ValueError: if the shapes differ.

        Example:
            >>> leaf = Masked.create(jnp.array([3.0, 1.0]), jnp.array([True, False]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([3.0, 0.0], 34)
        """
        if mask.dtype != jnp.bool_:
            raise TypeError(f"mask must be bool (True keeps), got {mask.dtype}")
        if values.shape != mask.shape:
            raise ValueError(f"values and mask must have one shape, got {values.shape} and {mask.shape}")
        if isinstance(values, CompressedArray):
            return cls(values, jnp.asarray(mask))
        values = jnp.asarray(values)
        return cls(jnp.where(mask, values, jnp.zeros((), values.dtype)), jnp.asarray(mask))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.mask.shape)))
        return {"values": axes, "mask": axes}

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the values."""
        return self.values.dtype

    def materialize(self) -> jax.Array:
        """The values where the mask keeps, zero elsewhere."""
        values = dense(self.values)
        return jnp.where(self.mask, values, jnp.zeros((), values.dtype))

    def astype(self, dtype: Any) -> Self | None:
        """The same mask over the cast values."""
        values = self.values.astype(dtype)
        return None if values is None else self.replace(values=values)

    def support(self) -> jax.Array:
        """The mask."""
        return self.mask

    @property
    def stored_bits(self) -> int:
        """One bit per mask entry, the kept entries of fields with one element per weight, other fields in full."""
        return math.prod(self.mask.shape) + kept_bits(self.values, int(np.count_nonzero(self.mask)))


def kept_bits(values: ArrayOrLeaf, kept: int) -> int:
    """Bits of ``kept`` entries of values under a mask: of fields with one element per weight, and other fields in full.

    Example:
        >>> kept_bits(jnp.ones((2, 3)), 4)
        128
    """
    if not isinstance(values, CompressedArray):
        return kept * bit_width(values.dtype)
    total = 0
    for name, field in values.components().items():
        per_weight = is_per_weight(values, name)
        if isinstance(field, CompressedArray):
            total += kept_bits(field, kept) if per_weight else field.stored_bits
        else:
            total += (kept if per_weight else math.prod(field.shape)) * values.field_bits(name)
    return total


def takes_mask(leaf: CompressedArray) -> bool:
    """True for a leaf with one element per weight (quantized, codebook, masked): it is pruned as it is."""
    return any(is_per_weight(leaf, name) for name in leaf.components())


def is_per_weight(leaf: CompressedArray, name: str) -> bool:
    """True for a field with one element per dense entry (codes, quantized values): those of dropped entries can go.

    Example:
        >>> is_per_weight(Masked(jnp.ones((2, 3)), jnp.ones((2, 3), bool)), "values")
        True
    """
    return leaf.alignment()[name] == tuple(range(leaf.ndim)) and getattr(leaf, name).shape == leaf.shape
