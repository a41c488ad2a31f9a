"""SmoothQuant: weights and activations in integers, outliers of the activations moved into the weights first."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.granularity import Granularity
from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.rescaling import Symmetries
from jaxcompress.core.targets import Target, find_targets
from jaxcompress.quantize.activations import activations
from jaxcompress.quantize.clips import output_error
from jaxcompress.quantize.formats import Format
from jaxcompress.quantize.input_channels import as_factor, of_features
from jaxcompress.quantize.ranges import Range
from jaxcompress.quantize.rescaled import rescaled_at
from jaxcompress.quantize.rescaled_statistics import rescaled_statistics
from jaxcompress.quantize.rtn import round_to_nearest
from jaxcompress.quantize.shared_inputs import SharedInput, weights_now
from jaxcompress.quantize.smooth import Ends, absorbed, require_alpha, scaled, scales_of
from jaxcompress.quantize.spec import Spec
from jaxcompress.solvers.grid import largest_code

STEPS = 20
"""Of the search for ``alpha`` between 0 and 1."""


def smoothquant(
    params: Any,
    stats: Statistics,
    *,
    bits: int | Mapping[str, int] | None = 8,
    activation_bits: int = 8,
    mode: Literal["dynamic", "static"] = "dynamic",
    alpha: float | Literal["search"] = 0.5,
    format: str = "int",
    symmetric: bool = True,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    ranges: str | Range = "absmax",
    symmetries: Symmetries | None = None,
    where: Where = None,
) -> Any:
    """Quantizes weights and activations after `smooth` has moved outliers of the activations into the weights.

    Args:
        params: tree of float arrays, or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``absmax``; for ``alpha="search"`` with ``second_moment`` too.
        bits: width of the weights' codes, or a dict from globs over paths to that; paths that fit none stay as they
            are.
        activation_bits: width of the activations' codes, 2 to 8.
        mode: ``"dynamic"``: every row of data has its own grid. ``"static"``: one grid per site, over the range that
            was observed, after smoothing: from ``min`` to ``max`` with a zero point where ``stats`` hold them, else up
            to ``absmax`` on either side.
        alpha: as in `smooth`; or ``"search"``: for every layer, of 21 values between 0 and 1 the one with the smallest
            expected output error. That of the weights is exact, ``tr(D^T S D)`` with the second moment ``S`` of the
            data; that of the activations is taken to be uniform noise of one step of the static grid.
        format: of the weights, see `jaxcompress.quantize.formats`.
        symmetric: of ``int`` weights: no zero point.
        granularity: ``"channel"``: a scale per output channel, ``"tensor"``: one per layer.
        group_size: weights of one output channel that share a scale; None: all.
        ranges: what the scales of weights reach.
        symmetries: as in `smooth`.
        where: leaves to quantize: globs over paths or a predicate; by default all that have an ``absmax``.

    Returns:
        The tree with weights that quantize their data (`DynamicActivations` or `StaticActivations` over quantized
        leaves), under `Rescaled` unless the scales were absorbed.

    Raises:
        ValueError: as `smooth` and `rtn`; if ``mode`` is neither, or ``activation_bits`` is out of range.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"w": jnp.eye(2)}
        >>> x = jnp.array([[100.0, 0.3], [-80.0, -0.2]])  # the first input has outliers
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [x])
        >>> fn = jc.lift(lambda p, x: x @ p["w"])
        >>> round(float(fn(smoothquant(params, stats, alpha=1.0), x)[0, 1]), 3)
        0.3

    References:
        Xiao et al., 2023. https://arxiv.org/abs/2211.10438
    """
    searched = isinstance(alpha, str)
    if searched and alpha != "search":
        raise ValueError(f"smoothquant: alpha must be a number in [0, 1] or 'search', got {alpha!r}")
    if mode not in ("dynamic", "static"):
        raise ValueError(f"smoothquant: mode must be 'dynamic' or 'static', got {mode!r}")
    if not searched:
        require_alpha(alpha, "smoothquant")
    spec = Spec(bits, format, symmetric, granularity, group_size, ranges)
    targets = find_targets(params, stats, where=where, settings=bits, method="smoothquant", name="absmax")
    plans = {target.path: _plan(target, spec) for target in targets}

    def choose(shared: SharedInput, ends: Sequence[Ends]) -> list[jax.Array]:
        free = [shared.free(place) for place in range(len(ends))]
        if not searched:
            return [scales_of(own, mask, alpha) for own, mask in zip(ends, free, strict=True)]
        errors = []
        for index, own, mask in zip(shared.targets, ends, free, strict=True):
            target = targets[index]
            moment = target.statistic("second_moment")
            static = {"plan": plans[target.path], "top": largest_code(activation_bits)}
            errors.append(_errors(target.weight, target.support, moment, own, mask, **static))
        total = sum(errors[1:], start=errors[0])
        return [_best(total, own, mask) for own, mask in zip(ends, free, strict=True)]

    smoothed = absorbed(params, targets, symmetries, choose)
    now, leaves, factors = weights_now(smoothed.tree, targets), [], {}
    for index, (target, own) in enumerate(zip(targets, smoothed.scales, strict=True)):
        plan = plans[target.path]
        if index in smoothed.kept:
            leaf, factors[target.path] = _rounded_scaled(now[index], target.support, own, plan=plan)
        else:
            leaf = _rounded(now[index], target.support, plan=plan)
        leaves.append(leaf)
    tree = with_parts(smoothed.tree, [target.part for target in targets], leaves)
    divided = {target.path: (target.layout, own) for target, own in zip(targets, smoothed.scales, strict=True)}
    found = rescaled_statistics(stats, divided) if mode == "static" else None
    tree = activations(tree, found, bits=activation_bits, mode=mode, where=[target.path for target in targets])
    return rescaled_at(tree, factors)


class Plan(NamedTuple):
    """The static part of one weight."""

    layout: Matrices
    format: Format
    scale_shape: tuple[int, ...]
    ranges: str | Range


def _plan(target: Target, spec: Spec) -> Plan:
    own, layout = spec.at(target.path), target.layout
    shape = own.scale_shape(layout.roles, layout.shape, method="smoothquant", name=target.path)
    return Plan(layout, own.format_of("smoothquant"), shape, own.ranges)


@functools.partial(jax.jit, static_argnames="plan")
def _rounded(weight: jax.Array, support: jax.Array | None, *, plan: Plan) -> CompressedArray:
    return round_to_nearest(weight, plan.scale_shape, plan.format, ranges=plan.ranges, support=support)


@functools.partial(jax.jit, static_argnames="plan")
def _rounded_scaled(
    weight: jax.Array, support: jax.Array | None, scales: jax.Array, *, plan: Plan
) -> tuple[CompressedArray, jax.Array]:
    """The leaf of a weight that keeps its scales, and the factor of its inputs."""
    x = scaled(weight, scales, layout=plan.layout)
    return _rounded(x, support, plan=plan), as_factor(plan.layout, 1 / scales)


def _candidates(ends: Ends, free: jax.Array | None) -> jax.Array:
    """Scales for every exponent, ``[STEPS + 1, layers, channels]``."""
    return jax.vmap(lambda alpha: scales_of(ends, free, alpha))(jnp.asarray(np.arange(STEPS + 1) / STEPS, jnp.float32))


@functools.partial(jax.jit, static_argnames=("plan", "top"))
def _errors(
    weight: jax.Array,
    support: jax.Array | None,
    moment: jax.Array,
    ends: Ends,
    free: jax.Array | None,
    *,
    plan: Plan,
    top: int,
) -> jax.Array:
    """Expected squared output errors for every exponent and layer, ``[STEPS + 1, layers]``."""
    layout = plan.layout
    dense = layout.split(weight.astype(jnp.float32))

    def error(scales: jax.Array) -> jax.Array:
        per_feature = jnp.repeat(of_features(layout, scales), layout.groups, axis=0)[:, :, None]
        x = scaled(weight, scales, layout=layout)
        values = round_to_nearest(x, plan.scale_shape, plan.format, ranges=plan.ranges, support=support).materialize()
        rounded = layout.split(values.astype(jnp.float32))
        of_weights = jnp.sum(output_error(rounded / per_feature - dense, moment), axis=-1)
        step = jnp.max(ends.inputs / scales, axis=-1) / top
        of_inputs = jnp.repeat(step**2 / 12, layout.groups) * jnp.sum(rounded**2, axis=(1, 2))
        return jnp.sum((of_weights + of_inputs).reshape(scales.shape[0], -1), axis=1)

    return lax.map(error, _candidates(ends, free))


@jax.jit
def _best(errors: jax.Array, ends: Ends, free: jax.Array | None) -> jax.Array:
    """Scales of the exponent with the smallest error, of every layer: ``[layers, channels]``."""
    return jnp.take_along_axis(_candidates(ends, free), jnp.argmin(errors, axis=0)[None, :, None], axis=0)[0]
