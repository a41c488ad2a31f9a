"""Low rank by the importance of weights: rows count by the Fisher information of their weights (FWSVD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Matrices
from jaxcompress.core.parts import Part, find_parts, require_finite
from jaxcompress.core.paths import Where
from jaxcompress.factorize.in_metric import Solver, Weight, balanced, factorize_in_metric
from jaxcompress.factorize.rank.ranks import Rank
from jaxcompress.solvers.metric_lowrank import metric_lowrank, metric_singular_values

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def fwsvd_factors(w: jax.Array, importance: jax.Array, *, rank: int) -> tuple[jax.Array, jax.Array]:
    """The product of two factors of a given rank with the least squared error, rows weighted by their importance.

    Args:
        w: float array ``[..., features, outputs]``, finite.
        importance: of every weight, not negative, of the shape of ``w``. Where it is all zero, all rows count the same.
        rank: 1 to ``min(features, outputs)``, static.

    Returns:
        ``(u, v)`` of shapes ``[..., features, rank]`` and ``[..., rank, outputs]``, in the dtype of ``w``.

    Raises:
        ValueError: if ``rank`` is out of range or the shapes do not fit.

    Example:
        >>> u, v = fwsvd_factors(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([[0.1, 0.1], [4.0, 5.0]]), rank=1)
        >>> jnp.abs(jnp.round(u @ v, 4)).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    u, v = balanced(metric_lowrank(w, _rows(importance), rank=rank))
    return u.astype(w.dtype), v.astype(w.dtype)


def fwsvd(
    params: Any,
    *,
    rank: Rank,
    weights: Mapping[str, jax.Array],
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by two thin factors each; rows (input features) count by the importance of their weights.

    Least ``sum_i I_i |w_i - (U V)_i|^2`` with ``I_i`` the sum of the importances of row ``i``. A weight for every entry
    would have no closed form; sums of rows have one, the truncated singular value decomposition of ``diag(I)^1/2 W``.

    Args:
        params: tree of float arrays or masked leaves. Not changed.
        rank: as for `svd`; fractions and rules judge the singular values of ``diag(I)^1/2 W``.
        weights: importance of every weight by path: arrays of the leaves' shapes, not negative, such as
            `jaxcompress.quantize.fisher` gives. A layer without any importance is factorized as by `svd`.
        where: leaves to factorize: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `LowRank` leaves.

    Raises:
        ValueError: if the rank of a leaf saves nothing (the break-even is named) or is out of range, a leaf has no
            ``weights`` of its shape, they are negative or not finite (seen only outside ``jit``), the axes of a leaf
            are not known or cannot be split into rows and columns, ``where`` or a glob fits nothing, or a leaf is
            coded or factorized already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float, or a fraction or rule is asked for under ``jit``.

    Example:
        >>> params = {"w": jnp.diag(jnp.array([2.0, 1.0, 1.0, 1.0]))}
        >>> fisher = jc.quantize.fisher(lambda p, x: jnp.sum(x @ p["w"]), params, [jnp.array([[1.0, 0.0, 9.0, 0.0]])])
        >>> jnp.abs(jnp.round(fwsvd(params, rank=1, weights=fisher)["w"].materialize(), 2))[2].tolist()
        [0.0, 0.0, 1.0, 0.0]

    References:
        Hsu et al., 2022, equations 5 and 6. https://arxiv.org/abs/2207.00112
    """
    parts = find_parts(params, where=where, sites=sites, settings=rank, method="fwsvd")
    for part in parts:
        if part.fields[-1:] in (("u",), ("v",)):
            raise ValueError(f"fwsvd: {part.path!r} is factorized already: materialize it first (jc.materialize)")
    require_finite(parts, "fwsvd")
    found = [_weight(part, weights) for part in parts]
    return factorize_in_metric(params, found, rank=rank, solver=_SOLVER, knob=0.0, method="fwsvd")


def _weight(part: Part, weights: Mapping[str, jax.Array]) -> Weight:
    layout = Matrices(tuple(part.array.shape), part.known_roles("fwsvd"))
    given = weights.get(part.path)
    if given is None or tuple(given.shape) != part.array.shape:
        what = "nothing" if given is None else f"an array of the shape {tuple(given.shape)}"
        raise ValueError(
            f"fwsvd: weights= has {what} for {part.name!r} (shape {part.array.shape}): give the importance of each of "
            "its weights, or leave the leaf out with where="
        )
    importance = jnp.asarray(given)
    bad = ~jnp.all(jnp.isfinite(importance) & (importance >= jnp.zeros((), importance.dtype)))
    if not isinstance(bad, Tracer) and bad:
        raise ValueError(f"fwsvd: weights= of {part.path!r} are negative, NaN or infinite somewhere")
    if part.support is not None:
        importance = jnp.where(part.support, importance, jnp.zeros_like(importance))
    return Weight(part, layout, (layout.split(importance),))


def _rows(importance: jax.Array) -> jax.Array:
    """The importance of rows; all the same in a matrix that has none."""
    wide = importance.astype(wider(importance.dtype, jnp.float32))
    rows = jnp.sum(wide, axis=-1)
    return jnp.where(jnp.sum(rows, axis=-1, keepdims=True) > 0, rows, jnp.ones_like(rows))


def _factors(w: jax.Array, given: tuple[jax.Array], ranks: jax.Array, knob: ArrayLike) -> tuple[jax.Array, jax.Array]:
    del ranks
    return balanced(metric_lowrank(w, _rows(given[0]), rank=min(w.shape[-2:]), damping=knob))


def _values(w: jax.Array, given: tuple[jax.Array], knob: ArrayLike) -> jax.Array:
    return metric_singular_values(w, _rows(given[0]), damping=knob)


_SOLVER = Solver(_factors, _values)
