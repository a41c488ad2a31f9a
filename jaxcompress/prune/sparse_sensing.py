"""Magnitude pruning with sparse sensing: sparse weights are recovered from what the dense ones did to observed data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.paths import Where, replace_at
from jaxcompress.core.targets import find_targets, over_batch, require_solved, support_or_all
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.nm import nm_mask
from jaxcompress.prune.observed import Pattern
from jaxcompress.solvers.sparse_fit import (
    SparseFit,
    fit_support,
    hard_thresholding,
    largest_per_column,
    matching_pursuit,
)
from jaxcompress.solvers.topk import kept_count, topk_mask

Recovery = Literal["iht", "omp", "fit"]


def sparse_sensing(
    params: Any,
    stats: Statistics,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike] | None = None,
    n: ArrayLike | None = None,
    m: int | None = None,
    recovery: Recovery = "iht",
    iterations: int = 50,
    damping: ArrayLike = 0.01,
    where: Where = None,
) -> Any:
    """Prunes by magnitude, then recovers sparse weights from the outputs that the dense ones gave on observed data.

    Each output column is a sparse vector seen through linear measurements, the data: the setting of compressed sensing.
    Magnitude says how many weights each output keeps, and which to start from: exactly ``round(sparsity * size)``
    entries of every layer are dropped, as by `magnitude`. Then, output by output,

    * ``"iht"`` lets the support move by iterative hard thresholding, the error falling with every step,
    * ``"omp"`` picks as many features anew by orthogonal matching pursuit (slow where many are kept),
    * ``"fit"`` keeps the support,

    and the values are fitted by least squares.

    Args:
        params: tree of float arrays or `Masked` leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean.
        sparsity: fraction to drop, in ``[0, 1]``; may be traced. Or a dict from globs over paths to fractions: the
            first glob that fits a path counts, paths that fit none stay as they are.
        n: entries to keep of every ``m`` neighbours along the input features, in place of ``sparsity``.
        m: length of a group; not with ``"omp"``.
        recovery: see above.
        iterations: of hard thresholding.
        damping: what is added to the diagonal of a second moment, as a fraction of its mean: draws the values to those
            of the dense weights.
        where: leaves to prune: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `Masked` leaves.

    Raises:
        ValueError: if ``recovery`` is unknown, or ``"omp"`` is asked for N:M; else as `sparsegpt`.

    Example:
        >>> params = {"w": jnp.array([[1.0], [1.0]])}
        >>> data = jnp.array([[1.0, 1.0], [2.0, 2.0]])  # the two inputs are the same
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> pruned = sparse_sensing(params, stats, sparsity=0.5, recovery="fit", damping=0.0)
        >>> np.round(pruned["w"].materialize(), 2).tolist()
        [[2.0], [0.0]]

    References:
        Blumensath and Davies, 2009. https://arxiv.org/abs/0805.0510
        Tropp and Gilbert, 2007. Signal recovery from random measurements via orthogonal matching pursuit.
    """
    pattern = Pattern.read("sparse_sensing", sparsity, n, m)
    if recovery not in ("iht", "omp", "fit"):
        raise ValueError(f"sparse_sensing: recovery must be 'iht', 'omp' or 'fit', got {recovery!r}")
    if recovery == "omp" and m is not None:
        raise ValueError("sparse_sensing: recovery='omp' knows no N:M patterns: use 'iht' or 'fit'")
    targets = find_targets(params, stats, where=where, settings=pattern.settings, method="sparse_sensing")
    for target in targets:
        pattern.check_fits(target)
    leaves, solved = {}, []
    for target in targets:
        layout = target.layout
        layer = layout.groups * layout.features * layout.outputs
        leaf, finite = _sense(
            target.weight,
            support_or_all(target),
            target.statistic("second_moment"),
            None if m is not None else jnp.asarray(kept_count(layer, pattern.at(target)), jnp.int32),
            n,
            damping,
            layout=layout,
            m=m,
            recovery=recovery,
            iterations=iterations,
        )
        leaves[target.path] = leaf
        solved.append(finite)
    require_solved(targets, solved)
    return replace_at(params, leaves)


@functools.partial(jax.jit, static_argnames=("layout", "m", "recovery", "iterations"))
def _sense(
    weight: jax.Array,
    support: jax.Array,
    moment: jax.Array,
    kept: jax.Array | None,
    n: ArrayLike | None,
    damping: ArrayLike,
    *,
    layout: Matrices,
    m: int | None,
    recovery: Recovery,
    iterations: int,
) -> tuple[Masked, jax.Array]:
    w = layout.split(weight.astype(wider(weight.dtype, jnp.float32)))
    allowed = layout.split(support)
    masks = _by_magnitude(jnp.where(allowed, jnp.abs(w), jnp.full_like(w, -1)), kept, n, layout, m) & allowed

    def one(arrays: tuple[jax.Array, ...]) -> SparseFit:
        w, moment, mask, allowed = arrays
        counts = jnp.sum(mask, axis=0, dtype=jnp.int32)
        if recovery == "fit":
            return SparseFit(fit_support(w, moment, mask, damping=damping), mask)
        if recovery == "omp":
            return matching_pursuit(w, moment, counts, allowed=allowed, damping=damping)

        def choose(sizes: jax.Array) -> jax.Array:
            ranks = jnp.where(allowed, sizes, jnp.full_like(sizes, -1))
            stays = largest_per_column(counts)(ranks) if m is None else nm_mask(ranks, n=_given(n), m=m, axis=0)
            return stays & allowed

        return hard_thresholding(w, moment, choose, mask, iterations=iterations, damping=damping)

    fitted = over_batch(one, (w, moment, masks, allowed))
    values = layout.join(fitted.values)
    return Masked.create(values.astype(weight.dtype), layout.join(fitted.mask)), jnp.isfinite(values).all()


def _by_magnitude(
    sizes: jax.Array, kept: jax.Array | None, n: ArrayLike | None, layout: Matrices, m: int | None
) -> jax.Array:
    """The masks of magnitude, layer by layer: the groups of a convolution are one layer together."""
    if m is not None:
        return nm_mask(sizes, n=_given(n), m=m, axis=1)
    layers = sizes.reshape(layout.batch // layout.groups, -1)
    return over_batch(lambda row: topk_mask(row, kept if kept is not None else 0), layers).reshape(sizes.shape)


def _given(n: ArrayLike | None) -> ArrayLike:
    assert n is not None
    return n
