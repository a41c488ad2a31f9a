"""Searched clips: ranges that are shrunk, group after group, as long as the output on the observed data gains."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.solvers.grid import group_range

HIGHEST = lax.Precision.HIGHEST


def output_error(error: jax.Array, moment: jax.Array) -> jax.Array:
    """Mean square of ``x @ error`` per output, from the second moment ``E[x x^T]``: the diagonal of ``D^T S D``.

    Args:
        error: of a weight, ``[..., features, outputs]``.
        moment: ``[..., features, features]``.

    Example:
        >>> output_error(jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([[2.0, 1.0], [1.0, 2.0]])).tolist()
        [6.0, 8.0]
    """
    return jnp.sum(error * jnp.matmul(moment, error, precision=HIGHEST), axis=-2)


def search_clips(
    x: jax.Array,
    moment: jax.Array,
    divisor: jax.Array,
    scaling: Scaling,
    format: Format,
    *,
    ratios: Sequence[float],
    support: jax.Array | None = None,
) -> Scaling:
    """Shrinks the range of every group of features so that the outputs of a layer change least.

    Groups are visited in their order. For each, the given scaling and the ranges cut to ``ratio`` times the group's
    largest absolute value are tried, and what gives the smallest output error of the whole layer, rounding errors of
    all other groups included, is kept. So the error never grows, which a search on each group's own error (as the
    authors') does not promise. With one scale for all outputs their errors count together.

    Args:
        x: what is rounded, ``[parts, features, outputs]``, features of a group next to each other.
        moment: of the data, ``[parts, features, features]``.
        divisor: per feature what the data are divided by before they meet ``x``, ``[features]``.
        scaling: where each group lies now; scales ``[parts or 1, groups, outputs or 1]``.
        format: of the codes.
        ratios: in ``(0, 1)``, static.
        support: bool, of the shape of ``x``: entries that count.

    Returns:
        The scaling with the chosen ranges.

    References:
        Lin et al., 2023, section 3.2, and ``auto_clip`` of the authors' code. https://arxiv.org/abs/2306.00978
    """
    groups = scaling.scale.shape[1]
    shared = scaling.scale.shape[0] * scaling.scale.shape[2] == 1
    size = x.shape[1] // groups
    divisor = divisor[None, :, None]
    cuts = jnp.asarray(ratios, x.dtype)

    def error_of(x: jax.Array, divisor: jax.Array, keep: jax.Array | None, at: Scaling) -> jax.Array:
        error = (format.project(x, at) - x) / divisor
        return error if keep is None else jnp.where(keep, error, jnp.zeros_like(error))

    def visit(state: tuple[jax.Array, jax.Array], group: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Scaling]:
        error, product = state  # D and S @ D
        first = group * size

        def rows(array: jax.Array) -> jax.Array:
            return lax.dynamic_slice_in_dim(array, first, size, axis=1)

        own_x, own_divisor, own_error = rows(x), rows(divisor), rows(error)
        columns = lax.dynamic_slice_in_dim(moment, first, size, axis=2)
        own_moment = rows(columns)
        others = rows(product) - jnp.matmul(own_moment, own_error, precision=HIGHEST)
        given = jax.tree.map(lambda field: lax.dynamic_slice_in_dim(field, group, 1, axis=1), scaling)
        low, high = group_range(own_x, given.scale.shape)
        top = jnp.maximum(jnp.abs(low), jnp.abs(high))
        arguments = (own_x, own_divisor, None if support is None else rows(support))

        def cut(ratio: jax.Array) -> Scaling:
            whole = jnp.broadcast_to(ratio >= 1, low.shape)
            found = format.scaling(jnp.maximum(low, -ratio * top), jnp.minimum(high, ratio * top))

            def either(now: jax.Array, new: jax.Array) -> jax.Array:
                return jnp.where(whole if now.ndim == whole.ndim else whole[..., None], now, new)

            return jax.tree.map(either, given, found)

        def cost(ratio: jax.Array) -> jax.Array:
            changed = error_of(*arguments, cut(ratio))
            twice = jnp.matmul(own_moment, changed, precision=HIGHEST) + 2 * others
            each = jnp.sum(changed * twice, axis=1, keepdims=True)
            return jnp.sum(each, keepdims=True) if shared else each

        tried = jnp.concatenate([jnp.ones(1, x.dtype), cuts])
        best = tried[jnp.argmin(lax.map(cost, tried), axis=0)]
        chosen = cut(best)
        changed = error_of(*arguments, chosen)
        product += jnp.matmul(columns, changed - own_error, precision=HIGHEST)
        error = lax.dynamic_update_slice_in_dim(error, changed, first, axis=1)
        return (error, product), chosen

    error = error_of(x, divisor, support, scaling)
    start = (error, jnp.matmul(moment, error, precision=HIGHEST))
    _, chosen = lax.scan(visit, start, jnp.arange(groups))
    return jax.tree.map(lambda field: jnp.moveaxis(field[:, :, 0], 0, 1), chosen)
