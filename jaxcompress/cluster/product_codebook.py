"""The leaf kind of vector quantization: blocks of neighbouring weights that are entries of a table of vectors."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcompress.cluster.table_product import Axes, serves, table_product
from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import CompressedArray, FieldOp, leaf_kind
from jaxcompress.solvers.blocks import from_blocks
from jaxcompress.solvers.tables import look_up_rows


@leaf_kind("product_codebook", trainable=("codebook",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProductCodebook(CompressedArray):
    """An array cut into blocks of one shape, each of which is looked up in a table of vectors.

    The dense axes are the stack followed by those of a block: ``block == (4, 1)`` cuts an (in, out) kernel into four
    neighbouring inputs of one output each, ``(3, 3, 1, 1)`` a convolution into its 3 x 3 patches, ``(1, 8)`` the rows
    of an embedding into runs of eight. One table may serve a whole layer, or each index of some axes has its own
    (product quantization: one for each position of the block in a row).

    The gradient of an entry of a table is the sum of the gradients of the blocks that share it.

    Attributes:
        codes: uint8 or uint16; as many axes as the array, along each the number of blocks.
        codebook: float; for each axis of the codes one of a size that divides its (the stack's in full), then the
            levels, then the entries of a block in their order.
        block: length of a block along each axis that is no stack axis.
        dtype: dtype of the dense array; tables may be stored in a narrower one.
    """

    sealed = "coded already: materialize it first (jc.materialize), or leave it out of where="

    codes: jax.Array
    codebook: jax.Array
    block: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, codes: jax.Array, codebook: jax.Array, block: Sequence[int], dtype: Any = None) -> Self:
        """Checks the fields.

        Args:
            codes: uint8 or uint16 array, each below the number of levels (seen only outside `jit`).
            codebook: float array, see the class.
            block: length of a block along each axis behind the stack axes, static.
            dtype: dtype of the dense array; by default the codebook's.

        Raises:
            TypeError: if the codes are not uint8 or uint16, or the codebook or ``dtype`` is not float.
            ValueError: if the shapes do not fit, or a code is out of range.

        Example:
            >>> leaf = ProductCodebook.create(
            ...     jnp.array([[0, 1, 1]], jnp.uint8), jnp.array([[[[1.0, 2.0], [3.0, 4.0]]]]), block=(2, 1)
            ... )
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[1.0, 3.0, 3.0], [2.0, 4.0, 4.0]], 131)
        """
        dtype, block = jnp.dtype(codebook.dtype if dtype is None else dtype), tuple(block)
        if codes.dtype not in (jnp.uint8, jnp.uint16):
            raise TypeError(f"codes must be uint8 or uint16, got {codes.dtype}")
        for name, given in (("codebook", codebook.dtype), ("dtype", dtype)):
            if not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be float, got {given}")
        stack = codes.ndim - len(block)
        if stack < 0 or not all(isinstance(length, int) and length >= 1 for length in block):
            raise ValueError(
                f"block must hold a positive integer for each axis behind the stack axes of codes of shape "
                f"{codes.shape}, got {block}"
            )
        sizes = codebook.shape[:-2]
        fits = len(sizes) == codes.ndim and sizes[:stack] == codes.shape[:stack]
        fits = fits and all(own and size % own == 0 for size, own in zip(codes.shape, sizes, strict=True))
        if not fits or codebook.shape[-1] != math.prod(block):
            raise ValueError(
                f"codebook must have an axis for each of the codes' whose size divides theirs (the first {stack} in "
                f"full), then the levels and the {math.prod(block)} entries of a block {block}; got {codebook.shape} "
                f"for codes of shape {codes.shape}"
            )
        levels = codebook.shape[-2]
        if not 1 <= levels <= 2 ** bit_width(codes.dtype):
            raise ValueError(f"{codes.dtype} codes cannot number the {levels} levels of the codebook")
        if not isinstance(codes, Tracer) and codes.size and int(np.max(np.asarray(codes))) >= levels:
            raise ValueError(f"codes must be below the {levels} levels, got {int(np.max(np.asarray(codes)))}")
        return cls(jnp.asarray(codes), jnp.asarray(codebook), block, dtype)

    @property
    def levels(self) -> int:
        """Number of entries of a table."""
        return self.codebook.shape[-2]

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate layers."""
        return len(self.codes.shape) - len(self.block)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of a block along every dense axis: 1 along the stack."""
        return (*(1,) * self.stack_ndim, *self.block)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array."""
        return tuple(size * length for size, length in zip(self.codes.shape, self.lengths, strict=True))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both run along the dense axes, in steps of the blocks; levels and entries are the tables' own."""
        axes = tuple(range(len(self.codes.shape)))
        return {"codes": axes, "codebook": (*axes, None, None)}

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """As of every leaf, along the stack; the others are axes of `block`."""
        return super().axis_positions(axis) if axis < self.stack_ndim else None

    def move_to_front(self, axis: int) -> Self | None:
        """As of every leaf; an axis of blocks of length 1 with tables of its own becomes one of the stack."""
        if not self.divides(axis) or self.codebook.shape[axis] != self.codes.shape[axis]:
            return None
        at = axis - self.stack_ndim
        return self.replace(
            codes=jnp.moveaxis(self.codes, axis, 0),
            codebook=jnp.moveaxis(self.codebook, axis, 0),
            block=self.block if at < 0 else self.block[:at] + self.block[at + 1 :],
        )

    def divides(self, axis: int) -> bool:
        """Along the axes on which blocks have length 1."""
        return self.lengths[axis] == 1

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """As of every leaf; None along an axis that blocks cover (`lookup` decodes entries there)."""
        return super().map_axis(axis, fn) if self.divides(axis) else None

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array | None:
        """Entries along an axis that blocks cover, each decoded with the rest of its block; None along others."""
        length, size = self.lengths[axis], self.shape[axis]
        if length == 1 or self.codebook.shape[axis] not in (1, self.codes.shape[axis]):
            return None
        at = jnp.clip(indices.astype(jnp.int32), 0, size - 1)
        number, place = at // length, at % length
        take = lambda field: jnp.take(field, number, axis=axis)  # noqa: E731
        whole = self.codebook.shape[axis] == self.codes.shape[axis]  # of size 1 it serves all blocks
        blocks = self.replace(codes=take(self.codes), codebook=take(self.codebook) if whole else self.codebook)
        dense = blocks.materialize()
        split = dense.reshape(*dense.shape[:axis], number.size, length, *dense.shape[axis + 1 :])
        where = place.reshape(*(-1 if i == axis else 1 for i in range(split.ndim)))
        return jnp.take_along_axis(split, where, axis=axis + 1).squeeze(axis + 1)

    def materialize(self) -> jax.Array:
        """The blocks by code, put side by side."""
        return from_blocks(look_up_rows(self.codes, self.codebook).astype(self.dtype), self.lengths)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """On a CPU, for few rows of data: sums of looked up products; else None. See `table_product`."""
        if x.dtype != self.dtype or not self._sums_products(x, contract, batch):
            return None
        options = {"precision": precision}
        looked_up = functools.partial(
            table_product,
            lengths=self.lengths,
            contract=contract,
            batch=batch,
            dtype=preferred_element_type,
            **options,
        )

        def product(codes: jax.Array, codebook: jax.Array, x: jax.Array) -> jax.Array:
            kernel = self.replace(codes=codes, codebook=codebook).materialize()
            return lax.dot_general(
                x, kernel, (contract, batch), preferred_element_type=preferred_element_type, **options
            )

        return lax.platform_dependent(self.codes, self.codebook, x, cpu=looked_up, default=product)

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """Which of the two."""
        del x, contract, batch
        return "product_codebook matmul, sums of looked up products on cpu, materialize on cuda and tpu"

    def _sums_products(self, x: Any, contract: Axes, batch: Axes) -> bool:
        return serves(x, self.codes.shape, self.codebook.shape, self.lengths, contract, batch)

    def astype(self, dtype: Any) -> Self:
        """The same codes and tables with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def field_bits(self, name: str) -> int:
        """A code needs as many bits as the levels ask for, none for a single one."""
        return (self.levels - 1).bit_length() if name == "codes" else super().field_bits(name)
