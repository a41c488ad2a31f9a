"""PCA of a layer's inputs, folded into its kernel: a projection onto the directions in which data vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.factorize.centred import covariance, factorize_centred
from jaxcompress.factorize.in_metric import Solver
from jaxcompress.factorize.rank.ranks import Rank


def input_pca(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    biases: Mapping[str, str] | None = None,
    where: Where = None,
) -> Any:
    """Projects the inputs of layers onto their principal components.

    With ``Q`` the leading eigenvectors of the covariance of the inputs, the kernel becomes ``Q (Q^T W)`` and the bias
    takes up ``E[x] (W - Q Q^T W)``. The first factor depends on the data alone: layers that read the same data at one
    rank get the same one, and it is an orthonormal encoder of them. What a direction does to the outputs does not
    count; where only this layer's outputs matter, `jaxcompress.factorize.output_pca` errs less at the same rank.

    Args:
        params: tree of float arrays or masked leaves (their values are factorized, the masks stay). Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment`` and ``mean``.
        rank: as for `output_pca`; a fraction is of the variance of the inputs.
        biases: as for `output_pca`; a layer without a bias is projected without centring.
        where: leaves to factorize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `LowRank` leaves and other biases.

    Raises:
        ValueError: as `output_pca`.
        TypeError: as `output_pca`.

    Example:
        >>> params = {"kernel": jnp.ones((3, 3))}
        >>> x = jnp.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
        >>> stats = jc.observe(lambda p, x: x @ p["kernel"], params, [x])
        >>> thin = input_pca(params, stats, rank=1)["kernel"]
        >>> jnp.abs(thin.u).round(3).tolist(), (x @ thin.materialize()).round(2).tolist()[1]
        ([[0.707...], [0.707...], [0.0]], [4.0, 4.0, 4.0])
    """
    return factorize_centred(
        params, stats, rank=rank, solver=_SOLVER, knob=0.0, biases=biases, where=where, method="input_pca"
    )


def _factors(w: jax.Array, given: Any, ranks: jax.Array, knob: ArrayLike) -> tuple[jax.Array, jax.Array]:
    directions = jnp.linalg.eigh(covariance(*given).astype(w.dtype))[1][..., ::-1][
        ..., : min(w.shape[-2:])
    ]  # eigh ascends
    return directions, jnp.matmul(directions.mT, w, precision=lax.Precision.HIGHEST)


def _values(w: jax.Array, given: Any, knob: ArrayLike) -> jax.Array:
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(covariance(*given))[..., ::-1], 0))


_SOLVER = Solver(_factors, _values)
