"""Factor analysis of a layer's outputs, folded into its kernel and bias: what they share stays, the rest is noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.factorize.centred import covariance, factorize_centred
from jaxcompress.factorize.in_metric import Solver
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.factor_em import Spectrum, expectation_maximization
from jaxcompress.solvers.metric_lowrank import metric_singular_values

_ITERATIONS, _TOLERANCE = 100, 1e-4


def output_factors(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    noise: ArrayLike = 0.01,
    biases: Mapping[str, str] | None = None,
    where: Where = None,
) -> Any:
    """Projects the outputs of layers onto the factors that they share.

    A factor analysis by maximum likelihood of the outputs ``y = x W + b`` says how much of each output no other shares,
    ``N``. Outputs are then projected onto ``rank`` directions such that the mean of ``sum((y - y')^2 / N)`` is least:
    each error counts in units of its own noise, where `jaxcompress.factorize.output_pca` counts all alike and spends
    its directions on the outputs of the largest variance, shared or not. It suits outputs of unlike scales that are
    normalised afterwards; by the plain squared error, a PCA of outputs is better.

    Args:
        params: tree of float arrays or masked leaves (their values are factorized, the masks stay). Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment`` and ``mean``.
        rank: as for `output_pca`, also the number of factors.
        noise: the least part of an output's variance that counts as its own, in ``(0, 1]``; at 1 this is the PCA of
            standardised outputs. May be traced.
        biases: as for `output_pca`; a layer without a bias is projected without centring.
        where: leaves to factorize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `LowRank` leaves and other biases.

    Raises:
        ValueError: if ``noise`` is out of range; and as `output_pca`.
        TypeError: as `output_pca`.

    Example:
        >>> shared = jnp.array([[1.0, 1.0, 1.0, 1.0, 0.0]]) + jnp.zeros((2, 1))
        >>> params = {"kernel": jnp.concatenate([shared, jnp.array([[0.0, 0.0, 0.0, 0.0, 9.0]])])}
        >>> x = jax.random.normal(jax.random.key(0), (400, 3))
        >>> stats = jc.observe(lambda p, x: x @ p["kernel"], params, [x])
        >>> one, other = output_factors(params, stats, rank=1), jc.factorize.output_pca(params, stats, rank=1)
        >>> one["kernel"].materialize()[0].round(1).tolist(), other["kernel"].materialize()[0].round(1).tolist()
        ([1.0, 1.0, 1.0, 1.0, 0...], [0.0, 0.0, 0.0, 0.0, 0...])

    References:
        Barber, 2012, chapter 21 (the model). Bayesian Reasoning and Machine Learning.
    """
    if not isinstance(noise, Tracer) and not 0 < float(np.asarray(noise)) <= 1:
        raise ValueError(f"output_factors: noise must be a fraction in (0, 1], got {noise}")
    return factorize_centred(
        params, stats, rank=rank, solver=_SOLVER, knob=noise, biases=biases, where=where, method="output_factors"
    )


def _factors(w: jax.Array, given: Any, ranks: jax.Array, knob: ArrayLike) -> tuple[jax.Array, jax.Array]:
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
    seen = w / jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    outputs = _product(seen.mT, _product(covariance(*given).astype(w.dtype), seen))
    unit, vectors = jax.vmap(lambda c, rank: _directions(c, rank, knob, min(w.shape[-2:])))(outputs, ranks)
    return _product(w / unit[:, None, :], vectors.mT), vectors * unit[:, None, :]


def _directions(outputs: jax.Array, rank: jax.Array, least: ArrayLike, count: int) -> tuple[jax.Array, jax.Array]:
    """The unit of each output, and orthonormal directions (rows) in those units."""
    size = jnp.mean(jnp.diagonal(outputs))
    outputs = outputs / jnp.where(size > 0, size, 1)
    spectrum = Spectrum.of_covariance(outputs)
    found = expectation_maximization(
        spectrum, factors=count, iterations=_ITERATIONS, tolerance=_TOLERANCE, active=rank, least=least
    )
    unit = jnp.sqrt(jnp.maximum(found.noise, 1e-6))  # an output that never changes is measured by the others
    return unit, spectrum.leading(count, unit)[1]


def _values(w: jax.Array, given: Any, knob: ArrayLike) -> jax.Array:
    return metric_singular_values(w, covariance(*given))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


_SOLVER = Solver(_factors, _values)
