"""The leaf kinds of tables of levels: numbers of levels, the levels, and scales per channel or group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.leaf import ArrayOrLeaf, dense, leaf_kind
from jaxcompress.quantize.affine import code_bits, like, require_float, require_groups
from jaxcompress.quantize.products import Scaled
from jaxcompress.quantize.tables import look_up, look_up_levels, own_table


@leaf_kind("tabled", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tabled(Scaled):
    """An array of levels from a table times scales: ``materialize() == table[codes] * scale``.

    A table serves a layer, a channel or a group, and so does a scale, independently; stack axes both hold in full.

    Attributes:
        codes: uint8 or uint4 of the dense shape, or `PackedInts` without sign.
        table: float; axes as a scale's, then one of levels.
        scale: float; the size of each axis divides that of the codes.
        dtype: dtype of the dense array.
    """

    codes: ArrayOrLeaf
    table: jax.Array
    scale: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: ArrayOrLeaf, table: jax.Array, scale: jax.Array, dtype: Any = None) -> Self:
        """Checks the three fields.

        Args:
            codes: uint8 or uint4 array, or `PackedInts` without sign, below the number of levels (seen only outside
                ``jit``).
            table: float array of one axis more than the codes: sizes that divide theirs, then the levels.
            scale: float array of as many axes as the codes, the size of each dividing its.
            dtype: dtype of the dense array; by default the scale's.

        Raises:
            TypeError: if the codes are no such integers, or ``table``, ``scale`` or ``dtype`` is not float.
            ValueError: if the shapes do not fit, or a code is not below the number of levels.

        Example:
            >>> codes, table = jnp.array([[0, 2], [2, 1]], jnp.uint8), jnp.array([[[-1.0, 0.5, 2.0]]])
            >>> Tabled.create(codes, table, jnp.array([[1.0, 10.0]])).materialize().tolist()
            [[-1.0, 20.0], [2.0, 5.0]]
        """
        dtype = jnp.dtype(scale.dtype if dtype is None else dtype)
        require_codes(codes, table.shape[-1])
        require_float(table=table.dtype, scale=scale.dtype, dtype=dtype)
        require_groups("scale", scale.shape, codes.shape)
        require_groups("table, but for its levels,", table.shape[:-1], codes.shape)
        return cls(codes, jnp.asarray(table), jnp.asarray(scale), dtype)

    @property
    def bits(self) -> int:
        """Width of a code."""
        return code_bits(self.codes)

    @property
    def levels(self) -> int:
        """Number of entries of a table."""
        return self.table.shape[-1]

    def with_codes(self, codes: jax.Array) -> Self:
        """The same table and scales under other codes, held as narrow as these."""
        return self.replace(codes=like(codes, self.codes))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """All fields run along the dense axes; the levels are an axis of the table's own."""
        axes = tuple(range(len(self.scale.shape)))
        return {"codes": axes, "table": (*axes, None), "scale": axes}

    def materialize(self) -> jax.Array:
        """Levels by code, times the scales, in the dtype of the scales, cast."""
        return look_up(dense(self.codes), self.scale, self.table).astype(self.dtype)

    def unscaled(self, dtype: Any) -> jax.Array:
        """The levels by code."""
        return look_up_levels(dense(self.codes), self.table).astype(dtype)


@leaf_kind("fixed_table", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FixedTable(Scaled):
    """An array of known levels times scales: ``materialize() == levels[codes] * scale``, as of nf4.

    Attributes:
        codes: uint8 or uint4 of the dense shape, or `PackedInts` without sign.
        scale: float; the size of each axis divides that of the codes.
        levels: ascending.
        dtype: dtype of the dense array.
    """

    codes: ArrayOrLeaf
    scale: jax.Array
    levels: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: ArrayOrLeaf, scale: jax.Array, levels: Sequence[float], dtype: Any = None) -> Self:
        """Checks the fields.

        Args:
            codes: uint8 or uint4 array, or `PackedInts` without sign, below the number of levels (seen only outside
                ``jit``).
            scale: float array of as many axes as the codes, the size of each dividing its.
            levels: finite numbers, ascending.
            dtype: dtype of the dense array; by default the scale's.

        Raises:
            TypeError: if the codes are no such integers, or ``scale`` or ``dtype`` is not float.
            ValueError: if the shapes do not fit, the levels do not ascend, or a code is not below their number.

        Example:
            >>> leaf = FixedTable.create(jnp.array([[0, 2]], jnp.uint8), jnp.array([[1.0, 10.0]]), (-1.0, 0.0, 0.5))
            >>> leaf.materialize().tolist()
            [[-1.0, 5.0]]
        """
        dtype = jnp.dtype(scale.dtype if dtype is None else dtype)
        require_codes(codes, len(levels))
        require_float(scale=scale.dtype, dtype=dtype)
        require_groups("scale", scale.shape, codes.shape)
        if not levels or not np.isfinite(levels).all() or (np.diff(levels) <= 0).any():
            raise ValueError(f"levels must be finite numbers in ascending order, got {tuple(levels)}")
        return cls(codes, jnp.asarray(scale), tuple(map(float, levels)), dtype)

    @property
    def bits(self) -> int:
        """Width of a code."""
        return code_bits(self.codes)

    def with_codes(self, codes: jax.Array) -> Self:
        """The same scales under other codes, held as narrow as these."""
        return self.replace(codes=like(codes, self.codes))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.scale.shape)))
        return {"codes": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """Levels by code, times the scales, in the dtype of the scales, cast."""
        return look_up(dense(self.codes), self.scale, own_table(self.scale, self.levels)).astype(self.dtype)

    def unscaled(self, dtype: Any) -> jax.Array:
        """The levels by code."""
        return look_up_levels(dense(self.codes), own_table(self.scale, self.levels)).astype(dtype)


def require_codes(codes: ArrayOrLeaf, levels: int) -> None:
    """Raises TypeError or ValueError unless codes can be numbers of that many levels."""
    if codes.dtype not in (jnp.uint8, jnp.uint4, jnp.uint2):
        raise TypeError(f"codes must be uint8 or uint4, or packed without sign, got {codes.dtype}")
    if any(isinstance(array, Tracer) for array in jax.tree.leaves(codes)) or not codes.size:
        return
    highest = int(np.max(np.asarray(dense(codes)).astype(np.int32)))
    if highest >= levels:
        raise ValueError(f"codes must be below the {levels} levels, got {highest}")
