"""After weights are gone: those that read removed channels are fitted anew, biases take up the mean of what is lost."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.mean_outputs import Keep, kept_along, with_mean_outputs
from jaxcompress.core.moments import Matrices, Statistics, matrices_of, observed_paths
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.targets import Target, find_targets, over_batch, require_solved
from jaxcompress.solvers.sparse_fit import damped


def reconstruct(params: Any, stats: Statistics, keep: Keep, *, damping: ArrayLike = 1e-3, where: Where = None) -> Any:
    """Fits the weights that read removed channels, so that their outputs stay as they were as far as possible.

    Of every consumer the kept rows become ``argmin_V E |x W - x_kept V|^2``, from second moments alone:
    ``V = (S_kk)^-1 S_k: W``. The rows of removed channels become zero, so that `jaxcompress.shrink` with the same
    ``keep`` gives the same function. Convolutions are fitted over all entries of the patch under the kernel at once.

    Args:
        params: the dense tree. Not changed.
        stats: of `jaxcompress.observe` of the dense model, with ``second_moment``.
        keep: kept indices by (path, axis), as `jaxcompress.prune.channels` and `jaxcompress.shrink` have them.
        damping: what is added to the diagonal of a second moment, as a fraction of its mean: draws the fit to the
            weights as they were.
        where: consumers to fit; by default all that are observed and read something that ``keep`` drops. Others keep
            their values.

    Returns:
        A tree of the same shapes.

    Raises:
        ValueError: if no observed weight is contracted along an axis of ``keep``, indices are out of range, a consumer
            is compressed, or a second moment is singular in spite of the damping (seen only outside ``jit``).

    Example:
        >>> params = {"w": jnp.array([[1.0], [1.0]])}
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [jnp.array([[1.0, 1.0], [2.0, 2.0]])])
        >>> fitted = reconstruct(params, stats, {("w", 0): [0]})  # the second input is the same as the first
        >>> np.round(fitted["w"], 2).tolist()
        [[2.0], [0.0]]

    References:
        He, Zhang and Sun, 2017, equation 5. https://arxiv.org/abs/1707.06168
    """
    readers = _readers(params, stats, keep)
    if not readers:
        raise ValueError(
            f"reconstruct: no observed weight reads what keep= drops ({sorted(keep)}); observed were {list(stats)}"
        )
    chosen = set(readers) if where is None else set(readers) & set(select(params, where))
    if not chosen:
        raise ValueError(f"reconstruct: where={where!r} fits none of the weights that read what keep= drops: {readers}")
    targets = find_targets(params, stats, where=lambda path, leaf: path in chosen, method="reconstruct")
    fitted, solved = {}, []
    for target in targets:
        if target.support is not None:
            raise ValueError(
                f"reconstruct: {target.path!r} is masked, and a fit would fill it: reconstruct before masking"
            )
        kept = _kept_features(target, keep)
        moment = target.statistic("second_moment")
        fitted[target.path], finite = _fit(target.weight, moment, kept, damping, layout=target.layout)
        solved.append(finite)
    require_solved(targets, solved)
    return replace_at(params, fitted)


def compensate_bias(
    params: Any,
    pruned: Any,
    stats: Statistics,
    *,
    biases: Mapping[str, str] | None = None,
    keep: Keep | None = None,
    where: Where = None,
) -> Any:
    """Adds to the biases what the removed weights contributed on average: ``b + E[x] (W - V)``.

    The mean output of every layer is then what it was. Works for masks, removed channels, any other change of weights.

    Args:
        params: the dense tree.
        pruned: what a method made of it. Not changed.
        stats: of `jaxcompress.observe` of the dense model, with ``mean``.
        biases: path of the bias that is added to a weight's outputs, by the weight's path. By default the leaf
            ``bias``, ``b`` or ``offset`` beside it.
        keep: of structured pruning: outputs that it drops get no bias.
        where: weights to compensate for; by default all that are observed and that ``pruned`` changed.

    Returns:
        ``pruned`` with other biases.

    Raises:
        ValueError: if a weight has no bias of the shape of its outputs (name it in ``biases``, or leave the weight out
            with ``where``), no weight was changed, or the weights hold NaN or infinity.

    Example:
        >>> params = {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.zeros(1)}
        >>> fn = lambda p, x: x @ p["kernel"] + p["bias"][None]
        >>> stats = jc.observe(fn, params, [jnp.array([[1.0, 3.0]])])
        >>> pruned = jc.prune.magnitude(params, sparsity=0.5, where="kernel")
        >>> compensate_bias(params, pruned, stats)["bias"].tolist()
        [3.0]
    """
    return with_mean_outputs(
        params,
        pruned,
        stats,
        biases=biases,
        keep=keep,
        where=where,
        method="compensate_bias",
        argument="pruned",
    )


def _readers(params: Any, stats: Statistics, keep: Keep) -> list[str]:
    """Observed weights that are contracted along an axis of ``keep``."""
    shapes = dict(zip(*_shapes(params), strict=True))
    found = []
    for path, axis in keep:
        if path not in shapes:
            raise ValueError(f"reconstruct: keep= names {path!r}, and params has no such leaf")
        if path in observed_paths(stats, "second_moment"):
            layout = matrices_of(path, shapes[path], stats, method="reconstruct")
            if axis in layout.roles.contracting:
                found.append(path)
    return list(dict.fromkeys(found))


def _shapes(params: Any) -> tuple[list[str], list[tuple[int, ...]]]:
    paths, leaves, _ = flatten_with_paths(params)
    return paths, [tuple(np.shape(leaf)) if not is_compressed(leaf) else leaf.shape for leaf in leaves]


def _kept_features(target: Target, keep: Keep) -> jax.Array:
    """Which rows of the matrices stay, ``[features]``."""
    layout = target.layout
    stays = jnp.ones(layout.shape, bool)
    for axis, kept in kept_along(target, keep, layout.roles.contracting).items():
        stays &= jnp.expand_dims(kept, [i for i in range(len(layout.shape)) if i != axis])
    return layout.split(stays)[0, :, 0]


@functools.partial(jax.jit, static_argnames="layout")
def _fit(
    weight: jax.Array, moment: jax.Array, kept: jax.Array, damping: ArrayLike, *, layout: Matrices
) -> tuple[jax.Array, jax.Array]:
    w = layout.split(weight.astype(wider(weight.dtype, jnp.float32)))

    def one(arrays: tuple[jax.Array, jax.Array]) -> jax.Array:
        w, moment = arrays
        s = damped(moment.astype(w.dtype), damping)
        s = s / jnp.mean(jnp.diag(s))
        inside = kept[:, None] & kept[None]
        system = jnp.where(inside, s, jnp.eye(s.shape[0], dtype=s.dtype))
        factor = jnp.linalg.cholesky(system)
        start = jnp.where(kept[:, None], w, jnp.zeros_like(w))

        def refine(_: jax.Array, values: jax.Array) -> jax.Array:
            missing = jnp.matmul(s, w - values, precision=lax.Precision.HIGHEST)
            missing = jnp.where(kept[:, None], missing, jnp.zeros_like(missing))
            return values + jax.scipy.linalg.cho_solve((factor, True), missing)

        return lax.fori_loop(0, 2, refine, start)  # the second step removes the rounding errors of the first

    fitted = layout.join(over_batch(one, (w, moment)))
    return fitted.astype(weight.dtype), jnp.isfinite(fitted).all()
