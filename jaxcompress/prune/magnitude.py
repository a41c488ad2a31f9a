"""Magnitude pruning: the entries of smallest absolute value go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.parts import find_parts, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.prune.layers import layer_size
from jaxcompress.prune.masked import takes_mask
from jaxcompress.prune.masks import drop_smallest, drop_smallest_together
from jaxcompress.solvers import topk
from jaxcompress.solvers.placement import keeping_placement

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Sparsity = ArrayLike | Mapping[str, ArrayLike]
Scope = Literal["layer", "global"]


def topk_mask(scores: jax.Array, *, sparsity: ArrayLike) -> jax.Array:
    """Keeps the highest-scoring entries of one array.

    Exactly ``round(sparsity * scores.size)`` entries are dropped; among equals the lower flat index stays.

    Args:
        scores: importance, higher means keep. Any float dtype and shape, below 2^31 entries.
        sparsity: fraction to drop, in ``[0, 1]``. May be traced.

    Returns:
        Boolean mask of ``scores.shape``; ``True`` keeps.

    Raises:
        ValueError: if ``sparsity`` is concrete and outside ``[0, 1]``, or ``scores`` are concrete and hold a NaN.

    Example:
        >>> topk_mask(jnp.array([3.0, 1.0, 2.0, 1.0]), sparsity=0.5).tolist()
        [True, False, True, False]

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626
    """
    scores = jnp.asarray(scores)
    mask, has_nan = _masked_scores(scores, jnp.asarray(topk.kept_count(scores.size, sparsity), jnp.int32))
    if not isinstance(has_nan, Tracer) and has_nan:
        raise ValueError("scores hold NaN: there is no order among them")
    return mask


@jax.jit
def _masked_scores(scores: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    return keeping_placement(topk.topk_masks, [scores], keep)[0], jnp.isnan(scores).any()


def magnitude(
    params: Any,
    *,
    sparsity: Sparsity,
    scope: Scope = "layer",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Drops the weights of smallest absolute value, after training.

    Exactly ``round(sparsity * size)`` entries of every layer are dropped, or of all chosen leaves together; among
    equals the earlier leaf stays, then the lower flat index. What is pruned already stays pruned: dropped entries are
    the first to go. Leaves with one code or integer per weight are pruned by their dense values, factors one by one.

    Args:
        params: tree of float arrays or leaves. Not changed.
        sparsity: fraction to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to fractions: the
            first glob that fits a path counts, paths that fit none stay as they are.
        scope: ``"layer"`` prunes each leaf to ``sparsity`` (each layer of a stacked leaf, if ``sites`` show the
            stack); ``"global"`` compares all chosen leaves on one scale.
        where: leaves to prune: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `Masked` leaves.

    Raises:
        ValueError: if ``sparsity`` is outside ``[0, 1]``, ``where`` or a glob fits nothing, or a chosen leaf holds NaN
            or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> pruned = magnitude({"w": jnp.array([[1.0, -4.0], [3.0, 2.0]])}, sparsity=0.5)
        >>> pruned["w"].materialize().tolist()
        [[0.0, -4.0], [3.0, 0.0]]

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    parts = find_parts(params, where=where, sites=sites, settings=sparsity, method="magnitude", whole=takes_mask)
    leaves, names = [part.array for part in parts], [part.name for part in parts]
    if scope == "layer":
        keep = [
            topk.kept_count(layer_size(part.array.shape, part.stack), setting_at(sparsity, part.path)) for part in parts
        ]
        masked = drop_smallest(leaves, keep, stacks=[part.stack for part in parts], names=names)
    elif isinstance(sparsity, Mapping):
        raise ValueError("a sparsity per glob needs scope='layer': scope='global' takes one number for all leaves")
    else:
        keep = topk.kept_count(sum(leaf.size for leaf in leaves), sparsity)
        masked = drop_smallest_together(leaves, keep, names=names)
    return with_parts(params, parts, masked)


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """Recipe stage of `magnitude`, with the same fields."""

    sparsity: float | Mapping[str, float]
    scope: Scope = "layer"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `magnitude`."""
        return magnitude(params, sparsity=self.sparsity, scope=self.scope, where=self.where, sites=sites)
