"""Keeps the compiler from computing codes anew in everything that reads them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def apart(codes: jax.Array) -> jax.Array:
    """The same int8 codes, computed once.

    XLA on a CPU fuses the requantization of a sum, some thirty integer operations, into each of the nine shifted views
    of a 3 x 3 convolution behind it; a ResNet-20 then takes 5 times as long and its compilation 3 times. A barrier is
    not heeded there; a branch is, and this one is always taken.
    """
    if any(isinstance(size, int) and size == 0 for size in codes.shape):
        return codes
    return lax.platform_dependent(codes, cpu=_branch, default=lax.optimization_barrier)


def _branch(codes: jax.Array) -> jax.Array:
    first = lax.squeeze(lax.slice(codes, [0] * codes.ndim, [1] * codes.ndim), range(codes.ndim))
    always = first.astype(jnp.int32) > -129  # by its values, which the compiler does not know
    return lax.cond(always, lambda codes: codes, jnp.zeros_like, codes)
