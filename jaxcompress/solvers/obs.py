"""The Optimal Brain Surgeon sweep: features are settled one after the other, and what is settled never changes again.

A layer ``y = x @ w`` has the squared output error ``tr((w - v)^T S (w - v))`` with the second moment ``S = E[x x^T]``.
When one feature of ``w`` is pruned or rounded, the features after it take over what it did, as far as they are
correlated with it: the update is a row of the Cholesky factor ``U`` of ``S^-1``, which all columns of ``w`` share.
SparseGPT and GPTQ are this one sweep with other choices of what becomes of a feature.

References:
    Hassibi and Stork, 1993. Second order derivatives for network pruning: Optimal Brain Surgeon.
    Frantar and Alistarh, 2023, algorithm 1. https://arxiv.org/abs/2301.00774
    Frantar et al., 2023, algorithm 1. https://arxiv.org/abs/2210.17323
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.solvers.topk import kept_counts, topk_mask

Choose: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""``(scores [group, outputs], index of the group) -> bool mask``: which entries of a group of features stay."""
Rounding: TypeAlias = Callable[..., jax.Array]
"""``(values [outputs], index of the feature) -> values on a grid``; padding has the index of the last feature. Where a
`Fit` is given, what it returned for the group of the feature is the third argument."""
Fit: TypeAlias = Callable[[jax.Array, jax.Array], Any]
"""``(values [group, outputs], index of the group) -> arrays``: what the features of a group share, such as a scale."""


class Swept(NamedTuple):
    """A weight after the sweep: exact zeros where the mask drops, values on the grid where there is one."""

    values: jax.Array  # [features, outputs]
    mask: jax.Array  # bool; True keeps
    fitted: Any = None  # what `Fit` returned, stacked: [groups, ...]


