"""N:M pruning of a tree: n of every m neighbours stay along the contracted axis of every weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jax.typing import ArrayLike

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.parts import Part, find_parts, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.prune.masked import Masked, takes_mask
from jaxcompress.prune.nm import nm_mask
from jaxcompress.prune.packed_nm import PackedNM
from jaxcompress.prune.ranking import masked_leaf, ranked

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def nm(
    params: Any,
    *,
    n: ArrayLike,
    m: int,
    scores: Any = "l1",
    packed: bool = False,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Keeps the ``n`` highest-scoring weights of every ``m`` neighbours along the axis that is contracted.

    Groups lie along the input features: of a convolution never along the window, of several contracted axes (heads and
    their dimensions) along the innermost. Among equals the lower index stays. What is pruned already stays pruned, so a
    group may keep fewer.

    Args:
        params: tree of float arrays or leaves with one element per weight. Not changed.
        n: weights to keep of each group, in ``[0, m]``; may be traced unless ``packed``.
        m: length of a group; divides the axis of every chosen leaf.
        scores: as in `jaxcompress.prune.weight_scores`; higher stays.
        packed: hold the result as `PackedNM` leaves, which have no room for dropped weights, instead of `Masked` ones.
        where: leaves to prune: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Masked` or `PackedNM` leaves. Neither makes a JAX program faster.

    Raises:
        ValueError: if ``m`` does not divide the axis of a leaf, ``n`` is out of range, the axes of a leaf are not
            known, ``where`` fits nothing, a leaf cannot be packed, or weights or scores are not finite; names the path.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> pruned = nm({"w": jnp.array([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]])}, n=2, m=4)
        >>> pruned["w"].materialize().tolist()
        [[0.0, 8.0], [0.0, 7.0], [3.0, 0.0], [4.0, 0.0]]

    References:
        Mishra et al., 2021. https://arxiv.org/abs/2104.08378
        Zhou et al., 2021 (any N and M). https://arxiv.org/abs/2102.04010
    """
    parts = find_parts(params, where=where, sites=sites, method="nm", whole=takes_mask)
    axes = [_axis(part, m, packed) for part in parts]
    masks = [
        nm_mask(order, n=n, m=m, axis=axis) for order, axis in zip(ranked(params, parts, scores), axes, strict=True)
    ]
    leaves: list[CompressedArray] = [masked_leaf(part.array, mask) for part, mask in zip(parts, masks, strict=True)]
    if packed:
        kept = int(n)  # type: ignore[arg-type]  # a tracer says so itself
        leaves = [_pack(leaf, kept, m, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class NM:
    """Recipe stage of `nm`, with the same fields; the scores are one of the names."""

    n: int
    m: int
    scores: str = "l1"
    packed: bool = False
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `nm`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return nm(params, **options, sites=sites)


def _axis(part: Part, m: int, packed: bool) -> int:
    axis = part.known_roles("nm").feature
    size = part.array.shape[axis]
    if m < 1 or size % m:
        raise ValueError(
            f"nm: m={m} does not divide the {size} input features (axis {axis}) of {part.name!r}, shape "
            f"{part.array.shape}: leave it out of where=, or choose another m"
        )
    values = part.array.values if isinstance(part.array, Masked) else part.array
    if packed and isinstance(values, CompressedArray):
        raise ValueError(
            f"nm: packed=True takes {part.name!r} apart, which is a {values.kind} leaf: prune and pack first, then "
            "quantize or cluster, which acts on the packed values"
        )
    return axis


def _pack(leaf: CompressedArray, n: int, m: int, axis: int) -> PackedNM:
    assert isinstance(leaf, Masked)
    assert not isinstance(leaf.values, CompressedArray)
    return PackedNM.create(leaf.values, leaf.mask, n=n, m=m, axis=axis)
