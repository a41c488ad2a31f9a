"""Maximum-likelihood factor analysis of a covariance, or of the rows that it comes from."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.solvers.lowrank import truncated_svd


class Spectrum(NamedTuple):
    """A covariance of which eigenvectors are asked for in changing units, by the smaller of two Gram matrices.

    Attributes:
        matrix: the covariance ``[features, features]``; or rows ``[n, features]`` with ``matrix^T matrix`` as the
            covariance.
        variances: its diagonal.
        is_rows: which of the two, static (decided by whoever makes it, not traced).
        key: of random sketches, for few eigenvectors of many features; None for the exact ones.
    """

    matrix: jax.Array
    variances: jax.Array
    is_rows: bool
    key: jax.Array | None = None

    @staticmethod
    def of_covariance(covariance: jax.Array, key: jax.Array | None = None) -> Spectrum:
        """Of a covariance."""
        return Spectrum(covariance, jnp.diagonal(covariance), False, key)

    @staticmethod
    def of_rows(rows: jax.Array, key: jax.Array | None = None) -> Spectrum:
        """Of rows, centred and divided by the root of their number."""
        return Spectrum(rows, jnp.sum(rows * rows, axis=0), True, key)

    def leading(self, count: int, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The leading eigenvalues ``[count]`` and eigenvectors (rows) where features are measured in these units."""
        if self.is_rows:
            scaled = self.matrix / unit[None, :]
            if self.key is None:
                _, s, vt = truncated_svd(scaled, rank=count)
            else:
                _, s, vt = truncated_svd(scaled, rank=count, method="randomized", key=self.key, power_iterations=3)
            return s * s, vt
        scaled = self.matrix / (unit[:, None] * unit[None, :])
        if self.key is not None:  # eigenvalues are singular values here, and a power is worth two of those of rows
            return truncated_svd(scaled, rank=count, method="randomized", key=self.key, power_iterations=1)[1:]
        values, vectors = jnp.linalg.eigh(scaled)
        return jnp.maximum(values[::-1][:count], 0), vectors.mT[::-1][:count]  # eigh ascends


class Factors(NamedTuple):
    """What was fitted: see `expectation_maximization`."""

    loadings: jax.Array  # [factors, features]
    noise: jax.Array  # [features]
    log_likelihoods: jax.Array  # [most iterations], of the last one from there on
    iterations: jax.Array  # int32


def expectation_maximization(
    spectrum: Spectrum,
    *,
    factors: int,
    iterations: int,
    tolerance: ArrayLike,
    active: ArrayLike | None = None,
    least: ArrayLike = 0.0,
    begin: ArrayLike = 1.0,
) -> Factors:
    """Loadings for the noise in closed form, noise for the loadings, in turn.

    Noise starts even. It stays above what rounding makes of a variance (8 units in the last place) and above 1e-12.

    Args:
        spectrum: of the covariance, divided by the number of rows.
        factors: number of them, static.
        iterations: the most that run, static.
        tolerance: stop when the log-likelihood per row rises by less; may be traced.
        active: how many of the factors there are, the others staying zero; may be traced. By default all.
        least: the least part of a variance that is noise; may be traced.
        begin: the noise at the start, of every feature; may be traced.

    Example:
        >>> covariance = jnp.array([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
        >>> found = expectation_maximization(
        ...     Spectrum.of_covariance(covariance), factors=1, iterations=200, tolerance=1e-7
        ... )
        >>> found.noise.round(2).tolist()
        [1.0, 1.0, 1.0]

    References:
        Barber, 2012, algorithm 21.1; scikit-learn's ``FactorAnalysis``, which computes the same steps.
    """
    variances = spectrum.variances
    dtype = variances.dtype
    least = variances * jnp.maximum(jnp.asarray(least, dtype), 8 * jnp.finfo(dtype).eps)
    least = jnp.maximum(least, 1e-12)
    count = jnp.asarray(factors if active is None else active, jnp.int32)
    used = jnp.arange(factors, dtype=jnp.int32) < count
    constant = len(variances) * math.log(2 * math.pi) + count.astype(dtype)

    def maximized(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit = jnp.sqrt(noise)
        values, vectors = spectrum.leading(factors, unit)
        values = jnp.where(used, values, 1)
        loadings = jnp.sqrt(jnp.maximum(values - 1, 0))[:, None] * vectors * unit[None, :]
        left = jnp.maximum(jnp.sum(variances / noise) - jnp.sum(jnp.where(used, values, 0)), 0)
        inside = jnp.sum(jnp.log(jnp.maximum(values, jnp.finfo(dtype).tiny)))
        return loadings, -0.5 * (constant + inside + left + jnp.sum(jnp.log(noise)))

    def step(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        i, noise, loadings, seen, _ = carry
        noise = jnp.where(i > 0, jnp.maximum(variances - jnp.sum(loadings * loadings, axis=0), least), noise)
        loadings, likelihood = maximized(noise)
        before = jnp.where(i > 0, seen[jnp.maximum(i - 1, 0)], -jnp.inf)
        risen = likelihood - before >= jnp.asarray(tolerance, dtype)
        seen = jnp.where(jnp.arange(iterations, dtype=jnp.int32) >= i, likelihood, seen)
        return i + 1, noise, loadings, seen, risen

    start = (
        jnp.int32(0),
        jnp.full_like(variances, begin),
        jnp.zeros((factors, len(variances)), dtype),
        jnp.zeros(iterations, dtype),
        jnp.bool_(True),
    )
    steps, noise, loadings, seen, _ = lax.while_loop(lambda c: (c[0] < iterations) & c[4], step, start)
    return Factors(loadings, noise, seen, steps)
