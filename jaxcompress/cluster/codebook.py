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
from jaxcompress.solvers.tables import look_up_levels


@leaf_kind("codebook", trainable=("codebook",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Codebook(CompressedArray):
    """An array whose entries are looked up: ``materialize()[i] == codebook[codes[i]]``.

    There is one table per layer of a stack; or, in the longer form of the codebook, one for each channel or group.

    The gradient of an entry of the table is the sum of the gradients of the weights that share it (Han et al., 2016,
    section 3.3), so that any optimizer fine-tunes the entries once `jaxcompress.split_trainable` has set the codes
    aside.

    Attributes:
        codes: uint8 or uint16, of the dense shape.
        codebook: float, the stack axes followed by the levels. Or an axis for each of the codes', whose size divides
            theirs as that of a scale does (1: the table serves all of the axis), followed by the levels.
        dtype: dtype of the dense array; the table may be stored in a narrower one.
    """

    sealed = "coded already: materialize it first (jc.materialize), or leave it out of where="

    codes: jax.Array
    codebook: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: jax.Array, codebook: jax.Array, dtype: Any = None) -> Self:
        """Checks the two fields.

        Args:
            codes: uint8 or uint16 array of the dense shape, each below the number of levels (seen only outside `jit`).
            codebook: float array, ``codes.shape[:n] + (levels,)`` with one table for each index of the first n axes; or
                with as many axes as the codes and one more, see the class.
            dtype: dtype of the dense array; by default the codebook's.

        Raises:
            TypeError: if the codes are not uint8 or uint16, or the codebook or ``dtype`` is not float.
            ValueError: if the shapes do not fit, or a code is out of range.

        Example:
            >>> leaf = Codebook.create(jnp.array([[0, 2], [2, 1]], jnp.uint8), jnp.array([-1.0, 0.5, 2.0]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[-1.0, 2.0], [2.0, 0.5]], 104)
            >>> columns = jnp.array([[[-1.0, 0.5], [7.0, 9.0]]])  # a table of two levels for each column
            >>> Codebook.create(jnp.array([[0, 1], [1, 1]], jnp.uint8), columns).materialize().tolist()
            [[-1.0, 9.0], [0.5, 9.0]]
        """
        dtype = jnp.dtype(codebook.dtype if dtype is None else dtype)
        if codes.dtype not in (jnp.uint8, jnp.uint16):
            raise TypeError(f"codes must be uint8 or uint16, got {codes.dtype}")
        for name, given in (("codebook", codebook.dtype), ("dtype", dtype)):
            if not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be float, got {given}")
        if not _fits(codes.shape, codebook.shape):
            raise ValueError(
                "codebook must have the shape (stack axes of the codes, levels), or an axis for each of the codes' "
                f"whose size divides theirs, then the levels; got {codebook.shape} for codes of shape {codes.shape}"
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
        """Codes run along the dense axes; so do the tables' first ones, and the levels are their own."""
        return {"codes": tuple(range(len(self.codes.shape))), "codebook": (*range(len(self.codebook.shape) - 1), None)}

    def materialize(self) -> jax.Array:
        """The table's entries by code."""
        sizes = self.codebook.shape[:-1]
        ones = (1,) * (self.codes.ndim - len(sizes))
        return look_up_levels(self.codes, self.codebook.reshape(*sizes, *ones, self.levels)).astype(self.dtype)

    def astype(self, dtype: Any) -> Self:
        """The same codes and table with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def field_bits(self, name: str) -> int:
        """A code needs as many bits as the levels ask for: 5 bits for 17 to 32 levels, none for a single one."""
        return (self.levels - 1).bit_length() if name == "codes" else super().field_bits(name)


def _fits(codes: tuple[int, ...], codebook: tuple[int, ...]) -> bool:
    """Whether tables of that shape serve codes of that one."""
    *sizes, levels = codebook or (0,)
    if not levels or len(sizes) > len(codes):
        return False
    if len(sizes) < len(codes):
        return tuple(sizes) == codes[: len(sizes)]
    return all(size == own or (own > 0 and size % own == 0) for size, own in zip(codes, sizes, strict=True))
