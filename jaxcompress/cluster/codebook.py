"""The leaf kind of weight sharing: a small table of values, and for every weight the number of its entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import CompressedArray, leaf_kind


@leaf_kind("codebook", trainable=("codebook",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Codebook(CompressedArray):
    """An array whose entries are looked up: ``materialize()[i] == codebook[codes[i]]``, one table per layer of a stack.

    The gradient of an entry of the table is the sum of the gradients of the weights that share it (Han et al., 2016,
    section 3.3), so that any optimizer fine-tunes the entries once `jaxcompress.split_trainable` has set the codes
    aside.

    Attributes:
        codes: uint8 or uint16, of the dense shape.
        codebook: float, the stack axes followed by the levels.
        dtype: dtype of the dense array; the table may be stored in a narrower one.
    """

    codes: jax.Array
    codebook: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: jax.Array, codebook: jax.Array, dtype: Any = None) -> Self:
        """Checks the two fields.

        Args:
            codes: uint8 or uint16 array of the dense shape, each below the number of levels (seen only outside `jit`).
            codebook: float array, ``codes.shape[:n] + (levels,)`` with one table for each index of the first n axes.
            dtype: dtype of the dense array; by default the codebook's.

        Raises:
            TypeError: if the codes are not uint8 or uint16, or the codebook or ``dtype`` is not float.
            ValueError: if the shapes do not fit, or a code is out of range.

        Example:
            >>> leaf = Codebook.create(jnp.array([[0, 2], [2, 1]], jnp.uint8), jnp.array([-1.0, 0.5, 2.0]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[-1.0, 2.0], [2.0, 0.5]], 104)
        """
        dtype = jnp.dtype(codebook.dtype if dtype is None else dtype)
        if codes.dtype not in (jnp.uint8, jnp.uint16):
            raise TypeError(f"codes must be uint8 or uint16, got {codes.dtype}")
        for name, given in (("codebook", codebook.dtype), ("dtype", dtype)):
            if not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be float, got {given}")
        if codebook.ndim < 1 or codebook.shape[:-1] != codes.shape[: codebook.ndim - 1] or not codebook.shape[-1]:
            raise ValueError(
                f"codebook must have the shape (stack axes of the codes, levels), got {codebook.shape} for codes of "
                f"shape {codes.shape}"
            )
        levels = codebook.shape[-1]
        if levels > 2 ** bit_width(codes.dtype):
            raise ValueError(f"{codes.dtype} codes cannot number the {levels} levels of the codebook")
        if not isinstance(codes, Tracer) and codes.size and int(np.max(np.asarray(codes))) >= levels:
            raise ValueError(f"codes must be below the {levels} levels, got {int(np.max(np.asarray(codes)))}")
        return cls(jnp.asarray(codes), jnp.asarray(codebook), dtype)

    @property
    def levels(self) -> int:
        """Number of entries of a table."""
        return self.codebook.shape[-1]

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Codes run along the dense axes; of the codebook's axes the stack does, and the levels are its own."""
        stack = len(self.codebook.shape) - 1
        return {"codes": tuple(range(len(self.codes.shape))), "codebook": (*range(stack), None)}

    def materialize(self) -> jax.Array:
        """The table's entries by code."""
        stack = self.codebook.shape[:-1]
        count = self.codes.size // max(1, self.codebook.size // self.levels)
        codes = self.codes.reshape(*stack, count).astype(jnp.int32)
        entries = jnp.take_along_axis(self.codebook, codes, axis=-1, mode="clip")
        return entries.reshape(self.codes.shape).astype(self.dtype)

    def astype(self, dtype: Any) -> Self:
        """The same codes and table with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def field_bits(self, name: str) -> int:
        """A code needs as many bits as the levels ask for: 5 bits for 17 to 32 levels, none for a single one."""
        return (self.levels - 1).bit_length() if name == "codes" else super().field_bits(name)
