"""Smoothing: what makes activations hard to round moves into the weights, which are easy. Nothing is rounded yet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.rescaling import Symmetries
from jaxcompress.core.targets import Target, find_targets
from jaxcompress.quantize.input_channels import as_factor, by_channel, weight_absmax
from jaxcompress.quantize.rescaled import rescaled_at
from jaxcompress.quantize.shared_inputs import SharedInput, shared_inputs, weights_now

LEAST = 1e-5  # of a scale, as in the authors' code: an input that was all but silent may speak up one day


def smooth_scales(inputs: jax.Array, weights: jax.Array, alpha: ArrayLike) -> jax.Array:
    """Scales per input channel: ``max|x| ** alpha / max|w| ** (1 - alpha)``, 1e-5 at least; 1 where either is zero.

    Args:
        inputs: largest absolute input of every channel.
        weights: largest absolute weight of every channel, of the same shape.
        alpha: how much of the difficulty moves from the data into the weight, in ``[0, 1]``. May be traced.

    Example:
        >>> smooth_scales(jnp.array([16.0, 4.0]), jnp.array([1.0, 1.0]), 0.5).tolist()
        [4.0, 2.0]

    References:
        Xiao et al., 2023, equation 4. https://arxiv.org/abs/2211.10438
    """
    known = (inputs > 0) & (weights > 0)
    one = jnp.ones((), inputs.dtype)
    scales = jnp.where(known, inputs, one) ** alpha / jnp.where(known, weights, one) ** (1 - alpha)
    return jnp.where(known, jnp.maximum(scales, LEAST), one)


def smooth(
    params: Any,
    stats: Statistics,
    *,
    alpha: ArrayLike = 0.5,
    symmetries: Symmetries | None = None,
    where: Where = None,
) -> Any:
    """Scales the input channels of weights up and the data down, so that both are as easy to round.

    Nothing is rounded: the model computes what it did. Channel ``j`` of a weight is multiplied by ``s_j = max|x_j| **
    alpha / max|w_j| ** (1 - alpha)`` and the data divided by it.

    Args:
        params: tree of float arrays, or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``absmax``.
        alpha: in ``[0, 1]``, larger where the data have stronger outliers. May be traced.
        symmetries: of ``jc.symmetries(fn, params, *inputs)``: scales are absorbed into what makes the input of a
            weight, a gain or the kernel before it, and weights that meet the same input have the same scales, by the
            largest of their entries. Weights without a symmetry keep their scales.
        where: leaves to scale: globs over paths or a predicate; by default all that have an ``absmax``.

    Returns:
        The tree with `Rescaled` leaves over float values, plain arrays where the scales were absorbed.

    Raises:
        ValueError: if ``alpha`` is outside ``[0, 1]`` (seen only outside ``jit``), ``where`` fits nothing, or a chosen
            leaf was not observed, is coded already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"w": jnp.array([[1.0, 1.0], [1.0, 0.5]])}
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [jnp.array([[16.0, 1.0]])], what="absmax")
        >>> smoothed = smooth(params, stats)["w"]
        >>> smoothed.values.tolist(), smoothed.factor.tolist()
        ([[4.0, 4.0], [1.0, 0.5]], [[0.25], [1.0]])

    References:
        Xiao et al., 2023. https://arxiv.org/abs/2211.10438
    """
    require_alpha(alpha, "smooth")
    targets = find_targets(params, stats, where=where, method="smooth", name="absmax")

    def choose(shared: SharedInput, ends: Sequence[Ends]) -> list[jax.Array]:
        return [scales_of(own, shared.free(place), alpha) for place, own in enumerate(ends)]

    found = absorbed(params, targets, symmetries, choose)
    now = weights_now(found.tree, targets)
    values = [scaled(now[i], found.scales[i], layout=targets[i].layout) for i in found.kept]
    tree = with_parts(found.tree, [targets[i].part for i in found.kept], values)
    factors = {targets[i].path: _factor(found.scales[i], layout=targets[i].layout) for i in found.kept}
    return rescaled_at(tree, factors)


class Ends(NamedTuple):
    """Largest absolute values per input channel, ``[layers, channels]``."""

    inputs: jax.Array
    weights: jax.Array


Choose: TypeAlias = Callable[[SharedInput, Sequence[Ends]], list[jax.Array]]
"""From the ends of weights that share an input, equal where they share scales, to their scales."""


class Smoothed(NamedTuple):
    """What smoothing leaves to be done.

    Attributes:
        tree: the parameters, with the scales that could be absorbed.
        scales: of every weight, ``[layers, channels]``.
        kept: places of the weights that keep their scales.
    """

    tree: Any
    scales: list[jax.Array]
    kept: list[int]


def require_alpha(alpha: ArrayLike, method: str) -> None:
    """Checks a concrete exponent.

    Raises:
        ValueError: if it is outside ``[0, 1]``.
    """
    if not isinstance(alpha, Tracer) and not 0 <= float(np.asarray(alpha)) <= 1:
        raise ValueError(f"{method}: alpha must lie in [0, 1], got {alpha}")


def absorbed(params: Any, targets: Sequence[Target], symmetries: Symmetries | None, choose: Choose) -> Smoothed:
    """Chooses scales and has them absorbed as far as ``symmetries`` can."""
    tree, scales, kept = params, {}, []
    for shared in shared_inputs(params, targets, symmetries):
        ends = [_ends(t.weight, t.statistic("absmax"), layout=t.layout) for t in (targets[i] for i in shared.targets)]
        merged = [shared.merged([getattr(own, name) for own in ends], "max") for name in Ends._fields]
        chosen = choose(shared, [Ends(*own) for own in zip(*merged, strict=True)])
        scales |= dict(zip(shared.targets, chosen, strict=True))
        if shared.symmetry is None:
            kept += shared.targets
        else:
            tree = shared.absorb(tree, chosen)
    return Smoothed(tree, [scales[index] for index in range(len(targets))], kept)


@functools.partial(jax.jit, static_argnames="layout")
def _ends(weight: jax.Array, absmax: jax.Array, *, layout: Matrices) -> Ends:
    return Ends(jnp.max(by_channel(layout, absmax), axis=1), weight_absmax(layout, weight).astype(absmax.dtype))


@jax.jit
def scales_of(ends: Ends, free: jax.Array | None, alpha: ArrayLike) -> jax.Array:
    """`smooth_scales`, 1 where a channel is not free."""
    scales = smooth_scales(ends.inputs, ends.weights, jnp.asarray(alpha, ends.inputs.dtype))
    return scales if free is None else jnp.where(free, scales, jnp.ones_like(scales))


@functools.partial(jax.jit, static_argnames="layout")
def _factor(scales: jax.Array, *, layout: Matrices) -> jax.Array:
    return as_factor(layout, 1 / scales)


@functools.partial(jax.jit, static_argnames="layout")
def scaled(weight: jax.Array, scales: jax.Array, *, layout: Matrices) -> jax.Array:
    """A weight times the scales of its input channels, multiplied in the wider dtype of the two."""
    factor = as_factor(layout, scales)
    wide = wider(weight.dtype, factor.dtype)
    return (weight.astype(wide) * factor.astype(wide)).astype(weight.dtype)
