"""Rules that follow from the weights: all layers on one scale, of magnitudes, of LAMP, of any score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.paths import Where
from jaxcompress.prune.allocation.layers import Floors, Layer, Protect, find_layers
from jaxcompress.prune.allocation.rules import total_kept
from jaxcompress.prune.allocation.shares import in_steps
from jaxcompress.prune.allocation.table import Allocation, allocation
from jaxcompress.prune.masks import masks_together
from jaxcompress.prune.ranking import ranked
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import kept_count, topk_masks

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def by_scores(
    params: Any,
    *,
    sparsity: ArrayLike,
    scores: Any = "l1",
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """Compares the scores of all chosen weights on one scale; a layer keeps as many as are above the threshold.

    Exactly ``round(sparsity * total)`` entries go (among equals the earlier leaf stays). A floor, and a protected leaf,
    put their highest-scoring entries above the threshold. Where leaves are stacks of layers, each of them keeps the
    same number, and the total may fall short by less than one stack.

    Args:
        params: tree of float arrays or leaves with one element per weight. Not changed.
        sparsity: fraction of all chosen entries to drop, in ``[0, 1]``; may be traced, as may ``params``.
        scores: as in `jaxcompress.prune.weight_scores`; higher stays.
        floors: as in `jaxcompress.prune.allocation.uniform`.
        protect: as in `jaxcompress.prune.allocation.uniform`.
        where: as in `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found.

    Returns:
        Sparsity by path, ``sparsity=`` of every pruning method; prints as a table.

    Raises:
        ValueError: if ``sparsity`` is outside ``[0, 1]``, the floors keep more than is to stay (seen only where it is
            concrete), a glob fits nothing, or weights or scores are not finite.

    Example:
        >>> params = {"small": jnp.full((2, 2), 0.1), "large": jnp.arange(1.0, 5.0).reshape(2, 2)}
        >>> by_scores(params, sparsity=0.625, floors=1)
        path   shape  entries  kept  sparsity
        large  2x2    4        2     50.00%
        small  2x2    4        1     75.00%
        all           8        3     62.50%
        rule: one scale of l1
    """
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="by_scores")
    return allocation(layers, _counts_at(params, layers, sparsity, scores), _name(scores))


def global_magnitude(
    params: Any,
    *,
    sparsity: ArrayLike,
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """What each layer keeps when all magnitudes are compared: `by_scores` with ``scores="l1"``.

    Pruning by the result is ``magnitude(..., scope="global")``, entry for entry, but for floors and protected leaves.

    Example:
        >>> params = {"small": jnp.full((2, 2), 0.1), "large": jnp.arange(1.0, 5.0).reshape(2, 2)}
        >>> dict(global_magnitude(params, sparsity=0.625))
        {'large': 0.25, 'small': 1.0}
    """
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="global_magnitude")
    return allocation(layers, _counts_at(params, layers, sparsity, "l1"), "global magnitude")


def lamp(
    params: Any,
    *,
    sparsity: ArrayLike,
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """Layer-adaptive magnitude: one threshold for ``w_u ** 2 / sum of w_v ** 2 over |w_v| >= |w_u|`` of every layer.

    No layer is emptied as long as there are as many entries to keep as layers: the largest weight of each scores 1.
    `by_scores` with ``scores="lamp"``; magnitude pruning by the result keeps the entries that score highest.

    Example:
        >>> params = {"small": jnp.full((2, 2), 0.1), "large": jnp.arange(1.0, 5.0).reshape(2, 2)}
        >>> dict(lamp(params, sparsity=0.625))
        {'large': 0.75, 'small': 0.5}

    References:
        Lee et al., 2021. https://arxiv.org/abs/2010.07611
    """
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="lamp")
    return allocation(layers, _counts_at(params, layers, sparsity, "lamp"), "lamp")


def ranked_counts(layers: Sequence[Layer], scores: Sequence[jax.Array], total: ArrayLike) -> list[Any]:
    """Entries that each layer keeps when ``total`` stay of all; ints unless something is traced."""
    least, sizes = tuple(layer.least for layer in layers), [layer.size for layer in layers]
    steps = [layer.step for layer in layers]
    has_floor = tuple(bool(n) for n in least)
    counts = _counts(list(scores), jnp.asarray(total, jnp.int32), jnp.asarray(least, jnp.int32), has_floor)
    if isinstance(counts, Tracer):
        return [(count + step // 2) // step * step for count, step in zip(counts, steps, strict=True)]
    return in_steps(int(counts.sum()), counts.tolist(), least=least, most=sizes, steps=steps)


def _counts_at(params: Any, layers: Sequence[Layer], sparsity: ArrayLike, scores: Any) -> list[Any]:
    found = ranked(params, [layer.part for layer in layers], scores)
    traced = isinstance(sparsity, Tracer)
    size = sum(layer.size for layer in layers)
    return ranked_counts(
        layers, found, kept_count(size, sparsity) if traced else total_kept(layers, sparsity, "by_scores")
    )


def _name(scores: Any) -> str:
    return f"one scale of {scores if isinstance(scores, str) else type(scores).__name__}"


def _forced(score: jax.Array, least: jax.Array) -> jax.Array:
    """The highest ``least`` entries above all others."""
    (mask,) = keeping_placement(topk_masks, [score], least)
    return jnp.where(mask, jnp.asarray(jnp.inf, score.dtype), score)


@partial(jax.jit, static_argnums=3)
def _counts(scores: list[jax.Array], total: jax.Array, least: jax.Array, has_floor: tuple[bool, ...]) -> jax.Array:
    forced = [_forced(score, n) if has else score for score, n, has in zip(scores, least, has_floor, strict=True)]
    return jnp.stack([mask.sum(dtype=jnp.int32) for mask in masks_together(forced, total)])
