"""Wanda: weights are dropped by their size times that of the input they meet, output by output."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.paths import Where, replace_at
from jaxcompress.core.targets import find_targets, support_or_all
from jaxcompress.prune import scores
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.nm import nm_mask
from jaxcompress.prune.observed import Pattern
from jaxcompress.solvers.topk import kept_count, topk_mask

_LARGE = 1 << 20  # entries from which outputs are ranked one after the other


def wanda_mask(
    w: jax.Array,
    second_moment: jax.Array,
    *,
    sparsity: ArrayLike | None = None,
    n: ArrayLike | None = None,
    m: int | None = None,
) -> jax.Array:
    """Keeps, in every output, the weights of largest ``|w| * sqrt(E[x^2])``.

    Exactly ``round(sparsity * features)`` entries of every output are dropped; among equals the lower feature stays.

    Args:
        w: weight, ``[features, outputs]``.
        second_moment: ``E[x x^T]``, ``[features, features]``, or its diagonal ``[features]``.
        sparsity: fraction to drop; may be traced.
        n: entries to keep of every ``m`` neighbouring features, in place of ``sparsity``.
        m: length of a group.

    Returns:
        Boolean mask of ``w.shape``; ``True`` keeps.

    Raises:
        ValueError: unless either ``sparsity`` or both ``n`` and ``m`` are given, in range.

    Example:
        >>> wanda_mask(jnp.array([[3.0], [1.0]]), jnp.array([1.0, 100.0]), sparsity=0.5).tolist()
        [[False], [True]]

    References:
        Sun et al., 2023. https://arxiv.org/abs/2306.11695
    """
    Pattern.read("wanda_mask", sparsity, n, m)
    squares = jnp.diag(second_moment) if second_moment.ndim == 2 else second_moment
    return _choose(_scores(w, squares)[None], kept=_kept(w.shape[0], sparsity), n=n, m=m)[0]


def wanda(
    params: Any,
    stats: Statistics,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike] | None = None,
    n: ArrayLike | None = None,
    m: int | None = None,
    where: Where = None,
) -> Any:
    """Drops weights by ``|w| * sqrt(E[x^2])``, compared within each output; the others stay as they are.

    Exactly ``round(sparsity * features)`` weights of every output are dropped, a feature being an entry of the
    contracted axes; among equals the lower one stays. What is pruned already stays pruned: those are the first to go.

    Args:
        params: tree of float arrays or `Masked` leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean.
        sparsity: fraction to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to fractions: the
            first glob that fits a path counts, paths that fit none stay as they are.
        n: entries to keep of every ``m`` neighbours along the input features, in place of ``sparsity``.
        m: length of a group.
        where: leaves to prune: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `Masked` leaves.

    Raises:
        ValueError: unless either ``sparsity`` or both ``n`` and ``m`` are given, in range; if ``m`` does not divide the
            input features of a leaf; if ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded
            already, or holds NaN or infinity (seen only outside ``jit``).

    Example:
        >>> params = {"w": jnp.array([[3.0, 1.0], [1.0, 2.0]])}
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [jnp.array([[1.0, 10.0]])])
        >>> wanda(params, stats, sparsity=0.5)["w"].materialize().tolist()
        [[0.0, 0.0], [1.0, 2.0]]

    References:
        Sun et al., 2023. https://arxiv.org/abs/2306.11695
    """
    pattern = Pattern.read("wanda", sparsity, n, m)
    targets = find_targets(params, stats, where=where, settings=pattern.settings, method="wanda")
    leaves = {}
    for target in targets:
        pattern.check_fits(target)
        squares = jnp.diagonal(target.statistic("second_moment"), axis1=1, axis2=2)
        kept = None if pattern.m is not None else _kept(target.layout.features, pattern.at(target))
        leaves[target.path] = _prune(
            target.weight, support_or_all(target), squares, kept, pattern.n, layout=target.layout, m=pattern.m
        )
    return replace_at(params, leaves)


@functools.partial(jax.jit, static_argnames=("layout", "m"))
def _prune(
    weight: jax.Array,
    support: jax.Array,
    squares: jax.Array,
    kept: jax.Array | None,
    n: ArrayLike | None,
    *,
    layout: Matrices,
    m: int | None,
) -> Masked:
    ranks = jax.vmap(_scores)(layout.split(weight), squares)
    ranks = jnp.where(layout.split(support), ranks, jnp.full_like(ranks, -1))
    return Masked.create(weight, layout.join(_choose(ranks, kept=kept, n=n, m=m)) & support)


def _kept(features: int, sparsity: ArrayLike | None) -> jax.Array | None:
    return None if sparsity is None else jnp.asarray(kept_count(features, sparsity), jnp.int32)


def _scores(w: jax.Array, squares: jax.Array) -> jax.Array:
    return scores.wanda(w, jnp.sqrt(squares)[:, None])


def _choose(ranks: jax.Array, *, kept: jax.Array | None, n: ArrayLike | None, m: int | None) -> jax.Array:
    """Masks of ``ranks [batch, features, outputs]``, every output by itself."""
    if m is not None or kept is None:
        assert m is not None
        assert n is not None
        return nm_mask(ranks, n=n, m=m, axis=1)
    rows = jnp.swapaxes(ranks, 1, 2)  # [batch, outputs, features]
    flat = rows.reshape(-1, rows.shape[-1])
    if rows.size < _LARGE:
        masks = jax.vmap(lambda row: topk_mask(row, kept))(flat)
    else:
        masks = lax.map(lambda row: topk_mask(row, kept), flat)
    return jnp.swapaxes(masks.reshape(rows.shape), 1, 2)
