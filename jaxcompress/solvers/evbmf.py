"""Empirical variational Bayes matrix factorization: the global solution in closed form, noise variance included.

A matrix ``[L, M]``, ``L <= M``, is taken for one of low rank plus Gaussian noise. With priors on both factors whose
variances are fitted too, the free energy has an analytic global minimum per singular value: below a threshold, which
only the noise variance and the shape decide, a component vanishes, above it is shrunk. The noise variance itself
minimizes a function of one variable between two known bounds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_GRID = 512  # candidates for the noise variance, evenly in its logarithm; the best one's neighbourhood is refined
_HALVINGS = 30  # by the sign of the derivative, which rounding spoils less than the energy itself


class EVBMF(NamedTuple):
    """What `evbmf` found."""

    rank: jax.Array  # int32, [...]
    s: jax.Array  # shrunk singular values, zero from the rank on, [..., k]
    sigma2: jax.Array  # noise variance of an entry, [...]


def evbmf(s: jax.Array, shape: tuple[int, int], sigma2: ArrayLike | None = None) -> EVBMF:
    """Rank, shrunk singular values and noise variance of a matrix, from its singular values.

    Everything is relative to the largest singular value, so that scale changes nothing. Noise below the precision of
    the dtype relative to it is not told from none.

    Args:
        s: all singular values in descending order, ``[..., min(shape)]``, float.
        shape: ``(m, n)`` of the matrix, static.
        sigma2: variance of the noise in an entry, where it is known; may be traced. By default it is found.

    Returns:
        The three; ``rank`` may be 0.

    Raises:
        ValueError: if ``s`` does not hold all singular values of such a matrix.

    Example:
        >>> found = evbmf(jnp.array([9.0, 1.0, 0.9, 0.8]), (4, 6))
        >>> int(found.rank), bool(found.s[0] < 9.0)
        (1, True)

    References:
        Nakajima, Sugiyama, Babacan, Tomioka, 2013, theorem 2, corollary 3, theorem 4 and algorithm 1 (global EVB).
        https://jmlr.org/papers/v14/nakajima13a.html
    """
    small, large = sorted(shape)
    if s.shape[-1] != small:
        raise ValueError(f"evbmf: a matrix of shape {shape} has {small} singular values, got {s.shape[-1]}")
    s = s.astype(jnp.float64 if s.dtype == jnp.float64 else jnp.float32)
    top = jnp.where(s[..., :1] > 0, s[..., :1], 1)
    t = s / top  # squares neither overflow nor vanish
    least = _threshold(small / large)
    variance = _noise(t, large, least) if sigma2 is None else jnp.asarray(sigma2, s.dtype) / jnp.square(top[..., 0])
    x = jnp.square(t) / (large * variance)[..., None]
    kept = x > least
    shrunk = jnp.where(kept, t * _shrinkage(jnp.where(kept, x, least), small / large), 0)
    return EVBMF(jnp.sum(kept, axis=-1, dtype=jnp.int32), shrunk * top, variance * jnp.square(top[..., 0]))


def evbmf_rank(s: jax.Array, shape: tuple[int, int], sigma2: ArrayLike | None = None) -> jax.Array:
    """The rank alone, int32 ``[...]``; see `evbmf`."""
    return evbmf(s, shape, sigma2).rank


def _noise(t: jax.Array, large: int, least: float) -> jax.Array:
    """The variance that minimizes the free energy, between the bounds of theorem 4."""
    small = t.shape[-1]
    alpha = small / large
    squares = jnp.square(t)
    most = math.ceil(small / (1 + alpha)) - 1  # components that can be signal
    upper = jnp.mean(squares, axis=-1) / large
    lower = jnp.maximum(squares[..., most] / (large * least), jnp.mean(squares[..., most:], axis=-1) / large)
    floor = float(jnp.finfo(t.dtype).eps) ** 2 / large
    upper = jnp.maximum(upper, floor)
    lower = jnp.clip(lower, jnp.minimum(upper, floor), upper)

    def energy(log_variance: jax.Array) -> jax.Array:
        x = squares / (large * jnp.exp(log_variance))[..., None]
        signal = x > least
        tau = _tau(jnp.where(signal, x, least), alpha)
        gain = jnp.log1p(tau) + alpha * jnp.log1p(tau / alpha) - tau
        return jnp.sum(x + jnp.where(signal, gain, 0), axis=-1) + small * log_variance

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        x = squares / (large * jnp.exp(middle))[..., None]
        signal = x > least
        explained = jnp.sum(x - jnp.where(signal, _tau(jnp.where(signal, x, least), alpha), 0), axis=-1)
        falling = explained > small  # the derivative by the logarithm of the variance is small - explained
        return jnp.where(falling, middle, low), jnp.where(falling, high, middle)

    low, high = jnp.log(lower), jnp.log(upper)
    step = (high - low) / (_GRID - 1)
    energies = lax.map(lambda i: energy(low + step * i), jnp.arange(_GRID, dtype=t.dtype))
    best = jnp.argmin(energies, axis=0).astype(t.dtype)
    bracket = (jnp.maximum(low + step * (best - 1), low), jnp.minimum(low + step * (best + 1), high))
    low, high = lax.fori_loop(0, _HALVINGS, halve, bracket)
    return jnp.exp((low + high) / 2)


def _tau(x: jax.Array, alpha: float) -> jax.Array:
    """The larger root of ``x = (1 + tau) (1 + alpha / tau)``."""
    half = x - (1 + alpha)
    return 0.5 * (half + jnp.sqrt(jnp.maximum(half * half - 4 * alpha, 0)))


def _shrinkage(x: jax.Array, alpha: float) -> jax.Array:
    """What a singular value is multiplied by: corollary 3."""
    half = 1 - (1 + alpha) / x
    return 0.5 * (half + jnp.sqrt(jnp.maximum(half * half - 4 * alpha / (x * x), 0)))


def _threshold(alpha: float) -> float:
    """The least ``s ** 2 / (M sigma2)`` that is kept: from the root of ``phi(tau) + phi(tau / alpha)`` (theorem 2).

    The article gives ``tau ~ 2.5129 sqrt(alpha)``; the root itself costs nothing, since shapes are static.

    Example:
        >>> round(_threshold(1.0), 3)  # tau = 2.5129: (1 + tau) * (1 + 1 / tau)
        4.911
    """

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    low, high = 1e-3 * math.sqrt(alpha), 1e3 * math.sqrt(alpha)
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if phi(middle) + phi(middle / alpha) > 0 else (low, middle)
    return (1 + low) * (1 + alpha / low)
