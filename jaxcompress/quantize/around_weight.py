"""What all leaves share that round the data which a weight meets, and leave the weight as it is."""

from __future__ import annotations

from typing import Any, Self

import jax
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, dense
from jaxcompress.quantize.integer_product import Axes


class AroundWeight(CompressedArray):
    """A leaf around a weight: its dense array is the weight's, its other fields speak of the data.

    Attributes:
        weight: array or leaf of the dense shape.
    """

    weight: ArrayOrLeaf

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the weight."""
        return self.weight.dtype

    def materialize(self) -> jax.Array:
        """The dense weight. What is said of the data is no part of it."""
        return dense(self.weight)

    def support(self) -> jax.Array | None:
        """Of the weight."""
        return self.weight.support() if isinstance(self.weight, CompressedArray) else None

    def astype(self, dtype: Any) -> Self | None:
        """The same with a dense array of another dtype."""
        weight = self.weight.astype(dtype)
        return None if weight is None else self.replace(weight=weight)

    def map_axis(self, axis: int, fn: FieldOp) -> Self:
        """Of the weight, dense where it cannot be taken apart itself: the data is rounded wherever it meets a part."""
        weight, size = self.weight, self.shape[axis]
        part = weight.map_axis(axis, fn) if isinstance(weight, CompressedArray) else None
        changes: dict[str, Any] = {"weight": fn(dense(weight), axis) if part is None else part}
        for name, axes in self.alignment().items():
            field = getattr(self, name)
            if name != "weight" and axis in axes and field.shape[axes.index(axis)] == size:
                changes[name] = fn(field, axes.index(axis))
        return self.replace(**changes)

    def weight_matmul(self, x: jax.Array, contract: Axes, batch: Axes, **options: Any) -> jax.Array:
        """``dot_general(x, weight)``, by the weight's own product where it has one."""
        out = None
        if isinstance(self.weight, CompressedArray):
            out = self.weight.matmul(x, contract=contract, batch=batch, **options)
        return lax.dot_general(x, dense(self.weight), (contract, batch), **options) if out is None else out

    def weight_conv(self, x: jax.Array, **params: Any) -> jax.Array:
        """The convolution with the weight, by its own one where it has one."""
        out = self.weight.conv(x, **params) if isinstance(self.weight, CompressedArray) else None
        return lax.conv_general_dilated_p.bind(x, dense(self.weight), **params) if out is None else out
