"""The leaf kind of symmetric integer quantization: small integers, and scales per channel or group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray, leaf_kind
from jaxcompress.solvers.grid import dequantize, spread


@leaf_kind("quantized", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quantized(CompressedArray):
    """An array of integers times scales: ``materialize() == qvalue * scale``, the scale repeated along its groups.

    The scale has as many axes as the integers. Along each axis it holds one entry per index, one for all, or one per
    group of neighbours; stack axes it always holds in full, so that layers can be taken apart.

    Attributes:
        qvalue: int8 or int4, of the dense shape.
        scale: float; the size of each axis divides that of ``qvalue``.
        dtype: dtype of the dense array.
    """

    qvalue: jax.Array
    scale: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    @classmethod
    def create(cls, qvalue: jax.Array, scale: jax.Array, dtype: Any = None) -> Self:
        """Checks the two fields.

        Args:
            qvalue: int8 or int4 array of any shape.
            scale: float array of as many axes, the size of each dividing that of ``qvalue``.
            dtype: dtype of the dense array; by default the scale's.

        Raises:
            TypeError: if ``qvalue`` is not int8 or int4, or ``scale`` or ``dtype`` is not float.
            ValueError: if the shapes do not fit.

        Example:
            >>> leaf = Quantized.create(jnp.array([[1, -2], [3, 4]], jnp.int8), jnp.array([[0.5, 2.0]]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[0.5, -4.0], [1.5, 8.0]], 96)
        """
        dtype = jnp.dtype(scale.dtype if dtype is None else dtype)
        if qvalue.dtype not in (jnp.int8, jnp.int4):
            raise TypeError(f"qvalue must be int8 or int4, got {qvalue.dtype}")
        for name, given in (("scale", scale.dtype), ("dtype", dtype)):
            if not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be float, got {given}")
        fits = qvalue.ndim == scale.ndim and all(
            part == whole or (part and whole % part == 0) for part, whole in zip(scale.shape, qvalue.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"scale must have the axes of qvalue, each size dividing its; got {scale.shape} for {qvalue.shape}"
            )
        return cls(jnp.asarray(qvalue), jnp.asarray(scale), dtype)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.qvalue.shape)))
        return {"qvalue": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """The integers times their scales, in the dtype of the scales."""
        return dequantize(self.qvalue, self.scale).astype(self.dtype)

    def astype(self, dtype: Any) -> Self:
        """The same integers and scales with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: tuple[tuple[int, ...], tuple[int, ...]],
        batch: tuple[tuple[int, ...], tuple[int, ...]],
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Multiplies by the integers and applies the scale to the result, where it is constant along the sum."""
        if any(self.scale.shape[axis] != 1 for axis in contract[1]) or x.dtype != self.dtype:
            return None
        out_dtype = jnp.dtype(preferred_element_type or x.dtype)
        out = lax.dot_general(
            x,
            self.qvalue.astype(x.dtype),
            (contract, batch),
            precision=precision,
            preferred_element_type=self._wider(out_dtype),
        )
        batches, x_free = len(batch[1]), x.ndim - len(batch[0]) - len(contract[0])
        free = [axis for axis in range(self.ndim) if axis not in {*contract[1], *batch[1]}]
        scale = lax.transpose(self._per_channel(), (*batch[1], *free, *contract[1]))
        scale = scale.reshape(*scale.shape[:batches], *(1,) * x_free, *scale.shape[batches : batches + len(free)])
        return (out * scale.astype(out.dtype)).astype(out_dtype)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Convolves with the integers and applies the scale to the result, where it varies by output feature alone."""
        numbers = params["dimension_numbers"]
        feature = numbers.rhs_spec[0]
        varies = any(size != 1 for axis, size in enumerate(self.scale.shape) if axis != feature)
        if varies or x.dtype != self.dtype:
            return None
        out_dtype = jnp.dtype(params["preferred_element_type"] or x.dtype)
        params |= {"preferred_element_type": self._wider(out_dtype)}
        out = lax.conv_general_dilated_p.bind(x, self.qvalue.astype(x.dtype), **params)
        shape = [1] * out.ndim
        shape[numbers.out_spec[1]] = -1
        return (out * self._per_channel().reshape(shape).astype(out.dtype)).astype(out_dtype)

    def _per_channel(self) -> jax.Array:
        """The scale in full along every axis on which it varies."""
        return spread(self.scale, tuple(1 if s == 1 else n for s, n in zip(self.scale.shape, self.shape, strict=True)))

    def _wider(self, dtype: np.dtype) -> np.dtype:
        """The dtype in which a sum meets the scale: the wider one of the result's and the scale's."""
        return max(dtype, jnp.dtype(self.scale.dtype), key=lambda d: d.itemsize)
