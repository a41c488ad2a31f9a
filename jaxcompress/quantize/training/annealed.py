"""Weights whose number of levels is a runtime number: it falls as training goes on."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, leaf_kind
from jaxcompress.quantize.formats import Scaling, format_of
from jaxcompress.quantize.training.fake import Live
from jaxcompress.quantize.training.straight_through import replaced
from jaxcompress.solvers.grid import group_range, or_one, spread

_SLACK = 1e-3  # of a bit: what an optimizer's arithmetic may have done to a whole number


@leaf_kind("fake_annealed_bits", trainable=("values", "bits"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AnnealedBits(Live):
    """Symmetric integers that reach the largest weight of their group, of a width that may change at every step.

    Codes are ``-top .. top`` with ``top = max(1, round(2**(bits - 1)) - 1)``, so that widths between whole numbers have
    levels in between too. `jaxcompress.train.anneal_bits` moves the width along a schedule. Rounding is passed straight
    through; nothing is clipped.

    Attributes:
        values: see `FakeQuantized`.
        bits: float, the width: one per layer, of the number of axes of the values. Its gradient is zero.
        core: see the base.
        dtype: of the dense array.

    References:
        Zhuang et al., 2018 (progressive quantization, there in a few stages). https://arxiv.org/abs/1711.00205
    """

    values: ArrayOrLeaf
    bits: jax.Array
    core: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def materialize(self) -> jax.Array:
        """The nearest points of the grid that the width gives."""
        codes, scale = self._codes()
        values = dense(self.values).astype(scale.dtype)
        return replaced(values, codes * spread(scale, codes.shape)).astype(self.dtype)

    def coded(self) -> CompressedArray:
        """Codes in as many bits as the widest layer needs.

        Raises:
            ValueError: if that is more than 8, or not known (under ``jit``).
        """
        if isinstance(self.bits, Tracer):
            raise ValueError(
                "convert: the width of an annealed leaf is traced, but it decides on a dtype: call outside jit"
            )
        width = max(2, math.ceil(float(self.bits.max()) - _SLACK))
        if width > 8:
            raise ValueError(
                f"convert: the annealing has come to {float(self.bits.max()):.3g} bits, codes have up to 8: train "
                "on, or end the schedule at 8 or less"
            )
        codes, scale = self._codes()
        return format_of("int", width).leaf(codes.astype(jnp.int8), Scaling(scale), self.dtype)

    def _codes(self) -> tuple[jax.Array, jax.Array]:
        values = lax.stop_gradient(dense(self.values))
        low, high = group_range(values, self.scale_shape)
        levels = jnp.round(jnp.exp2(lax.stop_gradient(self.bits).astype(low.dtype) - 1)) - 1
        top = jnp.broadcast_to(jnp.maximum(levels, jnp.ones_like(levels)), low.shape)
        scale = or_one(jnp.maximum(jnp.abs(low), jnp.abs(high)) / top)
        steps = values.astype(scale.dtype) / spread(scale, values.shape)
        limit = spread(top, values.shape)
        return jnp.clip(jnp.round(steps), -limit, limit), scale
