"""The leaf kind of clustered arrays: every weight is a code into a small table of values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.leaf import CompressedArray, leaf_kind


@leaf_kind("codebook", trainable=("codebook",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Codebook(CompressedArray):
    """Codes into a table: ``materialize()[i] == codebook[codes[i]]``, one table per layer of a stacked leaf.

    The gradient with respect to an entry of the table is the sum of the gradients of the weights that share it.

    Attributes:
        codes: uint8 or uint16, of the dense shape.
        codebook: float, ``stack + (levels,)``: the stack axes of the dense array lead, then the levels.
        dtype: dtype of the dense array, static.

    References:
        Han et al., 2016, section 3. https://arxiv.org/abs/1510.00149
    """

    codes: jax.Array
    codebook: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})  # type: ignore[assignment]  # the field is the property

    @classmethod
    def create(cls, codes: jax.Array, codebook: jax.Array, *, dtype: Any = None) -> Self:
        """Checks the fields and builds the leaf.

        Args:
            codes: unsigned integers below the number of levels (not checked: that would need their values).
            codebook: float; see the class.
            dtype: dtype of the dense array; that of ``codebook`` by default.

        Raises:
            TypeError: if ``codes`` are not unsigned or ``codebook`` is not float.
            ValueError: if the leading axes of ``codebook`` are not those of ``codes``, or the codes cannot count the levels.

        Example:
            >>> leaf = Codebook.create(jnp.array([[0, 1], [1, 1]], jnp.uint8), jnp.array([-1.0, 2.0]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[-1.0, 2.0], [2.0, 2.0]], 68)
        """
        if not jnp.issubdtype(codes.dtype, jnp.unsignedinteger):
            raise TypeError(f"codes must be unsigned integers, got {codes.dtype}")
        if not jnp.issubdtype(codebook.dtype, jnp.floating):
            raise TypeError(f"codebook must be float, got {codebook.dtype}")
        stack = codebook.shape[:-1] if codebook.ndim else None
        if stack is None or codes.shape[: len(stack)] != stack:
            raise ValueError(
                f"codebook of shape {codebook.shape} does not fit codes of shape {codes.shape}: the axes before the last one "
                "must be the first axes of codes"
            )
        if codebook.shape[-1] > jnp.iinfo(codes.dtype).max + 1:
            raise ValueError(f"{codes.dtype} codes cannot count {codebook.shape[-1]} levels")
        return cls(codes, codebook, jnp.dtype(codebook.dtype if dtype is None else dtype))

    @property
    def levels(self) -> int:
        """Number of entries of a table."""
        return self.codebook.shape[-1]

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Codes run along the dense axes, tables along the stack axes."""
        stack = len(self.codebook.shape) - 1
        return {"codes": tuple(range(len(self.codes.shape))), "codebook": (*range(stack), None)}

    def materialize(self) -> jax.Array:
        """The table entries that the codes name."""
        lookup = _lookup
        for _ in range(self.codebook.ndim - 1):
            lookup = jax.vmap(lookup)
        return lookup(self.codebook, self.codes).astype(self.dtype)

    def astype(self, dtype: Any) -> Self:
        """The same codes, for a dense array of another float dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def field_bits(self, name: str) -> int:
        """A code takes as many bits as the levels need."""
        return max(1, math.ceil(math.log2(self.levels))) if name == "codes" else super().field_bits(name)


def _lookup(table: jax.Array, codes: jax.Array) -> jax.Array:
    return jnp.take(table, codes.astype(jnp.int32), mode="clip")
