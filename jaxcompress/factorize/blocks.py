"""The leaf kind of arrays that are blocks side by side along one axis: the gates of a recurrent kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, dense, is_compressed, leaf_kind
from jaxcompress.core.roles import Roles

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@leaf_kind("blocks", trainable=("blocks",), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Blocks(CompressedArray):
    """Blocks of one shape, joined along an axis: ``materialize() == concatenate(list(blocks), axis)``.

    The blocks are a stack, in whatever form: low-rank factors of each gate, a tensor train or a codebook for each. A
    contraction meets all of them at once.

    Attributes:
        blocks: ``stack + (number,) + shape of a block``; an array, or a leaf again.
        axis: dense axis along which they are joined, counted after the stack.
        core_ndim: number of axes of a block.
    """

    blocks: ArrayOrLeaf
    axis: int = dataclasses.field(default=1, metadata={"static": True})
    core_ndim: int = dataclasses.field(default=2, metadata={"static": True})

    free = True

    @classmethod
    def create(cls, blocks: ArrayOrLeaf, axis: int, stack_ndim: int = 0) -> Self:
        """Checks the fields.

        Args:
            blocks: float, ``stack + (number,) + shape of a block``.
            axis: static.
            stack_ndim: static.

        Raises:
            TypeError: if ``blocks`` is not float.
            ValueError: if it has too few axes, or ``axis`` is none of them.

        Example:
            >>> leaf = Blocks.create(jnp.arange(8.0).reshape(2, 2, 2), axis=1)
            >>> leaf.materialize().tolist()
            [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
        """
        if not jnp.issubdtype(blocks.dtype, jnp.floating):
            raise TypeError(f"blocks must be float, got {blocks.dtype}")
        core_ndim = blocks.ndim - stack_ndim - 1
        if stack_ndim < 0 or not 0 <= axis < core_ndim:
            raise ValueError(
                f"axis must be one of the {core_ndim} axes of a block, got axis={axis}, stack_ndim={stack_ndim} and "
                f"blocks of shape {blocks.shape}"
            )
        return cls(blocks if is_compressed(blocks) else jnp.asarray(blocks), axis, core_ndim)

    @property
    def number(self) -> int:
        """How many blocks."""
        return self.blocks.shape[self.stack_ndim]

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate layers."""
        return len(self.blocks.shape) - 1 - self.core_ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the joined array."""
        n, sizes = self.stack_ndim, list(self.blocks.shape)
        count = sizes.pop(n)
        sizes[n + self.axis] *= count
        return tuple(sizes)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """All axes but the joined one run along those of the blocks."""
        n = self.stack_ndim
        joined = n + self.axis
        dense_axes = (axis if axis != joined else None for axis in range(n, n + self.core_ndim))
        return {"blocks": (*range(n), None, *dense_axes)}

    def field_roles(self, name: str, roles: Roles) -> Roles:
        """Every block is a layer by itself."""
        del name
        n = self.stack_ndim
        moved = [
            tuple(axis + (axis >= n) for axis in axes) for axes in (roles.contracting, roles.output, roles.spatial)
        ]
        return Roles(
            (*(a + (a >= n) for a in roles.stack if a < n), n, *(a + 1 for a in roles.stack if a >= n)), *moved
        )

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the blocks."""
        return self.blocks.dtype

    def materialize(self) -> jax.Array:
        """The joined array."""
        n = self.stack_ndim
        return jnp.moveaxis(dense(self.blocks), n, n + self.axis).reshape(self.shape)

    def astype(self, dtype: Any) -> Self | None:
        """The same with blocks of another dtype."""
        blocks = self.blocks.astype(dtype)
        return None if blocks is None else self.replace(blocks=blocks)

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Indexes any axis but the joined one."""
        return None if axis == self.stack_ndim + self.axis else super().map_axis(axis, fn)

    def matmul(self, x: jax.Array, *, contract: Axes, batch: Axes, **options: Any) -> jax.Array | None:
        """One product with all blocks, as the leaf inside has it; None where it has none, or blocks are in step."""
        inside, n = self.blocks, self.stack_ndim
        joined = n + self.axis
        if not isinstance(inside, CompressedArray) or joined in batch[1]:
            return None
        (x_summed, summed), (x_kept, kept) = contract, batch
        summed, kept = (tuple(axis + (axis >= n) for axis in axes) for axes in (summed, kept))
        if joined + 1 in summed:  # the data's axis is split into blocks and what is inside of them, both summed over
            own = x_summed[summed.index(joined + 1)]
            x = x.reshape(*x.shape[:own], self.number, x.shape[own] // self.number, *x.shape[own + 1 :])
            x_summed, x_kept = (tuple(axis + (axis >= own) for axis in axes) for axes in (x_summed, x_kept))
            x_summed, summed = (*x_summed, own), (*summed, n)
        out = inside.matmul(x, contract=(x_summed, summed), batch=(x_kept, kept), **options)
        if out is None or n in summed:
            return out
        free = [axis for axis in range(n + 1 + self.core_ndim) if axis not in {*summed, *kept}]
        first = out.ndim - len(free)
        at = first + free.index(joined + 1) - 1
        out = jnp.moveaxis(out, first + free.index(n), at)
        return out.reshape(*out.shape[:at], out.shape[at] * out.shape[at + 1], *out.shape[at + 2 :])

    def how(self, x: Any, *, contract: Any, batch: Any) -> str:
        """Says how many blocks there are, in which form."""
        del x, contract, batch
        return f"{self.kind}: {self.number} {getattr(self.blocks, 'kind', 'dense')} products at once"
