"""Low rank by the size of the inputs: rows of a weight count by the mean absolute input they meet (ASVD)."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.core.targets import find_targets
from jaxcompress.factorize.in_metric import Solver, balanced, factorize_in_metric, weight_of
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.metric_lowrank import metric_error, metric_lowrank, metric_singular_values

ALPHA = 0.5  # of the article
LEAST = 1e-6  # of a mean absolute input, relative to the largest
STEPS = 10  # of the search between 0 and 1


def asvd_factors(
    w: jax.Array, mean_abs: jax.Array, *, rank: int, alpha: ArrayLike = ALPHA
) -> tuple[jax.Array, jax.Array]:
    """The product of two factors of a given rank with the least squared error, rows scaled by ``mean|x| ** alpha``.

    Args:
        w: float array ``[..., features, outputs]``, finite.
        mean_abs: mean absolute input of every feature, ``[..., features]``.
        rank: 1 to ``min(features, outputs)``, static.
        alpha: exponent; 0 gives the plain singular value decomposition. May be traced.

    Returns:
        ``(u, v)`` of shapes ``[..., features, rank]`` and ``[..., rank, outputs]``, in the dtype of ``w``.

    Raises:
        ValueError: if ``rank`` is out of range or the shapes do not fit.

    Example:
        >>> u, v = asvd_factors(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([0.1, 9.0]), rank=1)
        >>> jnp.abs(jnp.round(u @ v, 4)).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    u, v = balanced(metric_lowrank(w, _metric(mean_abs, alpha), rank=rank))
    return u.astype(w.dtype), v.astype(w.dtype)


def asvd(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    alpha: ArrayLike | Literal["search"] = ALPHA,
    where: Where = None,
) -> Any:
    """Replaces weights by two thin factors each, after scaling the rows that meet large inputs up.

    The best ``U V`` of its rank in ``|diag(s) (W - U V)|`` with ``s_i = mean|x_i| ** alpha``. Unlike `whitened_svd` it
    does not see that inputs depend on each other, and needs no second moments.

    Args:
        params: tree of float arrays or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``mean_abs`` (and ``second_moment`` for a search). It knows what the axes
            of a kernel mean.
        rank: as for `svd`; fractions and rules judge the singular values of ``diag(s) W`` (with a search: those of the
            article's 0.5, because the best ``alpha`` depends on the rank).
        alpha: exponent, 0.5 in the article; may be traced. ``"search"``: for every matrix that of 0, 0.1, ..., 1 which
            changes the outputs on the observed data least; never worse on them than `svd` of the same rank.
        where: leaves to factorize: globs over paths or a predicate; by default all that have the statistic.

    Returns:
        The tree with `LowRank` leaves.

    Raises:
        ValueError: if ``alpha`` is negative or unknown, the rank of a leaf saves nothing (the break-even is named) or
            is out of range, ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded or factorized
            already, cannot be split into rows and columns, belongs to a grouped convolution, or holds NaN or infinity
            (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float, or a fraction or rule is asked for under ``jit``.

    Example:
        >>> params = {"w": jnp.diag(jnp.array([3.0, 1.0, 1.0, 1.0]))}
        >>> data = jnp.array([[0.1, 0.0, 4.0, 0.0]])
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> jnp.abs(jnp.round(asvd(params, stats, rank=1)["w"].materialize(), 2))[2].tolist()
        [0.0, 0.0, 1.0, 0.0]

    References:
        Yuan et al., 2023, equations 6 to 8. https://arxiv.org/abs/2312.05821
    """
    searched = isinstance(alpha, str)
    if searched and alpha != "search":
        raise ValueError(f"asvd: alpha must be a number or 'search', got {alpha!r}")
    if not searched and not isinstance(alpha, Tracer) and not np.all(np.asarray(alpha) >= 0):
        raise ValueError(f"asvd: alpha must not be negative, got {alpha!r}")
    names = ("mean_abs", "second_moment") if searched else ("mean_abs",)
    targets = find_targets(params, stats, where=where, settings=rank, method="asvd", name="mean_abs")
    weights = [weight_of(target, *names) for target in targets]
    solver, knob = (_SEARCH, ALPHA) if searched else (_SOLVER, alpha)
    return factorize_in_metric(params, weights, rank=rank, solver=solver, knob=knob, method="asvd")


def _metric(mean_abs: jax.Array, alpha: ArrayLike) -> jax.Array:
    """The diagonal ``mean|x| ** (2 alpha)``, relative to the largest."""
    wide = mean_abs.astype(wider(mean_abs.dtype, jnp.float32))
    largest = jnp.max(wide, axis=-1, keepdims=True)
    relative = jnp.where(largest > 0, wide / jnp.where(largest > 0, largest, jnp.ones_like(largest)), 1)
    return jnp.maximum(relative, jnp.asarray(LEAST, wide.dtype)) ** (2 * jnp.asarray(alpha, wide.dtype))


def _factors(
    w: jax.Array, given: tuple[jax.Array, ...], ranks: jax.Array, alpha: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    del ranks
    return balanced(metric_lowrank(w, _metric(given[0], alpha), rank=min(w.shape[-2:])))


def _searched(
    w: jax.Array, given: tuple[jax.Array, ...], ranks: jax.Array, alpha: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    del alpha
    mean_abs, moment = given
    alphas = jnp.linspace(0, 1, STEPS + 1, dtype=w.dtype)
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
    unit = jnp.where(largest > 0, largest, 1)  # squares neither overflow nor vanish

    def error(alpha: jax.Array) -> jax.Array:
        u, v = _factors(w, given, ranks, alpha)
        kept = jnp.arange(u.shape[-1])[None] < ranks[:, None]
        cut = jnp.where(kept[:, None, :], u, jnp.zeros_like(u))
        return metric_error((w - jnp.matmul(cut, v, precision=lax.Precision.HIGHEST)) / unit, moment)

    best = alphas[jnp.argmin(lax.map(error, alphas), axis=0)]
    return balanced(metric_lowrank(w, _metric(mean_abs, best[:, None]), rank=min(w.shape[-2:])))


def _values(w: jax.Array, given: tuple[jax.Array, ...], alpha: ArrayLike) -> jax.Array:
    mean_abs = given[0]
    scale = jnp.max(mean_abs, axis=-1, keepdims=True).astype(w.dtype) ** jnp.asarray(alpha, w.dtype)
    return metric_singular_values(w, _metric(mean_abs, alpha)) * scale


_SOLVER, _SEARCH = Solver(_factors, _values), Solver(_searched, _values)
