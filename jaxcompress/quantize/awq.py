"""AWQ: input channels that meet large data are scaled up before rounding, and the data scaled down."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from jaxcompress.core.targets import Target, find_targets, over_batch
from jaxcompress.quantize.clips import output_error, search_clips
from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.grouped_matrices import GroupedMatrices
from jaxcompress.quantize.input_channels import as_factor, by_channel, compute_dtype, of_features
from jaxcompress.quantize.ranges import find_scaling, range_of
from jaxcompress.quantize.rescaled import rescaled_at
from jaxcompress.quantize.shared_inputs import SharedInput, shared_inputs, weights_now
from jaxcompress.quantize.spec import Spec

LEAST = 1e-4  # of a channel's mean absolute input, relative to the largest: the authors' clamp
RATIOS = tuple(float(ratio) for ratio in np.round(np.arange(0.95, 0.2, -0.05), 2))  # the authors end at 0.55


def awq_scales(mean_abs: jax.Array, alpha: jax.typing.ArrayLike) -> jax.Array:
    """Scales per input channel: ``mean|x| ** alpha``, brought to a range that is symmetric around 1.

    Args:
        mean_abs: mean absolute input of every channel, ``[..., channels]``.
        alpha: exponent, 0 scales nothing. May be traced.

    Example:
        >>> awq_scales(jnp.array([1.0, 16.0, 4.0]), 0.5).tolist()
        [0.5, 2.0, 1.0]

    References:
        Lin et al., 2023, equation 5, and ``auto_scale`` of the authors' code. https://arxiv.org/abs/2306.00978
    """
    largest = jnp.max(mean_abs, axis=-1, keepdims=True)
    relative = jnp.where(largest > 0, mean_abs / jnp.where(largest > 0, largest, 1), 1)
    scales = jnp.maximum(relative, jnp.asarray(LEAST, relative.dtype)) ** alpha
    middle = jnp.max(scales, axis=-1, keepdims=True) * jnp.min(scales, axis=-1, keepdims=True)
    return scales / jnp.sqrt(middle)


def awq(
    params: Any,
    stats: Statistics,
    *,
    bits: int | Mapping[str, int] | None = 4,
    format: str = "int",
    symmetric: bool = True,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    ranges: Any = "absmax",
    steps: int = 20,
    clips: Sequence[float] = RATIOS,
    symmetries: Symmetries | None = None,
    where: Where = None,
) -> Any:
    """Rounds weights after scaling up the input channels that matter, with searched scales and clips.

    Channel ``j`` of a weight is multiplied by ``s_j = mean|x_j| ** alpha`` before it is rounded, and the data by
    ``1 / s_j`` when it comes. For every layer the ``alpha`` is taken out of ``steps + 1`` between 0 and 1 that changes
    the output on the observed data least; then the range of every group is shrunk as far as that helps the output.
    Output errors are exact, ``tr(D^T S D)`` with the second moment ``S`` of the data: no pass over the data is needed.
    ``alpha = 0`` and whole ranges are candidates, so no layer (with ``symmetries``: no input, over all that meets it)
    gets a larger error on the observed data than `rtn` with the same settings gives it.

    Unlike in the authors' code, the mean absolute inputs are clamped relative to the largest one, and clips are
    searched on the error of the whole layer (see `jaxcompress.quantize.clips`).

    Args:
        params: tree of float arrays, or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment`` and ``mean_abs``. It knows what the axes of a kernel
            mean.
        bits: width of a code, or a dict from globs over paths to that; paths that fit none stay as they are.
        format: see `jaxcompress.quantize.formats`.
        symmetric: of ``int``: no zero point.
        granularity: ``"channel"``: a scale per output channel, ``"tensor"``: one per layer.
        group_size: weights of one output channel that share a scale; None: all.
        ranges: what the scales reach before clips are searched.
        steps: of the search for ``alpha``, static.
        clips: ratios in ``(0, 1)`` to which ranges are cut in the search, static; empty: none.
        symmetries: of ``jc.symmetries(fn, params, *inputs)``: scales are absorbed into what makes the input of a
            weight, a gain or the kernel before it, and weights that meet the same input (query, key and value) share
            one search. Weights without a symmetry keep their scales.
        where: leaves to quantize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with `Rescaled` leaves over quantized ones, plain quantized ones where the scales were absorbed.

    Raises:
        ValueError: if ``steps`` or a ratio is out of range, a setting does not fit a leaf, ``where`` or a glob fits
            nothing, or a chosen leaf was not observed, is coded already, or holds NaN or infinity (seen only outside
            ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"w": jnp.array([[0.3], [7.0]])}
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [jnp.array([[90.0, 0.1], [50.0, -0.2]])])
        >>> rounded, packed = jc.quantize.rtn(params, bits=4), awq(params, stats, bits=4)
        >>> float(rounded["w"].materialize()[0, 0]), round(float(packed["w"].materialize()[0, 0]), 2)
        (0.0, 0.3)

    References:
        Lin et al., 2023. https://arxiv.org/abs/2306.00978
    """
    spec = Spec(bits, format, symmetric, granularity, group_size, ranges)
    search = _checked_search(steps, clips)
    targets = find_targets(params, stats, where=where, settings=bits, method="awq")
    plans = [_plan(target, spec) for target in targets]
    members = [_member(target) for target in targets]
    means = [target.statistic("mean_abs") for target in targets]
    tree, scales = params, {}
    for shared in shared_inputs(params, targets, symmetries):
        if shared.symmetry is not None:
            found = _search_together(shared, members, means, plans, search)
            scales |= dict(zip(shared.targets, found, strict=True))
            tree = shared.absorb(tree, found)
    now = weights_now(tree, targets)  # with all that was absorbed: a weight may make the input of another one
    leaves, factors = [], {}
    for index, (target, member, plan) in enumerate(zip(targets, members, plans, strict=True)):
        if index in scales:
            leaf = _coded_absorbed(member._replace(weight=now[index]), scales[index], plan=plan, clips=search.clips)
        else:
            changed = None if now[index] is member.weight else now[index]
            leaf, factors[target.path] = _fit(member, changed, means[index], plan=plan, search=search)
        leaves.append(leaf)
    return rescaled_at(with_parts(tree, [target.part for target in targets], leaves), factors)


class Search(NamedTuple):
    """What is tried: numbers of exponents less one, and ratios of ranges."""

    steps: int
    clips: tuple[float, ...]


class Plan(NamedTuple):
    """The static part of one weight."""

    view: GroupedMatrices
    format: Format
    ranges: Any


class Member(NamedTuple):
    """The arrays of one weight: as they are in the tree, or layers first and features sorted by the scale's groups."""

    weight: jax.Array
    support: jax.Array | None
    moment: jax.Array


