"""Factor analysis of data: few shared factors, and for every feature a noise of its own."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxcompress.factorize.data_rows import (
    as_row,
    checked_count,
    checked_last,
    checked_rows,
    deviations,
    or_constant,
    or_one,
    require_variance,
)
from jaxcompress.factorize.pca import pca
from jaxcompress.solvers.factor_em import Spectrum, expectation_maximization
from jaxcompress.solvers.lowrank import truncated_svd


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "scale", "loadings", "noise", "log_likelihoods", "iterations"),
    meta_fields=("scores",),
)
@dataclass(frozen=True)
class FactorAnalysis:
    """A fitted model ``(x - mean) / scale = z @ loadings + e``, a pytree: ``z`` of covariance one, ``e`` of ``noise``.

    Attributes:
        mean: of each feature.
        scale: what each centred feature is divided by; ones unless standardised.
        loadings: what each factor adds to each feature, ``[factors, features]``.
        noise: variance that a feature shares with no other.
        log_likelihoods: mean over the rows of the log-likelihood, after each iteration, ``[most iterations]``; of the
            last one from there on; empty of `principal_factors`.
        iterations: how many ran, int32.
        scores: how rows are encoded: ``"regression"``, the mean of ``z`` given ``x`` under the model; or
            ``"least_squares"``, the ``z`` that decodes closest to ``x``, all features counting the same.
    """

    mean: jax.Array
    scale: jax.Array
    loadings: jax.Array
    noise: jax.Array
    log_likelihoods: jax.Array
    iterations: jax.Array
    scores: Literal["regression", "least_squares"] = "regression"

    def transform(self, x: jax.Array) -> jax.Array:
        """Codes ``[..., factors]`` of rows ``[..., features]``."""
        return _encoded(self, checked_last(x, self.loadings.shape[-1], "rows"))

    def inverse_transform(self, codes: jax.Array) -> jax.Array:
        """The rows that codes stand for, without noise."""
        return _decoded(self, checked_last(codes, self.loadings.shape[-2], "codes"))

    def covariance(self) -> jax.Array:
        """Of the features under the model, ``[features, features]``."""
        return _covariance(self)

    def log_likelihood(self, x: jax.Array) -> jax.Array:
        """Of rows ``[rows, features]`` under the model, ``[rows]``; of data held out it says how many factors to take.

        Raises:
            ValueError: if a feature has no noise, as after `principal_factors` of few rows (seen only outside
                ``jit``): the model then has no density.
        """
        x = checked_last(x, self.loadings.shape[-1], "rows")
        noisy = jnp.all(self.noise > 0)
        if not isinstance(noisy, Tracer) and not noisy:
            raise ValueError(
                f"log_likelihood: {int(jnp.sum(self.noise <= 0))} features have no noise, so that there is no density: "
                "fit fewer factors, or fit with factor_analysis"
            )
        return _log_likelihood(self, x)


def factor_analysis(
    x: jax.Array,
    *,
    factors: int,
    standardize: bool = False,
    iterations: int = 1000,
    tolerance: float | jax.Array = 1e-5,
    key: jax.Array | None = None,
) -> FactorAnalysis:
    """Fits a factor analysis by maximum likelihood.

    As scikit-learn does it: given the noise the best loadings are known in closed form, from the leading eigenvectors
    of the covariance in units of the noise; given the loadings, the noise is what they leave of each variance; in turn,
    until the likelihood rises no more. With fewer rows than features the eigenvectors come from the Gram matrix of the
    rows. Noise does not fall below the rounding of its feature's variance, which in float32 is 1e-6 of it.

    Args:
        x: float ``[rows, features]``, finite, two rows or more. Computed in float32 (float64 for float64).
        factors: 1 to ``min(rows, features)``, static.
        standardize: whether features are divided by their standard deviations first. Static.
        iterations: the most that run. Static.
        tolerance: stop when the log-likelihood per row rises by less. (scikit-learn's ``tol`` is of the sum over rows.)
            May be traced.
        key: from `jax.random.key`: eigenvectors then come from random sketches, several times faster where ``factors``
            is far below the number of features, and close rather than exact (scikit-learn's default). None for exact.

    Returns:
        The fitted `FactorAnalysis`, with regression scores.

    Raises:
        ValueError: if ``x`` has other than two axes, fewer than two rows, or NaN or infinity (seen only outside
            ``jit``); if ``factors`` or ``iterations`` is out of range.
        TypeError: if ``x`` is not float.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (500, 1))
        >>> noise = jnp.array([[0.1, 0.1, 1.0]]) * jax.random.normal(jax.random.key(1), (500, 3))
        >>> fitted = factor_analysis(z @ jnp.array([[1.0, 2.0, 1.0]]) + noise, factors=1)
        >>> fitted.noise.round(1).tolist()
        [0.0, 0.0, 1.0...]

    References:
        Barber, 2012, algorithm 21.1. Bayesian Reasoning and Machine Learning; Rubin and Thayer, 1982 (EM).
    """
    x = checked_rows(x, "factor_analysis", least=2)
    count = checked_count(factors, min(x.shape), "factor_analysis", "factors")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"factor_analysis: iterations must be an integer of 1 or more, got {iterations!r}")
    fitted = _fit(x, tolerance, key, factors=count, standardize=standardize, iterations=iterations)
    require_variance(jnp.sum(fitted.noise) + jnp.sum(jnp.square(fitted.loadings)), x, "factor_analysis")
    return fitted


def principal_factors(x: jax.Array, *, factors: int, standardize: bool = True) -> FactorAnalysis:
    """Fits a factor analysis by the principal component method: the leading components, scaled to loadings.

    Standardise, SVD of the covariance, the top loadings ``sqrt(eigenvalue) * eigenvector``, and the data re-encoded by
    them. What is decoded is what a PCA decodes; codes have variance one.

    Args:
        x: float ``[rows, features]``, finite, two rows or more.
        factors: 1 to ``min(rows, features)``, static.
        standardize: whether features are divided by their standard deviations first. Static.

    Returns:
        The fitted `FactorAnalysis`, with least-squares scores; the noise is what the loadings leave of the variances.

    Raises:
        ValueError: as `factor_analysis`.
        TypeError: if ``x`` is not float.

    Example:
        >>> x = jnp.array([[0.0, 1.0, 0.0], [1.0, 3.0, 0.0], [2.0, 5.0, 3.0]])
        >>> fitted = principal_factors(x, factors=2)
        >>> fitted.inverse_transform(fitted.transform(x)).round(3).tolist()[2]
        [2.0, 5.0, 3.0...]

    References:
        Johnson and Wichern, 2007, section 9.3. Applied Multivariate Statistical Analysis.
    """
    x = checked_rows(x, "principal_factors", least=2)
    count = checked_count(factors, min(x.shape), "principal_factors", "factors")
    fitted = _principal(x, factors=count, standardize=standardize)
    require_variance(jnp.sum(fitted.noise) + jnp.sum(jnp.square(fitted.loadings)), x, "principal_factors")
    return fitted


@functools.partial(jax.jit, static_argnames=("factors", "standardize", "iterations"))
def _fit(
    x: jax.Array,
    tolerance: float | jax.Array,
    key: jax.Array | None,
    *,
    factors: int,
    standardize: bool,
    iterations: int,
) -> FactorAnalysis:
    mean = jnp.mean(x, axis=0)
    z = x - mean[None, :]
    scale = or_constant(mean, deviations(z)) if standardize else jnp.ones_like(mean)
    z = z / scale[None, :]
    unit = or_one(jnp.max(jnp.abs(z)))  # of the computation: squares neither overflow nor vanish
    z = z / (unit * math.sqrt(x.shape[0]))  # its Gram matrix is the covariance
    begin = jnp.square(jnp.clip(1 / unit, 1e-4, 1e4))
    spectrum = Spectrum.of_rows(z, key) if x.shape[0] < x.shape[1] else Spectrum.of_covariance(_product(z.mT, z), key)
    found = expectation_maximization(spectrum, factors=factors, iterations=iterations, tolerance=tolerance, begin=begin)
    volume = jnp.sum(jnp.log(scale)) + x.shape[1] * jnp.log(unit)  # a density is one per unit of each feature
    return FactorAnalysis(
        mean,
        scale,
        found.loadings * unit,
        found.noise * unit * unit,
        found.log_likelihoods - volume,
        found.iterations,
    )


@functools.partial(jax.jit, static_argnames=("factors", "standardize"))
def _principal(x: jax.Array, *, factors: int, standardize: bool) -> FactorAnalysis:
    fitted = pca(x, components=factors, standardize=standardize)
    loadings = jnp.sqrt(fitted.variances)[:, None] * fitted.components
    z = (x - fitted.mean[None, :]) / fitted.scale[None, :]
    left = jnp.maximum(jnp.square(deviations(z)) - jnp.sum(loadings * loadings, axis=0), 0)
    none = jnp.zeros(0, x.dtype)
    return FactorAnalysis(fitted.mean, fitted.scale, loadings, left, none, jnp.int32(0), "least_squares")


@jax.jit
def _encoded(fitted: FactorAnalysis, x: jax.Array) -> jax.Array:
    z = (x - as_row(fitted.mean, x)) / as_row(fitted.scale, x)
    return jnp.matmul(z, encoder(fitted.loadings, fitted.noise, fitted.scores), precision=lax.Precision.HIGHEST)


def encoder(loadings: jax.Array, noise: jax.Array, scores: str) -> jax.Array:
    """The matrix ``[features, factors]`` that encodes centred rows."""
    if scores == "least_squares":  # the rows of loadings are orthogonal
        squares = jnp.sum(loadings * loadings, axis=-1)
        return (loadings / jnp.where(squares > 0, squares, 1)[:, None]).mT
    weighted = loadings / noise[None, :]
    precision = jnp.eye(loadings.shape[0], dtype=loadings.dtype) + _product(weighted, loadings.mT)
    return jnp.linalg.solve(precision, weighted).mT


@jax.jit
def _decoded(fitted: FactorAnalysis, codes: jax.Array) -> jax.Array:
    z = jnp.matmul(codes, fitted.loadings, precision=lax.Precision.HIGHEST)
    return z * as_row(fitted.scale, codes) + as_row(fitted.mean, codes)


@jax.jit
def _covariance(fitted: FactorAnalysis) -> jax.Array:
    own = _product(fitted.loadings.mT, fitted.loadings) + jnp.diag(fitted.noise)
    return own * (fitted.scale[:, None] * fitted.scale[None, :])


@jax.jit
def _log_likelihood(fitted: FactorAnalysis, x: jax.Array) -> jax.Array:
    """By the Woodbury identity: matrices of the size of the factors alone."""
    z = (x - as_row(fitted.mean, x)) / as_row(fitted.scale, x) / jnp.sqrt(fitted.noise)[None, :]
    weighted = fitted.loadings / jnp.sqrt(fitted.noise)[None, :]
    _, s, vt = truncated_svd(weighted, rank=min(weighted.shape))
    inside = _product(z, vt.mT) * (s / jnp.sqrt(1 + s * s))[None, :]
    distance = jnp.sum(z * z, axis=-1) - jnp.sum(inside * inside, axis=-1)
    volume = jnp.sum(jnp.log1p(s * s)) + jnp.sum(jnp.log(fitted.noise)) + 2 * jnp.sum(jnp.log(fitted.scale))
    return -0.5 * (distance + volume + x.shape[-1] * math.log(2 * math.pi))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
