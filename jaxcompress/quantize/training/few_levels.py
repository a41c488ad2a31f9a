"""Binary and ternary weights in training: signs and zeros times a scale that follows the weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.quantize.training.straight_through import clipped_sign, replaced, widened
from jaxcompress.solvers.grid import grouped, or_one, spread

WIDTHS: dict[str, int] = {"binary_connect": 1, "xnor": 1, "twn": 2, "bitnet": 2}  # bits of a code


def few_levels(x: jax.Array, method: str, scale_shape: tuple[int, ...]) -> jax.Array:
    """Weights as signs, or signs and zeros, times one scale per group.

    | method | value | derivative |
    | - | - | - |
    | ``binary_connect`` | ``sign(x)`` | 1 where ``abs(x) <= 1`` |
    | ``xnor`` | ``mean(abs(x)) * sign(x)`` | that of the mean; 1 for the sign where ``abs(x) <= 1`` |
    | ``twn`` | ``a * sign(x)`` where ``abs(x) > 0.7 mean(abs(x))``, else 0; ``a`` their mean ``abs(x)`` | 1 |
    | ``bitnet`` | ``m * clip(round(x / m), -1, 1)``, ``m = mean(abs(x))`` | 1 |

    The sign of zero is +1. XNOR-Net's equation writes the derivative of the mean as ``1 / n`` of the entry's own
    gradient; here it is the derivative, the sum over the group. BinaryConnect also clips the weights themselves to
    [-1, 1] after every step, which `optax.projections.projection_box` does if wanted: beyond, they get no gradient.

    Args:
        x: float array.
        method: static.
        scale_shape: which entries share a scale (see `jaxcompress.solvers.grid`).

    Returns:
        Array of the shape of ``x``, float32 (float64 for float64).

    Example:
        >>> x = jnp.array([-2.0, 0.5, 0.25, 1.25])
        >>> few_levels(x, "xnor", (1,)).tolist(), few_levels(x, "twn", (1,)).tolist()
        ([-1.0, 1.0, 1.0, 1.0], [-1.625, 0.0, 0.0, 1.625])

    References:
        BinaryConnect: Courbariaux et al., 2015, algorithm 1. https://arxiv.org/abs/1511.00363
        XNOR-Net: Rastegari et al., 2016, section 3.1. https://arxiv.org/abs/1603.05279
        TWN: Li et al., 2016, section 2. https://arxiv.org/abs/1605.04711
        BitNet b1.58: Ma et al., 2024, equations 1 to 3. https://arxiv.org/abs/2402.17764
    """
    wide = widened(x)
    codes, scale = few_codes(wide, method, scale_shape)
    if method == "binary_connect":
        return clipped_sign(wide) * spread(scale, x.shape)
    if method == "xnor":
        return clipped_sign(wide) * spread(_mean(jnp.abs(wide), scale_shape), x.shape)
    return replaced(wide, codes * spread(scale, x.shape))


def few_codes(x: jax.Array, method: str, scale_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`few_levels` as ``(-1, 0 and 1 as floats, scale)``, whose product it is. No derivative."""
    x = lax.stop_gradient(x)
    size = jnp.abs(x)
    signs = jnp.where(x < 0, -1, 1).astype(x.dtype)
    if method == "binary_connect":
        return signs, jnp.ones(scale_shape, x.dtype)
    mean = _mean(size, scale_shape)
    if method == "xnor":
        return signs, mean
    if method == "bitnet":
        scale = or_one(mean)
        return jnp.clip(jnp.round(x / spread(scale, x.shape)), -1, 1), scale
    kept = size > spread(0.7 * mean, x.shape)
    codes = jnp.where(kept, signs, jnp.zeros_like(signs))
    total, count = (_sum(part, scale_shape) for part in (jnp.where(kept, size, jnp.zeros_like(size)), jnp.abs(codes)))
    return codes, or_one(total / jnp.maximum(count, jnp.ones_like(count)))


def _mean(x: jax.Array, scale_shape: tuple[int, ...]) -> jax.Array:
    entries = math.prod(x.shape) // max(1, math.prod(scale_shape))
    return _sum(x, scale_shape) * jnp.asarray(1 / max(1, entries), x.dtype)


def _sum(x: jax.Array, scale_shape: tuple[int, ...]) -> jax.Array:
    groups = grouped(x, scale_shape)
    return jnp.sum(groups, axis=tuple(range(1, groups.ndim, 2)))
