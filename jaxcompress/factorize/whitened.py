"""Low rank fitted to data: the factors whose outputs on the observed data are closest to those of the weight."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import ArrayLike

from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.core.targets import find_targets
from jaxcompress.factorize.in_metric import Solver, balanced, checked_damping, factorize_in_metric, weight_of
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.metric_lowrank import metric_lowrank, metric_singular_values

DAMPING = 1e-3


def whitened_factors(
    w: jax.Array, moment: jax.Array, *, rank: int, damping: ArrayLike = DAMPING
) -> tuple[jax.Array, jax.Array]:
    """The product of two factors of a given rank with the least mean squared error of the outputs.

    ``argmin E |x W - x U V|^2``, from the second moment of the data alone; see `whitened_svd`.

    Args:
        w: float array ``[..., features, outputs]``, finite.
        moment: ``E[x x^T]``, ``[..., features, features]``.
        rank: 1 to ``min(features, outputs)``, static.
        damping: what is added to the diagonal of the moment, as a fraction of its mean. May be traced.

    Returns:
        ``(u, v)`` of shapes ``[..., features, rank]`` and ``[..., rank, outputs]``, in the dtype of ``w``.

    Raises:
        ValueError: if ``rank`` is out of range or the shapes do not fit.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.0, 9.0]])  # the second input is large
        >>> u, v = whitened_factors(jnp.diag(jnp.array([2.0, 1.0])), x.T @ x / 2, rank=1, damping=0.0)
        >>> jnp.abs(jnp.round(u @ v, 4)).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    u, v = balanced(metric_lowrank(w, moment, rank=rank, damping=damping))
    return u.astype(w.dtype), v.astype(w.dtype)


def whitened_svd(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    damping: ArrayLike = DAMPING,
    where: Where = None,
) -> Any:
    """Replaces weights by two thin factors each, so that their outputs on the observed data change little (SVD-LLM).

    Of a rank ``r`` this is the best: ``E |x W - x U V|^2`` is the sum of the squared singular values of ``S W`` beyond
    the first ``r``, with ``S^T S = E[x x^T]``. The article finds it through a Cholesky factor ``S`` (in float64, with
    jitter where that fails) and ``S^-1``; here the weight is projected onto the leading singular vectors of its
    outputs, which is the same and inverts nothing (`jaxcompress.solvers.metric_lowrank`): float32 is enough, also for
    singular moments. DRONE's optimum is the same one too.

    A weight is read as a matrix from its contracted to its output axes, as in `svd`; kernels of any rank, layers of a
    stack one by one at one rank, tied weights by all data that they meet where they are contracted. Of a masked leaf
    the values are factorized and the mask stays.

    To fit later layers to what the factorized ones before them let through, as the authors do, call it in turns::

        jc.sequential(fn, params, batches, functools.partial(jc.factorize.whitened_svd, rank=...))

    Args:
        params: tree of float arrays or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean.
        rank: as for `svd`; fractions and rules judge the singular values of ``S W``, so the energy is that of the
            outputs (which are not centred: `explained_variance` counts all of it).
        damping: what is added to the diagonal of a second moment, as a fraction of its mean: directions that the data
            do not show are then decided by the weights, as in `svd`. May be traced.
        where: leaves to factorize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `LowRank` leaves.

    Raises:
        ValueError: if ``damping`` is negative, the rank of a leaf saves nothing (the break-even is named) or is out of
            range, ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded or factorized already,
            cannot be split into rows and columns, belongs to a grouped convolution, or holds NaN or infinity (seen only
            outside ``jit``).
        TypeError: if a chosen leaf is not float, or a fraction or rule is asked for under ``jit``.

    Example:
        >>> params = {"w": jnp.diag(jnp.array([3.0, 1.0, 1.0, 1.0]))}
        >>> data = jnp.array([[0.0, 0.0, 4.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> jnp.abs(jnp.round(whitened_svd(params, stats, rank=1)["w"].materialize(), 2))[2].tolist()
        [0.0, 0.0, 1.0, 0.0]

    References:
        Wang et al., 2024, section 3.1 and theorem 3.2. https://arxiv.org/abs/2403.07378; Chen et al., 2021 (DRONE),
        theorem 1. https://openreview.net/forum?id=phsJ5r0bgzr
    """
    targets = find_targets(params, stats, where=where, settings=rank, method="whitened_svd")
    weights = [weight_of(target, "second_moment") for target in targets]
    knob = checked_damping(damping, "whitened_svd")
    return factorize_in_metric(params, weights, rank=rank, solver=_SOLVER, knob=knob, method="whitened_svd")


def _factors(
    w: jax.Array, given: tuple[jax.Array], ranks: jax.Array, damping: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    del ranks
    return balanced(metric_lowrank(w, given[0], rank=min(w.shape[-2:]), damping=damping))


def _values(w: jax.Array, given: tuple[jax.Array], damping: ArrayLike) -> jax.Array:
    return metric_singular_values(w, given[0], damping=damping)


_SOLVER = Solver(_factors, _values)
