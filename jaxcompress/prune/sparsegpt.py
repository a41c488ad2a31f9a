"""SparseGPT: what is dropped is made up for by what stays, as well as the observed data allow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray
from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at
from jaxcompress.core.sites import Site, Sites
from jaxcompress.core.targets import Target, find_targets, over_batch, require_solved, support_or_all
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.observed import Pattern
from jaxcompress.solvers.grid import dequantize, quantize, spread
from jaxcompress.solvers.obs import kept_per_block, n_of_group, obs_sweep, top_of_blocks

Quantizer = Callable[..., Any]


def sparsegpt(
    params: Any,
    stats: Statistics,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike] | None = None,
    n: ArrayLike | None = None,
    m: int | None = None,
    block_size: int = 128,
    damping: ArrayLike = 0.01,
    quantizer: Quantizer | None = None,
    where: Where = None,
) -> Any:
    """Drops weights, and corrects those that stay so that the outputs on the observed data change little.

    The Optimal Brain Surgeon sweep of `jaxcompress.solvers.obs`: block by block of input features, the entries whose
    loss would cost least go, over all outputs of the block together; the features that come later take over. Exactly
    ``round(sparsity * size)`` entries of every layer are dropped, in every block its share up to one entry; among
    equals the lower index stays. What is pruned already stays pruned: those entries are the first of their block to go.

    With ``quantizer`` what stays is rounded in the same sweep, so that later features make up for rounding and pruning
    together. Pruning does not know the leaf kinds of quantization; it takes a recipe stage of that room, has it
    quantize the dense weights, and moves the integers of its leaves on the grid of their scales.

    Unlike the authors' code, weights of input features that were never active are not set to zero when they stay.

    Args:
        params: tree of float arrays or `Masked` leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean. For better
            results observe what is pruned up to there: `jaxcompress.prune.sequential`.
        sparsity: fraction to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to fractions: the
            first glob that fits a path counts, paths that fit none stay as they are.
        n: entries to keep of every ``m`` neighbours along the input features, in place of ``sparsity``.
        m: length of a group.
        block_size: input features whose mask is chosen together, static.
        damping: what is added to the diagonal of a second moment, as a fraction of its mean.
        quantizer: for pruned weights on a grid: a stage such as ``jc.quantize.RTN(bits=4)``, or any function ``(params,
            sites=...) -> params`` whose leaves hold ``qvalue`` and ``scale``. Weights that it leaves dense are only
            pruned.
        where: leaves to prune: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `Masked` leaves, their values quantized where ``quantizer`` quantizes.

    Raises:
        ValueError: unless either ``sparsity`` or both ``n`` and ``m`` are given, in range; if ``m`` does not divide the
            input features of a leaf, or ``block_size`` is below 1; if ``where`` or a glob fits nothing, a chosen leaf
            was not observed, is coded already, or holds NaN or infinity, or its second moment is singular in spite of
            the damping (both seen only outside ``jit``).
        TypeError: if ``quantizer`` makes leaves of another kind.

    Example:
        >>> params = {"w": jnp.array([[1.0], [1.0], [1.0]])}
        >>> data = jnp.array([[2.0, 2.0, 0.0], [0.0, 0.0, 3.0]])  # the first two inputs are the same
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> np.round(sparsegpt(params, stats, sparsity=0.3)["w"].materialize(), 1).tolist()
        [[0.0], [2.0], [1.0]]

    References:
        Frantar and Alistarh, 2023. https://arxiv.org/abs/2301.00774
    """
    pattern = Pattern.read("sparsegpt", sparsity, n, m)
    if block_size < 1:
        raise ValueError(f"sparsegpt: block_size must be 1 or more, got {block_size}")
    targets = find_targets(params, stats, where=where, settings=pattern.settings, method="sparsegpt")
    for target in targets:
        pattern.check_fits(target)
    grids = [None] * len(targets) if quantizer is None else _grids(params, targets, quantizer)
    leaves, solved = {}, []
    for target, grid in zip(targets, grids, strict=True):
        layout = target.layout
        leaf, finite = _sweep(
            target.weight,
            support_or_all(target),
            target.statistic("second_moment"),
            None if pattern.m is not None else _kept(layout, pattern.at(target), block_size),
            pattern.n,
            damping,
            grid,
            layout=layout,
            m=pattern.m,
            block_size=block_size,
        )
        leaves[target.path] = leaf
        solved.append(finite)
    require_solved(targets, solved)
    return replace_at(params, leaves)


@functools.partial(jax.jit, static_argnames=("layout", "m", "block_size"))
def _sweep(
    weight: jax.Array,
    support: jax.Array,
    moment: jax.Array,
    kept: jax.Array | None,
    n: ArrayLike | None,
    damping: ArrayLike,
    grid: Any,
    *,
    layout: Matrices,
    m: int | None,
    block_size: int,
) -> tuple[Masked, jax.Array]:
    """One weight: its layers are the batch of one program."""
    wide = wider(weight.dtype, jnp.float32)
    scale = None if grid is None else layout.split(spread(grid.scale, weight.shape))
    bits = 0 if grid is None else grid.bits

    def one(arrays: tuple[Any, ...]) -> Any:
        w, moment, support, kept, scale = arrays
        choose = top_of_blocks(kept) if m is None else n_of_group(n if n is not None else 0)

        def rounding(values: jax.Array, feature: jax.Array) -> jax.Array:
            own = lax.dynamic_index_in_dim(scale, feature, keepdims=False)
            return dequantize(quantize(values, own, bits=bits), own)

        return obs_sweep(
            w,
            moment,
            choose,
            group=m,
            support=support,
            rounding=None if scale is None else rounding,
            block_size=block_size,
            damping=damping,
        )

    w = layout.split(weight.astype(wide))
    swept = over_batch(one, (w, moment, layout.split(support), kept, scale))
    values, mask = layout.join(swept.values), layout.join(swept.mask)
    finite = jnp.isfinite(values).all()
    if grid is None:
        return Masked.create(values.astype(weight.dtype), mask), finite
    return Masked.create(grid.with_codes(quantize(values, grid.scale, bits=bits)), mask), finite


def _kept(layout: Matrices, sparsity: ArrayLike, block_size: int) -> jax.Array:
    """Entries to keep per block of every matrix; the groups of a convolution are one layer together."""
    kept = kept_per_block(layout.features, layout.outputs, sparsity, block_size=block_size, groups=layout.groups)
    return jnp.tile(kept, (layout.batch // layout.groups, 1))


def _grids(params: Any, targets: Sequence[Target], quantizer: Quantizer) -> list[CompressedArray | None]:
    """The leaves that a quantizer makes of the dense weights; None where it leaves them dense."""
    weights = replace_at(params, {target.path: target.weight for target in targets})
    paths, leaves, _ = flatten_with_paths(quantizer(weights, sites=Sites([_site(target) for target in targets])))
    found = dict(zip(paths, leaves, strict=True))
    return [_grid(target.path, found[target.path]) for target in targets]


def _grid(path: str, leaf: ArrayOrLeaf) -> CompressedArray | None:
    if not isinstance(leaf, CompressedArray):
        return None
    held = leaf.components()
    if set(held) != {"qvalue", "scale"} or not jnp.issubdtype(held["qvalue"].dtype, jnp.integer):
        raise TypeError(
            f"sparsegpt: quantizer= made a {leaf.kind} leaf of {path!r}; it can prune onto symmetric integer grids, "
            "leaves that hold qvalue and scale (jc.quantize.RTN)"
        )
    return leaf


def _site(target: Target) -> Site:
    """What the observations say about the axes of a weight, in the form that methods read."""
    roles, weight = target.layout.roles, target.weight
    return Site(
        path=target.path,
        primitive="dot_general",
        contracting=roles.contracting,
        output=roles.output,
        stack=roles.stack,
        lookup=(),
        trips=None,
        macs=0,
        bytes=weight.size * weight.dtype.itemsize,
        shape=weight.shape,
        dtype=weight.dtype,
        source="jaxcompress.observe",
        spatial=roles.spatial,
    )
