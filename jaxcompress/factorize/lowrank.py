"""The leaf kind of low-rank arrays: a product of two thin factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, is_compressed, leaf_kind
from jaxcompress.core.lift import lift

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@leaf_kind("lowrank", trainable=("u", "v"), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRank(CompressedArray):
    """``u @ v``, with the axes of the dense array split into stack, rows and columns in this order.

    Attributes:
        u: ``stack + rows + (rank,)``; an array or a leaf.
        v: ``stack + (rank,) + columns``; an array or a leaf.
        row_ndim: number of row axes, static.
        col_ndim: number of column axes, static.
    """

    u: ArrayOrLeaf
    v: ArrayOrLeaf
    row_ndim: int = dataclasses.field(metadata={"static": True})
    col_ndim: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, u: ArrayOrLeaf, v: ArrayOrLeaf, *, row_ndim: int = 1, col_ndim: int = 1) -> Self:
        """Checks the factors and builds the leaf.

        Raises:
            ValueError: if the stack axes or the ranks of the factors differ.
            TypeError: if their dtypes differ.

        Example:
            >>> leaf = LowRank.create(jnp.ones((3, 1)), 2 * jnp.ones((1, 4)))
            >>> leaf.shape, float(leaf.materialize()[0, 0]), leaf.rank
            ((3, 4), 2.0, 1)
        """
        stack = u.ndim - row_ndim - 1
        fits = stack >= 0 and stack == v.ndim - col_ndim - 1
        if not fits or u.shape[:stack] != v.shape[:stack] or u.shape[-1] != v.shape[stack]:
            raise ValueError(
                f"factors of shapes {u.shape} and {v.shape} do not fit: expected stack + rows + (rank,) with {row_ndim} row "
                f"axes and stack + (rank,) + columns with {col_ndim} column axes"
            )
        if u.dtype != v.dtype:
            raise TypeError(f"factors must share one dtype, got {u.dtype} and {v.dtype}")
        return cls(u, v, row_ndim, col_ndim)

    @property
    def rank(self) -> int:
        """Inner size of the product."""
        return self.u.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the factors."""
        return self.u.dtype

    @property
    def _stack(self) -> int:
        return len(self.u.shape) - self.row_ndim - 1

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """``u`` holds stack and rows, ``v`` stack and columns; the rank is their own."""
        stack, rows = tuple(range(self._stack)), self._stack + self.row_ndim
        return {
            "u": (*range(rows), None),
            "v": (*stack, None, *range(rows, rows + self.col_ndim)),
        }

    def materialize(self) -> jax.Array:
        """The product of the factors, in full precision."""
        u, v = dense(self.u), dense(self.v)
        stack = tuple(range(self._stack))
        axes = (((u.ndim - 1,), (self._stack,)), (stack, stack))
        return lax.dot_general(u, v, axes, precision=lax.Precision.HIGHEST)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array:
        """Two thin products; the factor that is summed over comes first."""
        options = {"precision": precision, "preferred_element_type": preferred_element_type}
        call = lambda u, v, x: self._chain(u, v, x, contract, batch, options)  # noqa: E731  # lift keys on it
        nested = is_compressed(self.u) or is_compressed(self.v)
        return lift(call)(self.u, self.v, x) if nested else call(self.u, self.v, x)

    def _chain(
        self, u: jax.Array, v: jax.Array, x: jax.Array, contract: Axes, batch: Axes, options: Mapping[str, Any]
    ) -> jax.Array:
        alignment = self.alignment()
        rows_summed = sum(axis in alignment["u"] for axis in contract[1] if axis >= self._stack)
        columns_summed = len([axis for axis in contract[1] if axis >= self._stack]) - rows_summed
        first, second = ("v", "u") if columns_summed > rows_summed else ("u", "v")
        names = _Labels(x.ndim, contract, batch)
        fields = {"u": (u, names.of(alignment["u"])), "v": (v, names.of(alignment["v"]))}
        result = names.result(self.ndim)
        needed = {*result, *fields[second][1]}
        middle, labels = _einsum(x, names.x, *fields[first], keep=needed, **options)
        out, labels = _einsum(middle.astype(x.dtype), labels, *fields[second], keep=set(result), **options)
        return lax.transpose(out, [labels.index(label) for label in result])

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """A convolution to ``rank`` features and a 1x1 mixing of them, for a kernel whose columns are the outputs."""
        out_axis, *others = params["dimension_numbers"].rhs_spec
        plain = params["feature_group_count"] == params["batch_group_count"] == 1
        if not plain or self._stack or self.col_ndim != 1 or out_axis != self.ndim - 1:
            return None
        call = lambda u, v, x: _conv_chain(u, v, x, params)  # noqa: E731  # lift keys on it
        nested = is_compressed(self.u) or is_compressed(self.v)
        return lift(call)(self.u, self.v, x) if nested else call(self.u, self.v, x)

    def astype(self, dtype: Any) -> Self | None:
        """The product of the cast factors."""
        u, v = self.u.astype(dtype), self.v.astype(dtype)
        return None if u is None or v is None else self.replace(u=u, v=v)


class _Labels:
    """Names for the axes of a product ``x . leaf``: shared by ``x`` and the leaf where they are paired."""

    def __init__(self, x_ndim: int, contract: Axes, batch: Axes) -> None:
        pairs = dict(zip((*contract[0], *batch[0]), (*contract[1], *batch[1]), strict=True))
        self.x = [("leaf", pairs[axis]) if axis in pairs else ("x", axis) for axis in range(x_ndim)]
        self.batch = [("leaf", axis) for axis in batch[1]]
        self.gone = {*contract[1], *batch[1]}

    def of(self, aligned: Sequence[int | None]) -> list[Any]:
        return ["rank" if axis is None else ("leaf", axis) for axis in aligned]

    def result(self, ndim: int) -> list[Any]:
        free = [("leaf", axis) for axis in range(ndim) if axis not in self.gone]
        return [*self.batch, *(label for label in self.x if label[0] == "x"), *free]


def _einsum(
    a: jax.Array, a_labels: Sequence[Any], b: jax.Array, b_labels: Sequence[Any], *, keep: set[Any], **options: Any
) -> tuple[jax.Array, list[Any]]:
    """One `dot_general` of two labelled operands: shared labels are kept in step if in ``keep``, else summed over."""
    shared = [label for label in a_labels if label in b_labels]
    batch = [label for label in shared if label in keep]
    summed = [label for label in shared if label not in keep]
    numbers = tuple(
        tuple(tuple(labels.index(label) for label in group) for labels in (a_labels, b_labels))
        for group in (summed, batch)
    )
    out = lax.dot_general(a, b, numbers, **options)
    rest = [label for label in a_labels if label not in shared], [label for label in b_labels if label not in shared]
    return out, [*batch, *rest[0], *rest[1]]


def _conv_chain(u: jax.Array, v: jax.Array, x: jax.Array, params: Mapping[str, Any]) -> jax.Array:
    middle = lax.conv_general_dilated_p.bind(x, u, **params)
    feature = params["dimension_numbers"].out_spec[1]
    out = lax.dot_general(
        middle.astype(x.dtype),
        v,
        (((feature,), (0,)), ((), ())),
        precision=_single(params["precision"]),
        preferred_element_type=params["preferred_element_type"],
    )
    return jnp.moveaxis(out, -1, feature)


def _single(precision: Any) -> Any:
    return precision