def _checked_search(steps: int, clips: Sequence[float]) -> Search:
    if steps < 1:
        raise ValueError(f"awq: steps must be 1 or more, got {steps}")
    outside = [ratio for ratio in clips if not 0 < ratio < 1]
    if outside:
        raise ValueError(f"awq: clips must lie between 0 and 1, got {outside[0]}")
    return Search(steps, tuple(map(float, clips)))


def _plan(target: Target, spec: Spec) -> Plan:
    own, layout = spec.at(target.path), target.layout
    shape = own.scale_shape(layout.roles, layout.shape, method="awq", name=target.path)
    return Plan(GroupedMatrices(layout, shape), own.format_of("awq"), range_of(own.ranges, method="awq"))


def _member(target: Target) -> Member:
    return Member(target.weight, target.support, target.statistic("second_moment"))


def _search_together(
    shared: SharedInput, members: Sequence[Member], means: Sequence[jax.Array], plans: Sequence[Plan], search: Search
) -> list[jax.Array]:
    """The scales of weights that share an input, by the sum of their errors."""
    met = shared.merged([_channel_means(means[i], layout=plans[i].view.layout) for i in shared.targets], "mean")
    free = [shared.free(place) for place in range(len(met))]
    errors = [
        _errors(members[index], own, mask, plan=plans[index], steps=search.steps)
        for index, own, mask in zip(shared.targets, met, free, strict=True)
    ]
    total = sum(errors[1:], start=errors[0])
    return [_best(total, own, mask, steps=search.steps) for own, mask in zip(met, free, strict=True)]


@functools.partial(jax.jit, static_argnames="layout")
def _channel_means(features: jax.Array, *, layout: Matrices) -> jax.Array:
    """Means over the features of a channel, ``[layers, channels]``."""
    return jnp.mean(by_channel(layout, features), axis=1)


