"""Principal component analysis of data: fewer numbers per row, uncorrelated, of the largest variance there is."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

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
from jaxcompress.solvers.lowrank import truncated_svd
from jaxcompress.solvers.rayleigh_ritz import rayleigh_ritz


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "scale", "components", "variances", "total_variance"),
    meta_fields=("whiten",),
)
@dataclasses.dataclass(frozen=True)
class PCA:
    """A fitted PCA: a pytree, so that it passes through ``jit`` and ``vmap`` like any other data.

    Components that a threshold did not keep under ``jit`` are rows of zeros, with variance zero: they give codes of
    zero and add nothing to what is decoded.

    Attributes:
        mean: of each feature.
        scale: what each centred feature is divided by; ones unless standardised.
        components: orthonormal rows ``[k, features]``, by falling variance; of each the entry of the largest magnitude
            is positive.
        variances: of the codes along them (the leading eigenvalues of the covariance), ``[k]``.
        total_variance: the sum over all components, kept or not.
        whiten: True if codes are divided by their standard deviations.
    """

    mean: jax.Array
    scale: jax.Array
    components: jax.Array
    variances: jax.Array
    total_variance: jax.Array
    whiten: bool = False

    @property
    def explained(self) -> jax.Array:
        """The fraction of the total variance along each component."""
        return self.variances / jnp.where(self.total_variance > 0, self.total_variance, 1)

    @property
    def rank(self) -> jax.Array:
        """How many components are not masked."""
        return jnp.sum(jnp.any(self.components != 0, axis=-1), dtype=jnp.int32)

    def transform(self, x: jax.Array) -> jax.Array:
        """Codes ``[..., k]`` of rows ``[..., features]``."""
        return _encoded(self, checked_last(x, self.components.shape[-1], "rows"))

    def inverse_transform(self, codes: jax.Array) -> jax.Array:
        """The rows that codes stand for: the projections onto the components."""
        return _decoded(self, checked_last(codes, self.components.shape[-2], "codes"))


@jax.jit
def _encoded(fitted: PCA, x: jax.Array) -> jax.Array:
    z = (x - as_row(fitted.mean, x)) / as_row(fitted.scale, x)
    codes = jnp.matmul(z, fitted.components.mT, precision=lax.Precision.HIGHEST)
    return codes / as_row(_spread(fitted), x) if fitted.whiten else codes


@jax.jit
def _decoded(fitted: PCA, codes: jax.Array) -> jax.Array:
    if fitted.whiten:
        codes = codes * as_row(_spread(fitted), codes)
    z = jnp.matmul(codes, fitted.components, precision=lax.Precision.HIGHEST)
    return z * as_row(fitted.scale, codes) + as_row(fitted.mean, codes)


def _spread(fitted: PCA) -> jax.Array:
    return jnp.sqrt(or_one(fitted.variances))


def pca(
    x: jax.Array,
    *,
    components: int | None = None,
    explained: ArrayLike | None = None,
    eigenvalue: ArrayLike | None = None,
    standardize: bool = False,
    whiten: bool = False,
    masked: bool = False,
) -> PCA:
    """Fits a PCA: standardise (on request), covariance, eigenvectors, and those over the thresholds are kept.

    With fewer rows than features the eigenvectors come from the Gram matrix of the rows, which has the same spectrum;
    what a Gram matrix does not tell, directions of deviations below 1e-4 of the largest, a QR then takes apart.
    Variances are unbiased (divided by ``rows - 1``), also those by which features are standardised, so that the
    covariance is then the matrix of correlations.

    Args:
        x: float ``[rows, features]``, finite, two rows or more. Computed in float32 (float64 for float64).
        components: the most that are kept; by default ``min(rows, features)``. Static.
        explained: keep the least number of components that hold this fraction of the total variance, in ``(0, 1]``.
        eigenvalue: keep components of a variance above this; 1 with ``standardize`` is Kaiser's rule.
        standardize: whether features are divided by their standard deviations (constant ones by 1). Static.
        whiten: whether codes get variance 1. Static.
        masked: whether components that the thresholds do not keep stay as rows of zeros in place of being cut off, so
            that data and thresholds may be traced. Static.

    Returns:
        The fitted `PCA`, of at least one component.

    Raises:
        ValueError: if ``x`` has other than two axes, fewer than two rows, or NaN or infinity, or if the dtype cannot
            hold its variances (both seen only outside ``jit``); if ``components`` or ``explained`` is out of range.
        TypeError: if ``x`` is not float, or a threshold decides shapes of traced data (pass ``masked=True``).

    Example:
        >>> x = jnp.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
        >>> fitted = pca(x, explained=0.99)
        >>> fitted.variances.round(4).tolist(), fitted.transform(x)[:, 0].round(3).tolist()
        ([8.0], [-2.828..., 0.0, 2.828...])
        >>> fitted.inverse_transform(fitted.transform(x)).round(3).tolist()
        [[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]

    References:
        Pearson, 1901; Hotelling, 1933. Jolliffe, 2002, chapters 1 to 3 (correlations, the dual form).
    """
    x = checked_rows(x, "pca", least=2)
    count = checked_count(components, min(x.shape), "pca", "components")
    fitted = _fit(x, components=count, standardize=standardize, whiten=whiten)
    require_variance(fitted.total_variance, x, "pca")
    return over_thresholds(fitted, explained, eigenvalue, masked=masked, method="pca")


@functools.partial(jax.jit, static_argnames=("components", "standardize", "whiten"))
def _fit(x: jax.Array, *, components: int, standardize: bool, whiten: bool) -> PCA:
    mean = jnp.mean(x, axis=0)
    mean = mean + jnp.mean(x - mean[None, :], axis=0)  # what rounding of a long sum missed
    centred = x - mean[None, :]
    found = deviations(centred)
    scale = or_constant(mean, found) if standardize else jnp.ones_like(mean)
    z = centred / scale[None, :]
    s, vt = rayleigh_ritz(z, truncated_svd(z, rank=components))
    real = s > s[0] * max(x.shape) * jnp.finfo(s.dtype).eps  # the others are rounding: the data have fewer directions
    rows = jnp.where(real[:, None], with_signs(vt), 0)
    variances = jnp.where(real, jnp.square(s / math.sqrt(x.shape[0] - 1)), 0)
    return PCA(mean, scale, rows, variances, jnp.sum(jnp.square(found / scale)), whiten)


def pca_of_covariance(
    mean: jax.Array, covariance: jax.Array, *, components: int, standardize: bool, whiten: bool
) -> PCA:
    """The PCA of data of which mean and covariance are known."""
    variances = jnp.diagonal(covariance)
    scale = or_constant(mean, jnp.sqrt(variances)) if standardize else jnp.ones_like(mean)
    found, vectors = jnp.linalg.eigh(covariance / scale[:, None] / scale[None, :])
    found = found[::-1][:components]  # eigh ascends
    real = found > found[0] * len(mean) * jnp.finfo(found.dtype).eps  # the others are rounding
    rows = jnp.where(real[:, None], with_signs(vectors.mT[::-1][:components]), 0)
    return PCA(mean, scale, rows, jnp.where(real, found, 0), jnp.sum(variances / scale / scale), whiten)


def over_thresholds(
    fitted: PCA, explained: ArrayLike | None, eigenvalue: ArrayLike | None, *, masked: bool, method: str
) -> PCA:
    """A PCA without the components below the thresholds; the first one always stays.

    Raises:
        ValueError: if ``explained`` is outside of ``(0, 1]``, or ``eigenvalue`` is NaN.
        TypeError: if one of them is no number, or something is traced without ``masked``.
    """
    if explained is not None and not isinstance(explained, Tracer) and not 0 < _number(explained, "explained") <= 1:
        raise ValueError(f"{method}: explained must be a fraction in (0, 1], got {explained}")
    if eigenvalue is not None and not isinstance(eigenvalue, Tracer) and math.isnan(_number(eigenvalue, "eigenvalue")):
        raise ValueError(f"{method}: eigenvalue must be a number, got {eigenvalue}")
    if explained is None and eigenvalue is None:
        return fitted
    keep = _kept(fitted.variances, fitted.total_variance, explained, eigenvalue)
    if masked:
        components = jnp.where(keep[:, None], fitted.components, 0)
        return dataclasses.replace(fitted, components=components, variances=jnp.where(keep, fitted.variances, 0))
    if isinstance(keep, Tracer):
        raise TypeError(
            f"{method}: a threshold decides shapes and needs concrete data: call it outside jit, pass components=, or "
            "masked=True to keep what is below as zeros"
        )
    count = int(np.sum(keep))
    return dataclasses.replace(fitted, components=fitted.components[:count], variances=fitted.variances[:count])


@jax.jit
def _kept(
    variances: jax.Array, total: jax.Array, explained: ArrayLike | None, eigenvalue: ArrayLike | None
) -> jax.Array:
    """Which components are over the thresholds, the leading ones: bool ``[k]``."""
    order = jnp.arange(variances.shape[0])
    keep = order >= 0
    if eigenvalue is not None:
        keep &= variances > jnp.asarray(eigenvalue, variances.dtype)
    if explained is not None:
        before = jnp.cumsum(variances) - variances
        enough = jnp.asarray(explained, before.dtype) * total
        keep &= before < enough * (1 - 4 * jnp.finfo(before.dtype).eps)  # a sum that is equal but for rounding
    return keep | (order == 0)


def with_signs(rows: jax.Array) -> jax.Array:
    """Vectors with the entry of the largest magnitude positive (the first of several), as scikit-learn has them.

    Example:
        >>> with_signs(jnp.array([[0.6, -0.8], [1.0, 0.0]])).round(1).tolist()
        [[-0.6..., 0.8...], [1.0, 0.0]]
    """
    at = jnp.argmax(jnp.abs(rows), axis=-1, keepdims=True)
    return jnp.where(jnp.take_along_axis(rows, at, axis=-1) < 0, -rows, rows)


def _number(value: ArrayLike, name: str) -> float:
    try:
        return float(np.asarray(value))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be one number, got {value!r}") from None
