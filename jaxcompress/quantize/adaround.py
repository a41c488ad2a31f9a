"""AdaRound: whether a weight goes up or down is learned, all weights of a layer together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.granularity import Granularity
from jaxcompress.core.moments import Statistics
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.targets import Target, find_targets, over_batch, support_or_all
from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.grouped_matrices import GroupedMatrices
from jaxcompress.quantize.ranges import find_scaling, range_of
from jaxcompress.quantize.ranges.base import Range
from jaxcompress.quantize.spec import Spec
from jaxcompress.solvers import grid
from jaxcompress.solvers.descent import damped_moment

ZETA, GAMMA = 1.1, -0.1  # the rectified sigmoid reaches 0 and 1 with a slope that does not vanish


def adaround(
    params: Any,
    stats: Statistics,
    *,
    bits: int | Mapping[str, int] | None = 4,
    symmetric: bool = True,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    ranges: Any = "mse",
    steps: int = 2000,
    learning_rate: ArrayLike = 0.01,
    regularization: ArrayLike = 3.0,
    beta: tuple[float, float] = (20.0, 2.0),
    warm_up: float = 0.2,
    where: Where = None,
) -> Any:
    """Rounds each weight up or down, as is learned by descending the output error on the observed data.

    A weight is ``scale * clip(floor(w / scale) + h(v))`` with the rectified sigmoid ``h(v) = clip(1.2 sigmoid(v) - 0.1,
    0, 1)``. Adam minimizes the output error ``tr((w - q)^T S (w - q))``, which needs nothing of the data but their
    second moment, plus ``regularization * sum(1 - |2 h - 1| ** beta)``, which draws every ``h`` to 0 or 1 as ``beta``
    falls. At the end ``h`` is rounded. Every output channel keeps the better of this and rounding to nearest, by its
    output error. What is pruned stays exactly zero. Formats: integers.

    Unlike in the paper (0.01 of an error without units), the error is measured in units of what rounding to nearest
    costs a weight on average, so that ``regularization`` means the same in every layer; too small, and many weights are
    left between two values, from where they go to the nearest.

    Args:
        params: tree of float arrays or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean.
        bits: width of a code, 2 to 8, or a dict from globs over paths to that: the first glob that fits a path counts,
            paths that fit none stay as they are. None: 8.
        symmetric: no zero point.
        granularity: ``"channel"`` or ``"tensor"``: which weights share a scale.
        group_size: weights of one output channel that share a scale; None: all of them.
        ranges: how scales are found, a name or `jaxcompress.quantize.ranges.Range`.
        steps: of Adam, static.
        learning_rate: of Adam; may be traced.
        regularization: weight of the term that makes ``h`` binary, once the warm-up is over; may be traced.
        beta: its exponent at the end of the warm-up and at the last step; falls along a cosine.
        warm_up: fraction of the steps without that term.
        where: leaves to quantize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with quantized leaves (inside of masked ones, where there are masks).

    Raises:
        ValueError: if an option does not fit a leaf, ``bits`` is 1, ``steps`` is below 1 or ``warm_up`` outside of
            ``[0, 1]``, ``where`` or a glob fits nothing, a chosen leaf was not observed, is coded already, or holds NaN
            or infinity (seen only outside ``jit``).

    Example:
        >>> params = {"w": jnp.array([[0.3, 7.0], [0.45, 7.0]])}
        >>> data = jnp.array([[1.0, 1.0], [2.0, 2.0]])  # the two inputs are the same: one up, one down is best
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> quantized = adaround(params, stats, granularity="tensor", ranges="absmax")
        >>> quantized["w"].materialize().tolist()
        [[0.0, 7.0], [1.0, 7.0]]

    References:
        Nagel et al., 2020, equations 21 to 25. https://arxiv.org/abs/2004.10568
    """
    if steps < 1:
        raise ValueError(f"adaround: steps must be 1 or more, got {steps}")
    if not 0 <= warm_up <= 1:
        raise ValueError(f"adaround: warm_up must be in [0, 1], got {warm_up}")
    spec = Spec(bits, "int", symmetric, granularity, group_size, ranges)
    if 1 in (bits.values() if isinstance(bits, Mapping) else (bits,)):
        raise ValueError(
            "adaround: bits must be 2 or more, got 1: its two codes are no neighbours to choose from. Take "
            "jc.quantize.gptq(bits=1) or jc.quantize.binary"
        )
    targets = find_targets(params, stats, where=where, settings=bits, method="adaround")
    schedule = Schedule(steps, float(beta[0]), float(beta[1]), float(warm_up))
    leaves = []
    for target in targets:
        plan = _plan(target, spec, schedule)
        codes, scaling = _learn(
            target.weight,
            support_or_all(target),
            target.statistic("second_moment"),
            learning_rate,
            regularization,
            plan=plan,
        )
        leaves.append(plan.format.leaf(codes, scaling, target.weight.dtype))
    return with_parts(params, [target.part for target in targets], leaves)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps, and how the regularizer's exponent falls."""

    steps: int
    first: float
    last: float
    warm_up: float

    def beta(self, step: jax.Array) -> jax.Array:
        """The exponent at a step: along a cosine from ``first``, at the end of the warm-up, to ``last``."""
        start = self.warm_up * self.steps
        done = jnp.clip((step - start) / max(self.steps - start, 1.0), 0, 1)
        return self.last + (self.first - self.last) * 0.5 * (1 + jnp.cos(jnp.pi * done))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is static: weights of one plan share one compiled program."""

    view: GroupedMatrices
    format: Format
    range: Range
    masked: bool
    schedule: Schedule


def _plan(target: Target, spec: Spec, schedule: Schedule) -> Plan:
    own, layout, method = spec.at(target.path), target.layout, target.method
    shape = own.scale_shape(layout.roles, layout.shape, method=method, name=target.path)
    return Plan(
        GroupedMatrices(layout, shape),
        own.format_of(method),
        range_of(own.ranges, method=method),
        target.support is not None,
        schedule,
    )


@functools.partial(jax.jit, static_argnames="plan")
def _learn(
    weight: jax.Array,
    support: jax.Array,
    moment: jax.Array,
    learning_rate: ArrayLike,
    regularization: ArrayLike,
    *,
    plan: Plan,
) -> tuple[jax.Array, Scaling]:
    """Codes and scaling of one weight; its layers go through one program."""
    view, dtype = plan.view, jnp.float64 if weight.dtype == jnp.float64 else jnp.float32
    layers = (view.split(weight.astype(dtype)), view.split(support), view.split_moment(moment.astype(dtype)))

    def layer(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, Scaling]:
        w, support, moment = arrays
        moment = jax.vmap(lambda s: damped_moment(s, 0.0))(moment)
        own = support if plan.masked else None
        weights = jnp.broadcast_to(jnp.diagonal(moment, axis1=1, axis2=2)[..., None], w.shape)
        scaling = find_scaling(w, view.layer_scale_shape, plan.format, plan.range, weights=weights, support=own)
        return _learn_layer(w, support, moment, scaling, learning_rate, regularization, plan=plan), scaling

    codes, scaling = over_batch(layer, layers)
    return view.join(codes), view.join_scaling(scaling)


def _learn_layer(
    w: jax.Array,
    support: jax.Array,
    moment: jax.Array,
    scaling: Scaling,
    learning_rate: ArrayLike,
    regularization: ArrayLike,
    *,
    plan: Plan,
) -> jax.Array:
    """Codes of a layer, ``[parts, features, outputs]``."""
    format, schedule = plan.format, plan.schedule
    scale = grid.spread(scaling.scale, w.shape)
    zero = 0 if scaling.zero_point is None else grid.spread(scaling.zero_point.astype(w.dtype), w.shape)
    low = jnp.floor(w / scale)
    part = jnp.clip(w / scale - low, 0.01, 0.99)

    def values(up: jax.Array) -> jax.Array:
        codes = jnp.clip(low + up + zero, format.smallest, format.largest) - zero
        return jnp.where(support, codes * scale, jnp.zeros_like(codes))

    def error(q: jax.Array) -> jax.Array:  # [parts, outputs]
        off = w - q
        return jnp.sum(off * jnp.matmul(moment, off, precision=lax.Precision.HIGHEST), axis=1)

    nearest = values((part >= 0.5).astype(w.dtype))
    plain = error(nearest)
    unit = w.size / jnp.maximum(jnp.sum(plain), jnp.finfo(w.dtype).tiny)

    def loss(v: jax.Array, step: jax.Array) -> jax.Array:
        up = rectified_sigmoid(v)
        binary = jnp.sum(jnp.where(support, 1 - jnp.abs(2 * up - 1) ** schedule.beta(step), 0))
        on = jnp.where(step >= schedule.warm_up * schedule.steps, regularization, 0.0).astype(w.dtype)
        return unit * jnp.sum(error(values(up))) + on * binary

    def step(t: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        v, mean, square = state
        now = t.astype(w.dtype)
        gradient = jax.grad(loss)(v, now)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        scaled = (mean / (1 - 0.9 ** (now + 1))) / (jnp.sqrt(square / (1 - 0.999 ** (now + 1))) + 1e-8)
        return v - jnp.asarray(learning_rate, w.dtype) * scaled, mean, square

    start = jnp.log((part - GAMMA) / (ZETA - part))  # where the rectified sigmoid is the fraction
    v, _, _ = lax.fori_loop(0, schedule.steps, step, (start, jnp.zeros_like(w), jnp.zeros_like(w)))
    learned = values((rectified_sigmoid(v) >= 0.5).astype(w.dtype))
    better = (error(learned) < plain)[:, None]
    return format.encode(jnp.where(better, learned, nearest), scaling)


def rectified_sigmoid(v: jax.Array) -> jax.Array:
    """A sigmoid stretched to ``[-0.1, 1.1]`` and clipped to ``[0, 1]``.

    Example:
        >>> rectified_sigmoid(jnp.array([-9.0, 0.0, 9.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    return jnp.clip(jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0, 1)