@functools.partial(jax.jit, static_argnames=("plan", "search"))
def _fit(
    member: Member, changed: jax.Array | None, mean_abs: jax.Array, *, plan: Plan, search: Search
) -> tuple[CompressedArray, jax.Array]:
    """The leaf of a weight that keeps its scales, and the factor of its inputs.

    Args:
        member: the weight and what meets it.
        changed: the weight with outputs that absorbed the scales of others; None: it absorbed none.
        mean_abs: of the inputs, ``[batch, features]``.
        plan: static.
        search: static.
    """
    inputs = _channel_means(mean_abs, layout=plan.view.layout)
    scales = _best(_errors(member, inputs, None, plan=plan, steps=search.steps), inputs, None, steps=search.steps)
    own = _split(member if changed is None else member._replace(weight=changed), plan)
    scaled = own.weight * _of_features(plan, scales)[:, None, :, None].astype(own.weight.dtype)
    leaf = _coded(own._replace(weight=scaled), scales, plan, search.clips, member.weight.dtype)
    return leaf, as_factor(plan.view.layout, 1 / scales)


@functools.partial(jax.jit, static_argnames=("plan", "clips"))
def _coded_absorbed(member: Member, scales: jax.Array, *, plan: Plan, clips: tuple[float, ...]) -> CompressedArray:
    """A weight that holds its scales already."""
    return _coded(_split(member, plan), scales, plan, clips, member.weight.dtype)


@functools.partial(jax.jit, static_argnames=("plan", "steps"))
def _errors(member: Member, inputs: jax.Array, free: jax.Array | None, *, plan: Plan, steps: int) -> jax.Array:
    """Mean squared output errors of every layer for every exponent, ``[layers, steps + 1]``."""
    candidates = _candidates(inputs, free, steps).astype(compute_dtype(member.weight))

    def of_layer(arrays: tuple[Member, jax.Array]) -> jax.Array:
        own, candidates = arrays  # candidates [exponents, features]

        def error(scales: jax.Array) -> jax.Array:
            x = own.weight * scales[None, :, None]
            lost = _kept(plan.format.project(x, _scaling(x, own, plan)) / scales[None, :, None] - own.weight, own)
            return jnp.sum(output_error(lost, own.moment))

        return lax.map(error, candidates)

    wide = jax.vmap(functools.partial(_of_features, plan))(candidates)
    return over_batch(of_layer, (_split(member, plan), jnp.swapaxes(wide, 0, 1)))


@functools.partial(jax.jit, static_argnames="steps")
def _best(errors: jax.Array, inputs: jax.Array, free: jax.Array | None, *, steps: int) -> jax.Array:
    """Scales of the exponent with the smallest error, of every layer: ``[layers, channels]``."""
    candidates = _candidates(inputs, free, steps)
    return jnp.take_along_axis(candidates, jnp.argmin(errors, axis=1)[None, :, None], axis=0)[0]


def _candidates(inputs: jax.Array, free: jax.Array | None, steps: int) -> jax.Array:
    """Scales for every exponent, ``[steps + 1, layers, channels]``; 1 where a channel is not free."""
    alphas = jnp.asarray(np.arange(steps + 1) / steps, inputs.dtype)
    scales = awq_scales(inputs[None], alphas[:, None, None])
    return scales if free is None else jnp.where(free[None], scales, jnp.ones_like(scales))


def _coded(own: Member, scales: jax.Array, plan: Plan, clips: tuple[float, ...], dtype: Any) -> CompressedArray:
    """The leaf of a weight, its layers split and scaled, with searched ranges."""

    def of_layer(arrays: tuple[Member, jax.Array]) -> tuple[jax.Array, Scaling]:
        own, scales = arrays
        scaling = _scaling(own.weight, own, plan)
        if clips:
            scaling = search_clips(
                own.weight, own.moment, scales, scaling, plan.format, ratios=clips, support=own.support
            )
        return plan.format.encode(own.weight, scaling), scaling

    codes, scaling = over_batch(of_layer, (own, _of_features(plan, scales).astype(own.weight.dtype)))
    return plan.format.leaf(plan.view.join(codes), plan.view.join_scaling(scaling), dtype)


def _split(member: Member, plan: Plan) -> Member:
    view, dtype = plan.view, compute_dtype(member.weight)
    return Member(
        view.split(member.weight.astype(dtype)),
        None if member.support is None else view.split(member.support),
        view.split_moment(member.moment.astype(dtype)),
    )


def _of_features(plan: Plan, scales: jax.Array) -> jax.Array:
    """Scales of channels for every feature, ``[layers, features]``."""
    return plan.view.split_features(of_features(plan.view.layout, scales))


def _scaling(x: jax.Array, own: Member, plan: Plan) -> Scaling:
    return find_scaling(x, plan.view.layer_scale_shape, plan.format, plan.ranges, support=own.support)


def _kept(error: jax.Array, own: Member) -> jax.Array:
    return error if own.support is None else jnp.where(own.support, error, jnp.zeros_like(error))
