"""Rounding whose derivative is that of no rounding: straight-through estimators."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.solvers.grid import spread


def straight_through(x: jax.Array, scaling: Scaling, number_format: Format) -> jax.Array:
    """The nearest value of a format; the derivative is 1 where that was rounding, 0 where it was clipping.

    Rounding is what moves an entry by up to half a step at the ends of the format. The scaling has no derivative.

    Args:
        x: float array.
        scaling: where the format lies.
        number_format: static.

    Returns:
        Array of the shape of ``x``, in the dtype of the scale.

    Example:
        >>> from jaxcompress.quantize.formats import format_of
        >>> q = lambda x: straight_through(x, Scaling(jnp.array([0.5])), format_of("int", 4))
        >>> q(jnp.array([0.6, 3.7, 9.0])).tolist(), jax.grad(lambda x: q(x).sum())(jnp.array([0.6, 3.7, 9.0])).tolist()
        ([0.5, 3.5, 3.5], [1.0, 1.0, 0.0])

    References:
        Bengio et al., 2013. https://arxiv.org/abs/1308.3432
        Jacob et al., 2018, section 3. https://arxiv.org/abs/1712.05877
    """
    return _straight_through(x.astype(scaling.scale.dtype), scaling, number_format)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _straight_through(x: jax.Array, scaling: Scaling, number_format: Format) -> jax.Array:
    return number_format.project(x, scaling)


@_straight_through.defjvp
def _straight_through_jvp(number_format: Format, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, scaling = primals
    out = _straight_through(x, scaling, number_format)
    return out, jnp.where(_rounded(x, scaling, number_format), tangents[0], jnp.zeros_like(tangents[0]))


def _rounded(x: jax.Array, scaling: Scaling, number_format: Format) -> jax.Array:
    """Where nothing is clipped."""
    u = x / spread(scaling.scale, x.shape)
    if scaling.zero_point is not None:
        u += spread(scaling.zero_point.astype(u.dtype), x.shape)
    slack = 0.5 if number_format.name in ("int", "int_full") else 1e-3 * number_format.largest
    return (u >= number_format.smallest - slack) & (u <= number_format.largest + slack)


def widened(x: jax.Array) -> jax.Array:
    """An array in a dtype to compute scales in: float32, or float64 if it is that."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


@jax.custom_jvp
def nearest(x: jax.Array) -> jax.Array:
    """The nearest integers, halves to even; the derivative is 1.

    Example:
        >>> nearest(jnp.array([0.4, 1.6])).tolist(), float(jax.grad(nearest)(0.4))
        ([0.0, 2.0], 1.0)
    """
    return jnp.round(x)


@nearest.defjvp
def _nearest_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return nearest(*primals), tangents[0]


@jax.custom_jvp
def replaced(x: jax.Array, y: jax.Array) -> jax.Array:
    """``y``, with the derivative 1 with respect to ``x``: straight through whatever made ``y`` of it.

    Example:
        >>> float(replaced(3.0, 4.0)), float(jax.grad(replaced)(3.0, 4.0))
        (4.0, 1.0)
    """
    del x
    return y


@replaced.defjvp
def _replaced_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return replaced(*primals), tangents[0]


@jax.custom_jvp
def clipped_sign(x: jax.Array) -> jax.Array:
    """-1 below zero, +1 elsewhere; the derivative is 1 where ``|x| <= 1``, and 0 beyond.

    Example:
        >>> x = jnp.array([-0.5, 0.0, 2.0])
        >>> clipped_sign(x).tolist(), jax.grad(lambda x: clipped_sign(x).sum())(x).tolist()
        ([-1.0, 1.0, 1.0], [1.0, 1.0, 0.0])

    References:
        Hubara et al., 2016, equation 4. https://arxiv.org/abs/1602.02830
    """
    return jnp.where(x < 0, -1, 1).astype(x.dtype)


@clipped_sign.defjvp
def _clipped_sign_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,) = primals
    return clipped_sign(x), jnp.where(jnp.abs(x) <= 1, tangents[0], jnp.zeros_like(tangents[0]))
