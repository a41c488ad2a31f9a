"""Weights that are on a grid at all times: there is no float copy beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray, leaf_kind
from jaxcompress.quantize.formats import Format, Scaling, format_of
from jaxcompress.quantize.training.fake import FakeQuantized
from jaxcompress.solvers.grid import group_range, grouped, largest_code

_CANDIDATES = 8  # powers of two below the one that clips nothing


@leaf_kind("on_grid", trainable=("values", "scale"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OnGrid(FakeQuantized):
    """Integers times a power of two, held as floats; `jaxcompress.train.discrete` moves them from point to point.

    Steps are powers of two (fixed-point numbers), so that points, their differences and their sums are exact floats: an
    update of any optimizer library, ``values + update``, lands exactly on the grid.

    Attributes:
        values: on the grid.
        scale: the steps, with as many axes as the values. Their gradient is zero; they count as
            trainable so that whoever moves the values sees them.
        bits: width of a code; codes are symmetric.
        dtype: of the dense array.
    """

    values: jax.Array
    scale: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    dtype: np.dtype = dataclasses.field(metadata={"static": True})

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.values.shape)))
        return {"values": axes, "scale": axes}

    def materialize(self) -> jax.Array:
        """The values: they are on the grid."""
        return self.values.astype(self.dtype)

    def coded(self) -> CompressedArray:
        """The integers."""
        number_format, scaling = format_of("int", self.bits), Scaling(self.scale)
        return number_format.leaf(number_format.encode(self.values, scaling), scaling, self.dtype)


def power_of_two_step(x: jax.Array, scale_shape: tuple[int, ...], *, bits: int) -> jax.Array:
    """The power of two, per group, as whose multiples the entries are met with the smallest squared error.

    Args:
        x: float array.
        scale_shape: see `jaxcompress.solvers.grid`.
        bits: width of a symmetric code, static.

    Example:
        >>> power_of_two_step(jnp.array([0.26, -0.5, 1.0]), (1,), bits=4).tolist()
        [0.25]
    """
    low, high = group_range(x, scale_shape)
    reach = jnp.maximum(jnp.abs(low), jnp.abs(high)) / largest_code(bits)
    _, exponent = jnp.frexp(jnp.where(reach > 0, reach, jnp.ones_like(reach)))  # reach <= 2**exponent
    number_format = format_of("int", bits)

    def error(down: jax.Array) -> jax.Array:
        step = jnp.ldexp(jnp.ones_like(reach), exponent - down)
        missed = number_format.project(x, Scaling(step)) - x.astype(step.dtype)
        groups = jnp.square(grouped(missed, scale_shape))
        return jnp.sum(groups, axis=tuple(range(1, groups.ndim, 2)))

    errors = lax.map(error, jnp.arange(_CANDIDATES, dtype=exponent.dtype))
    best = jnp.argmin(errors, axis=0).astype(exponent.dtype)
    return jnp.ldexp(jnp.ones_like(reach), exponent - best)


def projected(x: jax.Array, scale: jax.Array, *, bits: int) -> jax.Array:
    """The nearest points of the grid, in the dtype of ``x``."""
    number_format: Format = format_of("int", bits)
    return number_format.project(x, Scaling(scale)).astype(x.dtype)
