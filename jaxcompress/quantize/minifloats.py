"""Floats of 8 and 4 bits, and blocks of them that share a power of two."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.solvers import grid

BLOCK = 32
"""Elements that share a scale in the formats of the OCP specification."""

_DTYPES = {
    "fp8_e4m3": jnp.dtype(jnp.float8_e4m3fn),
    "fp8_e5m2": jnp.dtype(jnp.float8_e5m2),
    "fp4": jnp.dtype(jnp.float4_e2m1fn),
}
BLOCK_FORMATS = {"mxfp4": "fp4", "mxfp8_e4m3": "fp8_e4m3", "mxfp8_e5m2": "fp8_e5m2"}
"""Names of the formats of blocks, with the format of their elements."""


def dtype_of(name: str) -> np.dtype:
    """The dtype of the elements of a format.

    Example:
        >>> dtype_of("mxfp4"), dtype_of("fp8_e4m3")
        (dtype(float4_e2m1fn), dtype(float8_e4m3fn))
    """
    return _DTYPES[BLOCK_FORMATS.get(name, name)]


def width(name: str) -> int:
    """Bits of an element."""
    return jnp.finfo(dtype_of(name)).bits


def largest(name: str) -> float:
    """The largest finite element: 448 for e4m3, 57344 for e5m2, 6 for e2m1.

    Example:
        >>> largest("fp8_e4m3"), largest("fp8_e5m2"), largest("mxfp4")
        (448.0, 57344.0, 6.0)
    """
    return float(jnp.finfo(dtype_of(name)).max)


def encode(x: jax.Array, scale: jax.Array, name: str) -> jax.Array:
    """Elements nearest to ``x / scale`` (halves to even), clipped to the largest finite ones.

    The bare cast would make NaN of what is too large for e4m3, and infinity of what is too large for e5m2.

    Example:
        >>> encode(jnp.array([449.0, -1e9, 0.0175]), jnp.array([1.0]), "fp8_e4m3").tolist()
        [448.0, -448.0, 0.017578125]
    """
    scale = grid.widened(scale)
    steps = (grid.grouped(x.astype(scale.dtype), scale.shape) / grid.per_group(scale)).reshape(x.shape)
    top = largest(name)
    return _rounded(jnp.clip(steps, -top, top), name).astype(dtype_of(name))


def _rounded(x: jax.Array, name: str) -> jax.Array:
    """The nearest elements as wide floats: XLA may cast by way of a third format, and would then round twice."""
    form = jnp.finfo(dtype_of(name))
    _, exponent = jnp.frexp(x)  # x = m 2^e with m in [1/2, 1): its binade is e - 1
    step = jnp.ldexp(jnp.ones_like(x), jnp.maximum(exponent - 1, form.minexp) - form.nmant)
    return jnp.round(x / step) * step


def power_of_two(absmax: jax.Array, name: str) -> jax.Array:
    """The shared scale of blocks: two to the exponent of the largest entry, less the largest exponent of an element.

    So the largest entry lies in the highest binade of the elements; what is beyond their largest one is clipped.

    Example:
        >>> power_of_two(jnp.array([6.0, 7.9, 8.0, 0.0]), "mxfp4").tolist()
        [1.0, 1.0, 2.0, 1.0]

    References:
        OCP Microscaling Formats (MX) Specification v1.0, 2023, section 6.3.
    """
    smallest = jnp.finfo(absmax.dtype).tiny
    _, exponent = jnp.frexp(jnp.maximum(absmax, smallest))  # absmax = m 2^e with m in [1/2, 1): its binade is e - 1
    _, highest = np.frexp(largest(name))
    # From 2^-126 to 2^127: what float8_e8m0fnu holds, less the exponent that is subnormal in float32.
    shared = jnp.clip(exponent - int(highest), -126, 127)
    scale = jnp.ldexp(jnp.ones_like(absmax), shared)
    return jnp.where(absmax > smallest, scale, jnp.ones_like(scale))
