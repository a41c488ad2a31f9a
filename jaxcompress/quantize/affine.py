"""The leaf kind of linearly quantized arrays: small integers times a scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray, leaf_kind


@leaf_kind("quantized", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quantized(CompressedArray):
    """Integers on a symmetric grid: ``materialize() == qvalue * scale``.

    Attributes:
        qvalue: int8 or int4, of the dense shape.
        scale: float, with as many axes as ``qvalue``. Along each axis it has the full size (a scale per channel), 1 (one
            for all), or a divisor (a scale per group of neighbours). Stack axes keep their full size.
        dtype: dtype of the dense array, static.
    """

    qvalue: jax.Array
    scale: jax.Array
    dtype: np.dtype = dataclasses.field(metadata={"static": True})  # type: ignore[assignment]  # the field is the property

    @classmethod
    def create(cls, qvalue: jax.Array, scale: jax.Array, *, dtype: Any = None) -> Self:
        """Checks the fields and builds the leaf.

        Args:
            qvalue: signed integers.
            scale: float; see the class.
            dtype: dtype of the dense array; that of ``scale`` by default.

        Raises:
            TypeError: if ``qvalue`` is no signed integer or ``scale`` no float.
            ValueError: if an axis of ``scale`` is not the full size, 1, or a divisor.

        Example:
            >>> leaf = Quantized.create(jnp.array([[127, -3]], jnp.int8), jnp.array([[0.5, 2.0]]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[63.5, -6.0]], 80)
        """
        if not jnp.issubdtype(qvalue.dtype, jnp.signedinteger):
            raise TypeError(f"qvalue must be a signed integer array, got {qvalue.dtype}")
        if not jnp.issubdtype(scale.dtype, jnp.floating):
            raise TypeError(f"scale must be float, got {scale.dtype}")
        fits = scale.ndim == qvalue.ndim and all(
            s and q % s == 0 for q, s in zip(qvalue.shape, scale.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"scale of shape {scale.shape} does not fit qvalue of shape {qvalue.shape}: it needs as many axes, each of "
                "the full size, of size 1, or of a size that divides it (groups)"
            )
        return cls(qvalue, scale, jnp.dtype(scale.dtype if dtype is None else dtype))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.qvalue.shape)))
        return {"qvalue": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """``qvalue * scale``, computed in the dtype of the scale."""
        return (self.qvalue.astype(self.scale.dtype) * self._spread()).astype(self.dtype)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: tuple[tuple[int, ...], tuple[int, ...]],
        batch: tuple[tuple[int, ...], tuple[int, ...]],
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Contracts with the integers and applies the scale afterwards, where it is one number along every sum."""
        if any(self.scale.shape[axis] != 1 for axis in contract[1]):
            return None
        accumulate = jnp.promote_types(preferred_element_type or x.dtype, self.scale.dtype)
        out = lax.dot_general(
            x, self.qvalue.astype(x.dtype), (contract, batch), precision=precision, preferred_element_type=accumulate
        )
        kept = [axis for axis in range(self.ndim) if axis not in {*contract[1], *batch[1]}]
        spread = self._spread(*batch[1], *kept)
        per_result = lax.transpose(spread, (*batch[1], *kept, *contract[1]))
        x_free = out.ndim - len(batch[1]) - len(kept)
        shape = (*per_result.shape[: len(batch[1])], *(1,) * x_free, *(self.shape[axis] for axis in kept))
        return (out * per_result.reshape(shape)).astype(preferred_element_type or x.dtype)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Convolves with the integers and scales each output feature, where the scale varies along those alone."""
        numbers = params["dimension_numbers"]
        feature = numbers.rhs_spec[0]
        varies = any(size != 1 for axis, size in enumerate(self.scale.shape) if axis != feature)
        if varies or x.dtype != self.dtype:
            return None
        result = params["preferred_element_type"] or x.dtype
        params = params | {"preferred_element_type": jnp.promote_types(result, self.scale.dtype)}
        out = lax.conv_general_dilated_p.bind(x, self.qvalue.astype(x.dtype), **params)
        spread = self._spread(feature).reshape(-1)
        shape = [1] * out.ndim
        shape[numbers.out_spec[1]] = spread.shape[0]
        return (out * spread.reshape(shape)).astype(result)

    def astype(self, dtype: Any) -> Self:
        """The same integers, for a dense array of another float dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def _spread(self, *axes: int) -> jax.Array:
        """The scale with groups spread to full size: along ``axes``, or along every axis held in groups."""
        scale = self.scale
        for axis, (size, held) in enumerate(zip(self.qvalue.shape, scale.shape, strict=True)):
            if held != size and (axis in axes or held != 1):
                scale = jnp.repeat(scale, size // held, axis=axis)
        return scale
