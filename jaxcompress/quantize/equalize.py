"""Cross-layer equalization: channels get equal ranges in neighbouring layers, and the function stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.rescaling import spread, symmetries

_WEIGHT = ("output", "contracting")


def equalize(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    iterations: int = 50,
    tolerance: float = 1e-3,
    where: Where = None,
    clips: Literal["fix", "pass"] = "fix",
    **kwargs: Any,
) -> Any:
    """Rescales channels between layers until what one layer gives and what the next takes have equal ranges.

    One scale for a whole tensor wastes most of its grid where a few channels are large. But a channel may be divided in
    one layer and multiplied in the next, as long as what lies between is homogeneous (a ReLU, a pooling, a linear map):
    which channels of which parameters, `jaxcompress.core.rescaling.symmetries` tells from the trace. Each is scaled by
    ``s = sqrt(r1 * r2) / r1``, with ``r1`` and ``r2`` the largest absolute weights of the channel before and behind, so
    that both become ``sqrt(r1 * r2)``; biases follow. Where several layers give or take a channel (residual streams,
    query, key and value), the largest of their ranges counts. All pairs are gone through again and again until no scale
    differs from 1 by more than ``tolerance``.

    The promise: ``fn`` computes the same up to rounding. Fold batch normalizations first (`fold_batchnorm`): then the
    kernels are those that count. The absorption of high biases (section 4.1.3 of the paper) is left out: it holds for
    most inputs, not for all.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static.
        params: its first argument: all variables of the model, dense where they are to be equalized. Not changed.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        iterations: rounds over all pairs, at most.
        tolerance: what counts as converged.
        where: weights that may change: globs over paths or a predicate; by default all. A pair is left alone unless
            each of its weights may.
        clips: ``"pass"`` equalizes through a ReLU6 too, as the paper does after it replaced it by a ReLU: then the
            promise holds only if the function has been changed so, or where no activation reaches the bound.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The tree with rescaled leaves.

    Raises:
        ValueError: if no pair of weights can be equalized (says what is in the way), a weight holds NaN or infinity,
            or ``iterations`` is not positive.

    Example:
        >>> params = {"a": jnp.array([[8.0, 1.0]]), "b": jnp.array([[2.0], [4.0]])}
        >>> even = equalize(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
        >>> jnp.round(even["a"], 2).tolist(), jnp.round(even["b"], 2).tolist()
        ([[4.0, 2.0]], [[4.0], [2.0]])

    References:
        Nagel et al., 2019, section 4.1, equation 11. https://arxiv.org/abs/1906.04721
    """
    if iterations < 1:
        raise ValueError(f"equalize: iterations must be at least 1, got {iterations}")
    found = symmetries(fn, params, *inputs, clips=clips, **kwargs)
    weights = {member.path for pair in found.pairs for member in pair.members if member.role in _WEIGHT}
    allowed = weights if where is None else set(select(params, where))
    pairs = [pair for pair in found.pairs if all(m.path in allowed for m in pair.members if m.role in _WEIGHT)]
    if not pairs:
        why = "\n  ".join(f"{e.path} axes {e.axes}: {e.reason}" for e in found.excluded)
        raise ValueError(
            f"equalize: where={where!r} holds no weights that can be rescaled against each other. Those that can: "
            f"{sorted(weights)}. In the way of others:\n  {why}"
        )
    paths, leaves, _ = flatten_with_paths(params)
    known = dict(zip(paths, leaves, strict=True))
    changing = {member.path: known[member.path] for pair in pairs for member in pair.members}
    for path, leaf in changing.items():
        if is_compressed(leaf):
            raise TypeError(f"equalize: {path!r} is a {leaf.kind} leaf: equalize before compressing")
        if not isinstance(leaf, Tracer) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"equalize: {path!r} holds NaN or infinity")
    wide = {
        path: jnp.asarray(leaf).astype(jnp.promote_types(leaf.dtype, jnp.float32)) for path, leaf in changing.items()
    }
    forms = tuple(tuple((m.path, m.axes, m.exponent, m.role in _WEIGHT) for m in pair.members) for pair in pairs)
    units = [[jnp.asarray(member.units) for member in pair.members] for pair in pairs]
    even = _equalized(wide, units, jnp.asarray(tolerance), forms, tuple(p.size for p in pairs), iterations)
    return replace_at(params, {path: leaf.astype(known[path].dtype) for path, leaf in even.items()})


def equalizing_scales(before: jax.Array, behind: jax.Array) -> jax.Array:
    """What channels are multiplied by before, and divided by behind, so that both have the range ``sqrt(r1 * r2)``.

    Args:
        before: largest absolute weights of every channel in the layer that gives it.
        behind: largest absolute weights in the layer that takes it; of the same shape.

    Returns:
        Positive factors; 1 for channels that are zero on one side: no factor makes those ranges equal.

    Example:
        >>> equalizing_scales(jnp.array([8.0, 1.0, 0.0]), jnp.array([2.0, 4.0, 3.0])).tolist()
        [0.5, 2.0, 1.0]
    """
    alive = (before > 0) & (behind > 0)
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, behind, 1)) / jnp.sqrt(jnp.where(alive, before, 1)), 1)


Form = tuple[tuple[str, tuple[int, ...], float, bool], ...]
"""Of every member of a pair: path, axes, exponent, whether it is a weight."""


@functools.partial(jax.jit, static_argnames=("forms", "sizes", "iterations"))
def _equalized(
    leaves: dict[str, jax.Array],
    units: Sequence[Sequence[jax.Array]],
    tolerance: jax.Array,
    forms: tuple[Form, ...],
    sizes: tuple[int, ...],
    iterations: int,
) -> dict[str, jax.Array]:
    def unfinished(state: Any) -> jax.Array:
        turn, moved, _ = state
        return (turn < iterations) & (moved > tolerance)

    def round_of_pairs(state: Any) -> Any:
        turn, moved, now = state
        moved = jnp.zeros_like(moved)
        for form, places, size in zip(forms, units, sizes, strict=True):
            ranges = [_ranges(now, form, places, size, sign) for sign in (1, -1)]
            scales = equalizing_scales(*ranges)
            moved = jnp.maximum(moved, jnp.abs(jnp.log(scales)).max().astype(moved.dtype))
            for (path, axes, exponent, _), place in zip(form, places, strict=True):
                factor = spread(scales, place, axes, exponent, now[path].ndim)
                now = now | {path: now[path] * factor.astype(now[path].dtype)}
        return turn + 1, moved, now

    start = jnp.asarray(0), jnp.asarray(jnp.inf, tolerance.dtype), leaves
    return lax.while_loop(unfinished, round_of_pairs, start)[2]


def _ranges(now: Mapping[str, jax.Array], form: Form, places: Sequence[jax.Array], size: int, sign: int) -> jax.Array:
    """The largest absolute weight of every unit, over the weights that are multiplied (1) or divided (-1)."""
    found = []
    for (path, axes, exponent, weight), place in zip(form, places, strict=True):
        if weight and exponent * sign > 0:
            leaf = now[path]
            others = tuple(axis for axis in range(leaf.ndim) if axis not in axes)
            largest = jnp.abs(leaf).max(axis=others).ravel()
            at = jnp.where(place.ravel() < 0, size, place.ravel())
            found.append(jnp.zeros(size + 1, largest.dtype).at[at].max(largest)[:-1])
    return functools.reduce(jnp.maximum, found)
