"""Rows of data that are fitted: what they must be, and their deviations from the mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.core import Tracer


def deviations(centred: jax.Array) -> jax.Array:
    """Standard deviations of centred columns, whose squares need not be numbers of the dtype.

    Example:
        >>> deviations(jnp.array([[-1e30, 2e-30], [1e30, -2e-30]])).tolist()
        [1.41...e+30, 2.82...e-30]
    """
    unit = or_one(jnp.max(jnp.abs(centred), axis=0))
    return unit * jnp.sqrt(jnp.sum(jnp.square(centred / unit[None, :]), axis=0) / (centred.shape[0] - 1))


def or_constant(mean: jax.Array, found: jax.Array) -> jax.Array:
    """Standard deviations; ones where all that varies is the rounding of a constant."""
    return jnp.where(found > 10 * jnp.finfo(mean.dtype).eps * jnp.abs(mean), found, jnp.ones_like(found))


def or_one(x: jax.Array) -> jax.Array:
    """The entries, ones in place of zeros."""
    return jnp.where(x > 0, x, jnp.ones_like(x))


def as_row(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A vector over the last axis, with the number of axes of ``like``."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def checked_rows(x: jax.Array, method: str, *, least: int) -> jax.Array:
    """Rows of data in the dtype of the computation.

    Raises:
        ValueError: unless they are ``[rows, features]``, enough, and finite (seen only outside ``jit``).
        TypeError: if they are not float.
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[0] < least or x.shape[1] < 1:
        raise ValueError(f"{method}: x must be [rows, features] with {least} rows or more, got the shape {x.shape}")
    x = floats(x)
    finite = _finite(x)
    if not isinstance(finite, Tracer) and not finite:
        raise ValueError(f"{method}: x holds NaN or infinity: drop or fill such rows first")
    return x


def checked_count(asked: int | None, most: int, method: str, name: str) -> int:
    """A number of components, by default all.

    Raises:
        ValueError: unless it is an integer from 1 to ``most``.
    """
    if asked is None:
        return most
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= most:
        hint = "; for a fraction of the variance pass explained=" if isinstance(asked, float) else ""
        raise ValueError(f"{method}: {name} must be an integer from 1 to {most}, got {asked!r}{hint}")
    return asked


def checked_last(x: jax.Array, size: int, what: str) -> jax.Array:
    """Rows or codes in the dtype of the computation.

    Raises:
        ValueError: if the last axis has another size than was fitted.
        TypeError: if they are not float.
    """
    x = floats(x)
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"{what} must be [..., {size}], as was fitted, got the shape {x.shape}")
    return x


def require_variance(total: jax.Array, x: jax.Array, method: str) -> None:
    """Raises ValueError if the sum of the variances is too large or too small for its dtype (seen outside ``jit``)."""
    held = _representable(total, x)
    if not isinstance(held, Tracer) and not held:
        raise ValueError(
            f"{method}: {x.dtype} cannot hold the variances of x, whose largest entry is {float(jnp.max(jnp.abs(x)))}: "
            "multiply the data by a constant, or pass standardize=True"
        )


@jax.jit
def _representable(total: jax.Array, x: jax.Array) -> jax.Array:
    limits = jnp.finfo(x.dtype)
    spread = jnp.max(jnp.ptp(x, axis=0)) > 10 * limits.eps * jnp.max(jnp.abs(x))  # more than the rounding of constants
    return jnp.isfinite(total) & ((total > limits.tiny) | ~spread)


@jax.jit
def _finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def floats(x: jax.Array) -> jax.Array:
    """Data in the dtype of the computation.

    Raises:
        TypeError: if they are not float.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"rows of data must be float, got {x.dtype}: convert them (x.astype(jnp.float32))")
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
