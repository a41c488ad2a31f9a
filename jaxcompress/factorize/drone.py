"""DRONE: the closed form of the weight of low rank whose outputs on the data are closest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.core.targets import find_targets
from jaxcompress.factorize.in_metric import Solver, factorize_in_metric, weight_of
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.lowrank import truncated_svd


def drone(params: Any, stats: Statistics, *, rank: Rank, where: Where = None) -> Any:
    """Finds ``min |X W - X U V|`` over all ``U V`` of a rank, by the paper's closed form.

    With ``X^T X = Q L Q^T``, the factors of the truncated ``L^1/2 Q^T W`` are brought back by the pseudo-inverse
    ``Q L^-1/2``. Where the data span all directions, the result is that of `jaxcompress.factorize.whitened_svd`. Where
    they do not (fewer rows than features, constant inputs), both have the same, least error on the data; this one has
    no weight at all along the directions that the data never took, the other one keeps there what it can of ``W``,
    which is the safer choice for other data.

    Args:
        params: tree of float arrays or masked leaves (their values are factorized, the masks stay). Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``.
        rank: an integer, a fraction in ``(0, 1)`` of the energy of the outputs, a rule such as
            `jaxcompress.factorize.evbmf`, or a dict from globs over paths to any of these.
        where: leaves to factorize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `LowRank` leaves.

    Raises:
        ValueError: if a rank is out of range or saves nothing (the break-even is named); if ``where`` or a glob fits
            nothing, a chosen leaf was not observed, is coded or factorized already, belongs to a grouped convolution,
            or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a rule or fraction meets traced arrays.

    Example:
        >>> params = {"w": jnp.diag(jnp.array([4.0, 2.0, 1.0, 1.0]))}
        >>> x = jnp.array([[0.0, 0.0, 5.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [x])
        >>> drone(params, stats, rank=1)["w"].materialize().round(3).tolist()[2]  # 5 * 1 is more than 1 * 4
        [0.0, 0.0, 1.0, 0.0]

    References:
        Chen et al., 2021, theorem 1. DRONE: Data-aware Low-rank Compression for Large NLP Models.
    """
    targets = find_targets(params, stats, where=where, settings=rank, method="drone")
    weights = [weight_of(target, "second_moment") for target in targets]
    return factorize_in_metric(params, weights, rank=rank, solver=_SOLVER, knob=0.0, method="drone")


def drone_factors(w: jax.Array, moment: jax.Array, *, rank: int) -> tuple[jax.Array, jax.Array]:
    """The closed form for one matrix, or a batch of them.

    Args:
        w: float array ``[..., features, outputs]``, finite.
        moment: of the inputs, ``E[x x^T]``, ``[..., features, features]``. Eigenvalues within its rounding of zero
            count as zero.
        rank: 1 to ``min(features, outputs)``, static.

    Returns:
        ``(u, v)`` of shapes ``[..., features, rank]`` and ``[..., rank, outputs]``, singular values shared evenly.

    Raises:
        ValueError: if ``rank`` is out of range or ``moment`` has another shape.

    Example:
        >>> u, v = drone_factors(jnp.array([[4.0, 0.0], [0.0, 1.0]]), jnp.diag(jnp.array([1.0, 25.0])), rank=1)
        >>> (u @ v).round(3).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    if moment.shape != (*w.shape[:-1], w.shape[-2]):
        raise ValueError(f"moment must be {(*w.shape[:-1], w.shape[-2])} for w of shape {w.shape}, got {moment.shape}")
    wide = wider(w.dtype, jnp.float32)
    root, inverse, vectors = _roots(moment.astype(wide))
    u, s, vt = truncated_svd(root[..., :, None] * _product(vectors.mT, w.astype(wide)), rank=rank)
    shared = jnp.sqrt(s)
    back = _product(vectors, inverse[..., :, None] * u * shared[..., None, :])
    return back.astype(w.dtype), (shared[..., :, None] * vt).astype(w.dtype)


def _roots(moment: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Roots of the eigenvalues, their inverses (zero for zero), and eigenvectors."""
    values, vectors = jnp.linalg.eigh(moment)
    real = values > values[..., -1:] * (values.shape[-1] * jnp.finfo(values.dtype).eps)
    root = jnp.sqrt(jnp.where(real, values, 1))
    return jnp.where(real, root, 0), jnp.where(real, 1 / root, 0), vectors


def _factors(w: jax.Array, given: Any, ranks: jax.Array, knob: ArrayLike) -> tuple[jax.Array, jax.Array]:
    return drone_factors(w, given[0], rank=min(w.shape[-2:]))


def _values(w: jax.Array, given: Any, knob: ArrayLike) -> jax.Array:
    root, _, vectors = _roots(given[0])
    return truncated_svd(root[..., :, None] * _product(vectors.mT, w), rank=min(w.shape[-2:])).s


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


_SOLVER = Solver(_factors, _values)
