"""Unstructured pruning by any score: the entries of lowest score go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.parts import Part, find_parts, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.prune.layers import layer_size
from jaxcompress.prune.masked import takes_mask
from jaxcompress.prune.masks import layer_masks, masks_together
from jaxcompress.prune.ranking import masked_leaf, ranked
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Scope = Literal["layer", "global", "output"]


def by_score(
    params: Any,
    scores: Any,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike],
    scope: Scope = "layer",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Drops the weights of lowest score, after training.

    Exactly ``round(sparsity * size)`` entries are dropped of every layer, of every output unit, or of all chosen leaves
    together; among equals the earlier leaf stays, then the lower flat index. What is pruned already stays pruned:
    dropped entries are the first to go. With ``scores="l1"`` this is `magnitude`.

    Args:
        params: tree of float arrays or leaves. Not changed.
        scores: ``"l1"``, ``"lamp"``, an object such as `Taylor`, or numbers; see `weight_scores`.
        sparsity: fraction to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to fractions: the
            first glob that fits a path counts, paths that fit none stay as they are.
        scope: what is compared: ``"layer"`` the entries of a leaf (of each layer of a stacked leaf, if ``sites`` show
            the stack); ``"output"`` those that feed one output unit, as Wanda does; ``"global"`` all chosen leaves.
        where: leaves to prune: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. ``scope="output"`` reads the axes there.

    Returns:
        The tree with `Masked` leaves.

    Raises:
        ValueError: if ``sparsity`` is outside ``[0, 1]``, ``where`` or a glob fits nothing, ``scores`` do not fit, a
            chosen leaf or its scores hold NaN or infinity (seen only outside ``jit``), or with ``scope="output"`` if
            the axes of a leaf are not known.
        TypeError: if a chosen leaf or its scores are not float.

    Example:
        >>> params = {"w": jnp.array([[1.0, -4.0], [3.0, 2.0]])}
        >>> by_score(params, {"w": jnp.array([[9.0, 1.0], [1.0, 9.0]])}, sparsity=0.5)["w"].materialize().tolist()
        [[1.0, 0.0], [0.0, 2.0]]

    References:
        Sun et al., 2023 (``"output"``). https://arxiv.org/abs/2306.11695
    """
    if scope not in ("layer", "global", "output"):
        raise ValueError(f"scope must be 'layer', 'global' or 'output', got {scope!r}")
    if scope == "global" and isinstance(sparsity, Mapping):
        raise ValueError(
            "a sparsity per glob needs scope='layer' or 'output': 'global' takes one number for all leaves"
        )
    parts = find_parts(params, where=where, sites=sites, settings=sparsity, method="by_score", whole=takes_mask)
    stacks = tuple(_separate(part, scope) for part in parts)
    order = ranked(params, parts, scores)
    if scope == "global":
        keep = kept_count(sum(part.array.size for part in parts), sparsity)  # type: ignore[arg-type]  # no dict here
        masks = _masks_together(order, jnp.asarray(keep, jnp.int32))
    else:
        counts = [
            jnp.asarray(kept_count(layer_size(part.array.shape, stack), setting_at(sparsity, part.path)), jnp.int32)
            for part, stack in zip(parts, stacks, strict=True)
        ]
        traced = any(isinstance(array, Tracer) for array in (*order, *counts))
        batches = [range(len(parts))] if traced else [[i] for i in range(len(parts))]  # outside jit a program per shape
        masks = []
        for batch in batches:
            some = tuple(stacks[i] for i in batch)
            masks += _layer_masks([order[i] for i in batch], [counts[i] for i in batch], stacks=some)
    return with_parts(params, parts, [masked_leaf(part.array, mask) for part, mask in zip(parts, masks, strict=True)])


def _separate(part: Part, scope: Scope) -> tuple[int, ...]:
    """Axes along which nothing is compared."""
    if scope != "output":
        return part.stack
    roles = part.known_roles("by_score(scope='output')")
    return tuple(sorted((*roles.stack, *roles.output)))


@partial(jax.jit, static_argnames="stacks")
def _layer_masks(
    scores: list[jax.Array], keep: list[jax.Array], *, stacks: tuple[tuple[int, ...], ...]
) -> list[jax.Array]:
    return keeping_placement(partial(layer_masks, stacks=stacks), scores, keep)


_masks_together = jax.jit(masks_together)


@dataclasses.dataclass(frozen=True)
class ByScore:
    """Recipe stage of `by_score`, with the same fields; the scores are one of the names, so that recipes are text."""

    scores: str
    sparsity: float | Mapping[str, float]
    scope: Scope = "layer"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `by_score`."""
        chosen = {"sparsity": self.sparsity, "scope": self.scope, "where": self.where, "sites": sites}
        return by_score(params, self.scores, **chosen)
