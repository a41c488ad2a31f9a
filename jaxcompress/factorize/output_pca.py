"""PCA of a layer's outputs, folded into its kernel and bias: features are of low rank where weights are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.factorize.centred import covariance, factorize_centred
from jaxcompress.factorize.in_metric import Solver, balanced, checked_damping
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.metric_lowrank import metric_lowrank, metric_singular_values


def output_pca(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    damping: ArrayLike = 0.0,
    biases: Mapping[str, str] | None = None,
    where: Where = None,
) -> Any:
    """Projects the outputs of layers onto their principal components (atomic feature mimicking).

    With ``P`` the projection onto the leading eigenvectors of the covariance of the outputs ``y = x W + b``, outputs
    become ``E[y] + (y - E[y]) P``: the kernel ``W P``, two thin factors, and the bias ``b + E[x] (W - W P)``. Of all
    kernels of that rank with any bias this has the least mean squared error of the outputs on the observed data. The
    covariance of the outputs follows from that of the inputs, so that no data pass again.

    A layer without a bias is projected without centring; it is then what `jaxcompress.factorize.whitened_svd` finds
    at the same damping.

    Args:
        params: tree of float arrays or masked leaves (their values are factorized, the masks stay). Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment`` and ``mean``. It knows what the axes of a kernel mean.
            For better results observe what is factorized up to there: `jaxcompress.prune.sequential`.
        rank: an integer, a fraction in ``(0, 1)`` of the variance of the outputs that is to be explained, a rule such
            as `jaxcompress.factorize.evbmf`, or a dict from globs over paths to any of these.
        damping: what is added to the diagonal of the covariance of the inputs, as a fraction of its mean: directions
            that the data do not show are then decided by the weights. May be traced.
        biases: path of the bias that is added to a weight's outputs, by the weight's path. By default the leaf
            ``bias``, ``b`` or ``offset`` beside it, if there is one.
        where: leaves to factorize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `LowRank` leaves and other biases.

    Raises:
        ValueError: if ``damping`` is negative; if a rank is out of range or saves nothing (the break-even is named); if
            ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded or factorized already, belongs to
            a grouped convolution, or holds NaN or infinity (seen only outside ``jit``); if ``biases`` names what is no
            bias of its weight.
        TypeError: if a rule or fraction meets traced arrays.

    Example:
        >>> params = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
        >>> fn = lambda p, x: x @ p["kernel"] + p["bias"][None]
        >>> x = jnp.array([[5.0, 1.0, 0.0, 3.0], [5.0, 3.0, 0.0, 1.0]])  # around (5, 2, 0, 2) along one direction
        >>> stats = jc.observe(fn, params, [x])
        >>> jc.lift(fn)(output_pca(params, stats, rank=1), x).round(2).tolist()
        [[5.0, 1.0, 0.0, 3.0], [5.0, 3.0, 0.0, 1.0]]

    References:
        Yu and Wu, 2023, section 3 (AFM). https://arxiv.org/abs/2211.16187
    """
    knob = checked_damping(damping, "output_pca")
    return factorize_centred(
        params, stats, rank=rank, solver=_SOLVER, knob=knob, biases=biases, where=where, method="output_pca"
    )


def _factors(w: jax.Array, given: Any, ranks: jax.Array, knob: ArrayLike) -> tuple[jax.Array, jax.Array]:
    return balanced(metric_lowrank(w, covariance(*given), rank=min(w.shape[-2:]), damping=knob))


def _values(w: jax.Array, given: Any, knob: ArrayLike) -> jax.Array:
    return metric_singular_values(w, covariance(*given), damping=knob)


_SOLVER = Solver(_factors, _values)
