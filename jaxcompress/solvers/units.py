"""Units in which numbers are near one, so that squares of huge or tiny ones neither overflow nor vanish."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def unit_of(x: jax.Array) -> jax.Array:
    """A power of two near the largest magnitude: dividing by it rounds nothing, and leaves numbers below eight.

    Args:
        x: finite floats of any shape, not empty.

    Returns:
        Scalar of the dtype of ``x``; 1 if all are zero. No gradient passes through it.

    Example:
        >>> x = jnp.array([-3e30, 1e30])
        >>> bool(jnp.abs(x / unit_of(x)).max() < 8), unit_of(jnp.array([-20.0, 7.0])).item()
        (True, 4.0)
    """
    finfo = jnp.finfo(x.dtype)
    largest = lax.stop_gradient(jnp.max(jnp.abs(x)))
    near = lax.reduce_precision(0.25 * largest, exponent_bits=finfo.nexp, mantissa_bits=0)
    return jnp.where(largest > 0, jnp.maximum(near, finfo.tiny), jnp.ones_like(near))