def obs_sweep(
    w: jax.Array,
    second_moment: jax.Array,
    choose: Choose | None = None,
    *,
    group: int | None = None,
    support: jax.Array | None = None,
    rounding: Rounding | None = None,
    fit: Fit | None = None,
    order: jax.Array | None = None,
    block_size: int = 128,
    damping: ArrayLike = 0.01,
    retries: int = 0,
) -> Swept:
    """Prunes and rounds the features of a weight one after the other, each time correcting the features that follow.

    Within a block of features the corrections are applied at once, beyond it in one product at its end. All of it is
    plain ``jax.numpy``, to be called under ``jit`` and ``vmap``.

    Args:
        w: weight, ``[features, outputs]``; computed in float32 (float64 for float64).
        second_moment: ``E[x x^T]`` of what meets it, ``[features, features]``, at any scale.
        choose: decides group by group what stays, from the weights as they are by then. Its scores are
            ``|w| / U[i, i]``, the square root of the error that dropping an entry causes once the rest has adapted.
            None: everything stays.
        group: features that are decided on together, static; a whole block by default.
        support: bool, of the shape of ``w``: entries that are pruned already (False) stay so, and are the first to go.
        rounding: brings what stays onto a grid.
        fit: finds what ``rounding`` needs to know of a group of features, from the weights as they are when the sweep
            enters the group.
        order: int, ``[features]``: which feature is settled first, second, and so on; by default as they stand. Groups
            are neighbours in this order; the result is in the order of ``w``.
        block_size: features of a block, static; rounded up to whole groups.
        damping: what is added to the diagonal of ``second_moment``, as a fraction of its mean. Features that never
            had data get this alone: they are the first to go, and those that stay are not changed.
        retries: how often to try ten times the damping where ``second_moment`` is not positive definite with it.

    Returns:
        Values, mask and what ``fit`` found; NaN throughout where ``second_moment`` is not positive definite even with
        the damping.

    Example:
        >>> w, s = jnp.array([[1.0], [1.0]]), jnp.array([[1.0, 1.0], [1.0, 1.0]])  # two inputs that are the same
        >>> swept = obs_sweep(w, s, lambda scores, index: jnp.array([[False], [True]]), damping=1e-4)
        >>> jnp.round(swept.values, 3).tolist()
        [[0.0], [2.0]]
    """
    features = w.shape[0]
    dtype = jnp.dtype(jnp.float64 if w.dtype == jnp.float64 else jnp.float32)
    group = min(block_size, features) if group is None else group
    block = group * -(-min(block_size, features) // group)
    padding = -features % block
    support = jnp.ones(w.shape, bool) if support is None else support
    if order is None:
        taken = jnp.arange(features, dtype=jnp.int32)
    else:
        taken = order.astype(jnp.int32)
        w, support, second_moment = w[taken], support[taken], second_moment[taken][:, taken]
    factor = factor_with_retries(second_moment.astype(dtype), damping, retries)
    # Padding has a unit of its own in the factor: it neither gives nor takes corrections.
    unit = jnp.concatenate([jnp.zeros(features, dtype), jnp.ones(padding, dtype)])
    factor = jnp.pad(factor, (0, padding)) + jnp.diag(unit)
    # The root of what dropping a unit weight costs; features without data cost nothing.
    cost = jnp.pad(jnp.where(jnp.diag(second_moment) > 0, 1, 0).astype(dtype), (0, padding)) / jnp.diag(factor)
    allowed = jnp.pad(support, ((0, padding), (0, 0)))
    start = jnp.pad(w.astype(dtype), ((0, padding), (0, 0)))
    places = jnp.arange(features + padding, dtype=jnp.int32)

    def round_one(values: jax.Array, place: jax.Array, *fitted: Any) -> jax.Array:
        if rounding is None:
            return values
        feature = lax.dynamic_index_in_dim(taken, jnp.minimum(place, features - 1), keepdims=False)
        return rounding(values, feature, *fitted).astype(dtype)

    def settle_block(b: jax.Array, state: tuple[jax.Array, ...]) -> tuple[Any, ...]:
        weights, masks, fitted = state
        first = b * block
        own = lax.dynamic_slice(factor, (first, first), (block, block))
        rows, mask, errors, found = _settle(
            lax.dynamic_slice_in_dim(weights, first, block),
            own,
            lax.dynamic_slice_in_dim(cost, first, block),
            lax.dynamic_slice_in_dim(allowed, first, block),
            choose,
            round_one,
            fit,
            group=group,
            first=first,
        )
        after = jnp.where(places >= first + block, lax.dynamic_slice_in_dim(factor, first, block), jnp.zeros((), dtype))
        weights = weights - jnp.matmul(after.T, errors, precision=lax.Precision.HIGHEST)
        return (
            lax.dynamic_update_slice_in_dim(weights, rows, first, 0),
            lax.dynamic_update_slice_in_dim(masks, mask, first, 0),
            jax.tree.map(lambda to, part: lax.dynamic_update_slice_in_dim(to, part, first // group, 0), fitted, found),
        )

    blocks = (features + padding) // block
    empty = _room_for(fit, group, start, blocks * block // group)
    values, mask, fitted = lax.fori_loop(0, blocks, settle_block, (start, allowed, empty))
    fitted = None if fit is None else jax.tree.map(lambda stacked: stacked[: -(-features // group)], fitted)
    back = slice(features) if order is None else jnp.argsort(taken)
    return Swept(values[back].astype(w.dtype), mask[back], fitted)


def _room_for(fit: Fit | None, group: int, rows: jax.Array, groups: int) -> Any:
    """Zeros of the shape of what ``fit`` returns, for every group."""
    if fit is None:
        return None
    found = jax.eval_shape(fit, jax.ShapeDtypeStruct((group, *rows.shape[1:]), rows.dtype), jnp.int32(0))
    return jax.tree.map(lambda part: jnp.zeros((groups, *part.shape), part.dtype), found)


def _settle(
    rows: jax.Array,
    factor: jax.Array,
    cost: jax.Array,
    allowed: jax.Array,
    choose: Choose | None,
    rounding: Rounding,
    fit: Fit | None,
    *,
    group: int,
    first: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """One block: its values, its mask, the errors that the features after it are to take over, and what was fitted."""
    block = rows.shape[0]
    order = jnp.arange(block, dtype=jnp.int32)

    def settle_group(g: jax.Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        rows, errors, mask, fitted = state
        at = g * group
        if choose is not None:
            scores = jnp.abs(rows) * cost[:, None]
            scores = jnp.where(allowed, scores, jnp.full_like(scores, -1))
            stays = choose(lax.dynamic_slice_in_dim(scores, at, group), first // group + g)
            mask = lax.dynamic_update_slice_in_dim(mask, stays, at, 0) & allowed
        found: tuple[Any, ...] = ()
        if fit is not None:
            found = (fit(lax.dynamic_slice_in_dim(rows, at, group), first // group + g),)
            fitted = jax.tree.map(lambda to, part: lax.dynamic_update_index_in_dim(to, part, g, 0), fitted, found[0])

        def settle_one(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            rows, errors, error, along = state
            # The correction of the feature before comes first. Were it applied in its own step, XLA would fuse it with
            # the rounding, and round every value again for every feature of the block.
            before = lax.dynamic_index_in_dim(rows, i, keepdims=False)
            before = before - lax.dynamic_index_in_dim(along, i, keepdims=False) * error
            rows = rows - along[:, None] * error[None]
            stays = lax.dynamic_index_in_dim(mask, i, keepdims=False)
            after = jnp.where(stays, rounding(before, first + i, *found), jnp.zeros_like(before))
            along = lax.dynamic_index_in_dim(factor, i, keepdims=False)
            error = (before - after) / along[i]
            rows = lax.dynamic_update_index_in_dim(rows, after, i, 0)
            errors = lax.dynamic_update_index_in_dim(errors, error, i, 0)
            return rows, errors, error, jnp.where(order > i, along, jnp.zeros_like(along))

        start = (rows, errors, jnp.zeros_like(rows[0]), jnp.zeros_like(rows[:, 0]))
        rows, errors, error, along = lax.fori_loop(at, at + group, settle_one, start)
        return rows - along[:, None] * error[None], errors, mask, fitted

    state = (rows, jnp.zeros_like(rows), allowed, _room_for(fit, group, rows, block // group))
    rows, errors, mask, fitted = lax.fori_loop(0, block // group, settle_group, state)
    return rows, mask, errors, fitted


def factor_with_retries(second_moment: jax.Array, damping: ArrayLike, retries: int) -> jax.Array:
    """`inverse_factor` with the damping, or with the first of ten, a hundred, ... times that for which it is finite.

    Args:
        second_moment: symmetric, ``[features, features]``.
        damping: as for `inverse_factor`; where it is zero the retries begin at 1e-5.
        retries: how many more to try, static.

    Returns:
        The factor; NaN where none of them helps.
    """
    factor = inverse_factor(second_moment, damping)
    if retries == 0:
        return factor

    def failed(state: tuple[jax.Array, ...]) -> jax.Array:
        tried, _, factor = state
        return (tried < retries) & ~jnp.isfinite(factor).all()

    def retry(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        tried, damping, _ = state
        damping = jnp.maximum(10 * damping, jnp.asarray(1e-5, damping.dtype))
        return tried + 1, damping, inverse_factor(second_moment, damping)

    start = (jnp.int32(0), jnp.asarray(damping, second_moment.dtype), factor)
    return lax.while_loop(failed, retry, start)[2]


def inverse_factor(second_moment: jax.Array, damping: ArrayLike) -> jax.Array:
    """The upper triangular ``U`` with ``U^T U = (S + damping)^-1``, of ``S`` scaled to a mean diagonal of 1.

    Taken from the Cholesky factor of ``S`` in reversed order and one triangular inverse; the inverse of ``S`` itself,
    whose rounding errors a second factorization would amplify, is never formed.

    Args:
        second_moment: symmetric, ``[features, features]``.
        damping: fraction of the mean diagonal that is added to the diagonal; where that is zero, this alone is there
            (and at least 1e-6 of the mean).

    Example:
        >>> u = inverse_factor(jnp.array([[1.0, 0.6], [0.6, 1.0]]), 0.0)
        >>> jnp.round(u.T @ u @ jnp.array([[1.0, 0.6], [0.6, 1.0]]), 3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    dtype = second_moment.dtype
    diagonal = jnp.diag(second_moment)
    mean = jnp.mean(diagonal)
    scaled = second_moment / jnp.where(mean > 0, mean, jnp.ones((), dtype))
    extra = jnp.asarray(damping, dtype)
    extra = jnp.where(diagonal > 0, extra, jnp.maximum(extra, jnp.asarray(1e-6, dtype)))
    lower = jnp.linalg.cholesky((scaled + jnp.diag(extra))[::-1, ::-1])
    eye = jnp.eye(lower.shape[0], dtype=dtype)
    return jax.scipy.linalg.solve_triangular(lower, eye, lower=True)[::-1, ::-1]


def top_of_blocks(kept: jax.Array) -> Choose:
    """Keeps ``kept[i]`` entries of group ``i``, over all its features and outputs; among equals the lower flat index.

    Args:
        kept: int32, one count per group (see `kept_per_block`).
    """
    return lambda scores, index: topk_mask(scores, lax.dynamic_index_in_dim(kept, index, keepdims=False))


def n_of_group(n: ArrayLike) -> Choose:
    """Keeps the ``n`` best of every group of neighbouring features, in every output; among equals the lower index."""

    def choose(scores: jax.Array, index: jax.Array) -> jax.Array:
        order = jnp.arange(scores.shape[0], dtype=jnp.int32)
        other, own = scores[None], scores[:, None]
        earlier = (order[None] < order[:, None])[..., None]
        rank = jnp.sum((other > own) | ((other == own) & earlier), axis=1, dtype=jnp.int32)
        return rank < jnp.asarray(n, jnp.int32)

    return choose


def kept_per_block(
    features: int, outputs: int, sparsity: ArrayLike, *, block_size: int = 128, groups: int = 1
) -> jax.Array:
    """How many entries stay in every block of features, so that ``round(sparsity * size)`` are dropped of the whole.

    The counts are the differences of the rounded counts of what lies before each end of a block: every block is within
    one entry of its share, and the total is exact.

    Args:
        features: features of a weight.
        outputs: outputs of a weight.
        sparsity: fraction to drop; may be traced.
        block_size: as in `obs_sweep`.
        groups: weights that make up one layer together (groups of a convolution).

    Returns:
        int32, ``[groups, blocks]``.

    Example:
        >>> kept_per_block(5, 1, 0.5, block_size=2).tolist()  # the two dropped entries lie in the first two blocks
        [[1, 1, 1]]
    """
    block = min(block_size, features)
    ends = [
        (group * features + min(end, features)) * outputs
        for group in range(groups)
        for end in range(block, features + block, block)
    ]
    return jnp.diff(kept_counts(ends, sparsity), prepend=jnp.int32(0)).reshape(groups, -1)
