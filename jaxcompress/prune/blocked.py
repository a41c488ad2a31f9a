"""Block patterns: rectangles of weights stay or go as a whole."""

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
from jaxcompress.prune.masks import layer_masks
from jaxcompress.prune.ranking import masked_leaf, ranked
from jaxcompress.prune.scores.lp import wide
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Reduce = Literal["sum", "max"]


def block_mask(scores: jax.Array, *, block: Sequence[int], sparsity: ArrayLike, reduce: Reduce = "sum") -> jax.Array:
    """Keeps the highest-scoring blocks of one array.

    Exactly ``round(sparsity * blocks)`` blocks are dropped; among equals the block of lower index stays.

    Args:
        scores: importance of every entry, higher means keep. Any float dtype. Entries of -inf count for nothing.
        block: size of a block along every axis; divides the shape.
        sparsity: fraction of the blocks to drop, in ``[0, 1]``. May be traced.
        reduce: a block scores the ``"sum"`` of its entries, or their ``"max"``.

    Returns:
        Boolean mask of ``scores.shape``; ``True`` keeps.

    Raises:
        ValueError: if ``block`` does not fit the shape, ``sparsity`` is concrete and outside ``[0, 1]``, ``reduce`` is
            another word, or ``scores`` are concrete and hold a NaN.

    Example:
        >>> scores = jnp.array([[1.0, 1.0, 0.0, 3.0], [1.0, 2.0, 0.0, 0.0]])
        >>> block_mask(scores, block=(1, 2), sparsity=0.5).astype(int).tolist()
        [[0, 0, 1, 1], [1, 1, 0, 0]]

    References:
        Narang et al., 2017 (``"max"``). https://arxiv.org/abs/1711.02782
        Gray et al., 2017. GPU kernels for block-sparse weights.
    """
    scores, block = jnp.asarray(scores), _checked(block, scores.shape, "scores", reduce)
    counts = jnp.asarray(kept_count(scores.size // _volume(block), sparsity), jnp.int32)
    (mask,), (has_nan,) = _masks([scores], [counts], blocks=(block,), stacks=((),), reduce=reduce)
    if not isinstance(has_nan, Tracer) and has_nan:
        raise ValueError("scores hold NaN: there is no order among them")
    return mask


def blocked(
    params: Any,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike],
    block: tuple[int, int],
    reduce: Reduce = "sum",
    scores: Any = "l1",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Drops whole blocks of weights, after training.

    A block reaches ``block[0]`` input features times ``block[1]`` output features; along other axes (the window of a
    convolution, heads) it is one entry thick. Exactly ``round(sparsity * blocks)`` of every layer are dropped; among
    equals the block of lower index stays. What is pruned already stays pruned and counts for nothing in its block.

    Args:
        params: tree of float arrays or leaves with one element per weight. Not changed.
        sparsity: fraction of the blocks to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to
            fractions: the first glob that fits a path counts, paths that fit none stay as they are.
        block: sizes along the innermost contracted and the last output axis; each divides its axis.
        reduce: a block scores the ``"sum"`` of the scores of its entries, or their ``"max"``.
        scores: as in `jaxcompress.prune.weight_scores`; higher stays.
        where: leaves to prune: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Masked` leaves.

    Raises:
        ValueError: if ``block`` does not divide the axes of a leaf or they are not known, ``sparsity`` is outside
            ``[0, 1]``, ``where`` or a glob fits nothing, or weights or scores are not finite; names the path.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> pruned = blocked({"w": jnp.array([[1.0, 1.0, 0.0, 3.0], [1.0, 2.0, 0.0, 0.0]])}, sparsity=0.5, block=(2, 2))
        >>> pruned["w"].materialize().tolist()
        [[1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]]

    References:
        Narang et al., 2017. https://arxiv.org/abs/1711.02782
    """
    parts = find_parts(params, where=where, sites=sites, settings=sparsity, method="blocked", whole=takes_mask)
    blocks = tuple(_block_of(part, block, reduce) for part in parts)
    counts = [
        jnp.asarray(
            kept_count(layer_size(part.array.shape, part.stack) // _volume(own), setting_at(sparsity, part.path)),
            jnp.int32,
        )
        for part, own in zip(parts, blocks, strict=True)
    ]
    order = ranked(params, parts, scores)
    masks, _ = _masks(order, counts, blocks=blocks, stacks=tuple(part.stack for part in parts), reduce=reduce)
    return with_parts(params, parts, [masked_leaf(part.array, mask) for part, mask in zip(parts, masks, strict=True)])


@dataclasses.dataclass(frozen=True)
class Block:
    """Recipe stage of `blocked`, with the same fields; the scores are one of the names."""

    sparsity: float | Mapping[str, float]
    block: tuple[int, int]
    reduce: Reduce = "sum"
    scores: str = "l1"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", tuple(self.block))  # JSON makes lists of tuples

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `blocked`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return blocked(params, **options, sites=sites)


def _block_of(part: Part, block: Sequence[int], reduce: Reduce) -> tuple[int, ...]:
    """The size of a block along every axis of a part."""
    roles = part.known_roles("blocked")
    if not roles.output:
        raise ValueError(
            f"blocked: {part.name!r} has no output axis (shape {part.array.shape}): leave it out of where="
        )
    if len(block) != 2:
        raise ValueError(f"blocked: block must be (input features, output features), got {block!r}")
    whole = [1] * part.array.ndim
    whole[roles.feature], whole[roles.output[-1]] = block
    return _checked(whole, part.array.shape, repr(part.name), reduce)


def _checked(block: Sequence[int], shape: tuple[int, ...], name: str, reduce: Reduce) -> tuple[int, ...]:
    if reduce not in ("sum", "max"):
        raise ValueError(f"reduce must be 'sum' or 'max', got {reduce!r}")
    if len(block) != len(shape) or any(part < 1 or size % part for part, size in zip(block, shape, strict=True)):
        raise ValueError(f"block={tuple(block)} does not divide the shape {shape} of {name}: choose another, or pad it")
    return tuple(int(part) for part in block)


def _volume(block: Sequence[int]) -> int:
    volume = 1
    for size in block:
        volume *= size
    return volume


@partial(jax.jit, static_argnames=("blocks", "stacks", "reduce"))
def _masks(
    scores: list[jax.Array],
    counts: list[jax.Array],
    *,
    blocks: tuple[tuple[int, ...], ...],
    stacks: tuple[tuple[int, ...], ...],
    reduce: Reduce,
) -> tuple[list[jax.Array], list[jax.Array]]:
    def masks(scores: list[jax.Array], *counts: jax.Array) -> list[jax.Array]:
        coarse = [_block_scores(score, block, reduce) for score, block in zip(scores, blocks, strict=True)]
        kept = layer_masks(coarse, list(counts), stacks=stacks)
        return [_spread(mask, block) for mask, block in zip(kept, blocks, strict=True)]

    return keeping_placement(masks, scores, *counts), [jnp.isnan(score).any() for score in scores]


def _block_scores(scores: jax.Array, block: tuple[int, ...], reduce: Reduce) -> jax.Array:
    split = [n for size, part in zip(scores.shape, block, strict=True) for n in (size // part, part)]
    inside = tuple(range(1, 2 * len(block), 2))
    groups = wide(scores).reshape(split)
    if reduce == "max":
        return groups.max(inside)
    counted = groups > -jnp.inf
    total = jnp.where(counted, groups, jnp.zeros((), groups.dtype)).sum(inside)
    return jnp.where(counted.any(inside), total, jnp.asarray(-jnp.inf, groups.dtype))


def _spread(mask: jax.Array, block: tuple[int, ...]) -> jax.Array:
    """Every entry of a mask as a block."""
    for axis, size in enumerate(block):
        mask = jnp.repeat(mask, size, axis) if size > 1 else mask
    return mask
