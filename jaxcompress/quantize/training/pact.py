"""PACT: activations clipped at a level that trains; DoReFa's clip at 1 is the case in which it does not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxcompress.solvers import grid
from jaxcompress.solvers.grid import spread


def pact(x: jax.Array, alpha: jax.Array, *, bits: int) -> jax.Array:
    """Clips to ``[0, alpha]`` and rounds to ``2**bits - 1`` steps.

    The derivative with respect to ``x`` is 1 inside the interval and 0 beyond, that with respect to ``alpha`` is 1
    where ``x >= alpha`` and 0 below. The paper advises an L2 penalty on alpha, as large as that of the weights: give
    `jaxcompress.train.decay_mask` with the alphas set to True, or an optimizer of their own.

    Args:
        x: float array.
        alpha: positive, with as many axes as ``x``, the size of each dividing its. A negative one counts by its
            absolute value.
        bits: 2 to 8, static.

    Returns:
        Array of the shape of ``x``, in the dtype of alpha.

    Example:
        >>> pact(jnp.array([-1.0, 0.9, 5.0]), jnp.array([3.0]), bits=2).tolist()
        [0.0, 1.0, 3.0]

    References:
        Choi et al., 2018 (PACT), equations 1 to 3. https://arxiv.org/abs/1805.06085
        Zhou et al., 2016 (DoReFa), section 2.4, for alpha = 1. https://arxiv.org/abs/1606.06160
    """
    return _pact(x.astype(alpha.dtype), alpha, bits)


def pact_grid(alpha: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array]:
    """The grid of `pact`: ``(scale, zero point)``."""
    scale = grid.or_one(jnp.abs(alpha) * jnp.asarray(1 / (2**bits - 1), alpha.dtype))
    return scale, jnp.full(alpha.shape, grid.smallest_code(bits, symmetric=False), jnp.int8)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _pact(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    scale, zero_point = pact_grid(alpha, bits=bits)
    return grid.dequantize(grid.quantize(x, scale, zero_point, bits=bits), scale, zero_point)


@_pact.defjvp
def _pact_jvp(bits: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, alpha), (dx, dalpha) = primals, tangents
    above = x >= spread(jnp.abs(alpha), x.shape)
    raised = spread(jnp.where(alpha < 0, -dalpha, dalpha), x.shape)
    through = jnp.where(x > 0, dx, jnp.zeros_like(dx))
    return _pact(x, alpha, bits), jnp.where(above, raised, through)
