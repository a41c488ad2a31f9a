"""GPTQ: weights are rounded one after the other, and those that follow make up for what rounding changed."""

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
from jaxcompress.core.targets import Target, find_targets, over_batch, require_solved, support_or_all
from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.grouped_matrices import GroupedMatrices
from jaxcompress.quantize.ranges import find_scaling, range_of
from jaxcompress.quantize.ranges.base import Range
from jaxcompress.quantize.refine import Problem, refined, rounding_of
from jaxcompress.quantize.spec import Spec
from jaxcompress.solvers.obs import obs_sweep

RETRIES = 4  # of the damping, each time ten times as much


def gptq(
    params: Any,
    stats: Statistics,
    *,
    bits: int | Mapping[str, int] | None = 4,
    format: str = "int",
    symmetric: bool = True,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    ranges: Any = "mse",
    act_order: bool = True,
    refine: ArrayLike = 0,
    block_size: int = 128,
    damping: ArrayLike = 0.01,
    where: Where = None,
) -> Any:
    """Rounds weights so that the outputs on the observed data change little.

    The sweep of `jaxcompress.solvers.obs` with everything kept: feature by feature the weights go to their grid, and
    the features that follow take over the error, as far as the data allow. What is pruned stays exactly zero. Scales
    come from the weights, weighted by the second moments of the features they meet; with ``group_size`` and without
    ``act_order`` each group gets its scales when the sweep enters it, from the weights as they are by then; in all
    other cases they are those of the weights as given ("static groups").

    Where a second moment is not positive definite with ``damping``, up to four powers of ten more are tried.

    Args:
        params: tree of float arrays or masked leaves. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``. It knows what the axes of a kernel mean. For better
            results observe what is quantized up to there: `jaxcompress.sequential`.
        bits: width of a code, or a dict from globs over paths to that: the first glob that fits a path counts, paths
            that fit none stay as they are. None: what the format says.
        format: of the codes, see `jaxcompress.quantize.formats`: ``"int"``, ``"levels"``, ``"nf4"``, ...
        symmetric: of ``int``: no zero point.
        granularity: ``"channel"`` or ``"tensor"``: which weights share a scale.
        group_size: weights of one output channel that share a scale; None: all of them.
        ranges: how scales are found, a name or `jaxcompress.quantize.ranges.Range`. Format ``levels`` takes
            ``"kmeans"`` or ``"equalized"``.
        act_order: settles the features of the largest second moments first, while all others can still make up.
        refine: rounds of descent after the sweep, on the same error: scales (or the levels of tables) go to their
            least-squares optimum, then weights to their best values, one at a time (`jaxcompress.solvers.descent`).
            May be traced. 0: the published method, and a program without them.
        block_size: features whose errors reach the later ones together, static. It changes the speed alone.
        damping: what is added to the diagonal of a second moment, as a fraction of its mean.
        where: leaves to quantize: globs over paths or a predicate; by default all that have a second moment.

    Returns:
        The tree with quantized leaves (inside of masked ones, where there are masks).

    Raises:
        ValueError: if an option is not known or does not fit a leaf, ``where`` or a glob fits nothing, a chosen leaf
            was not observed, is coded already, or holds NaN or infinity, or no damping helps its second moment (the
            last two seen only outside ``jit``).

    Example:
        >>> params = {"w": jnp.array([[0.6, 7.0], [0.6, 7.0]])}
        >>> data = jnp.array([[1.0, 1.0], [2.0, 2.0]])  # the two inputs are the same: the second makes up for the first
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [data])
        >>> quantized = gptq(params, stats, granularity="tensor", ranges="absmax", damping=1e-3)
        >>> quantized["w"].materialize().tolist()
        [[1.0, 7.0], [0.0, 7.0]]

    References:
        Frantar et al., 2023, algorithm 1. https://arxiv.org/abs/2210.17323
        Behdin et al., 2023 (descent over weights). https://arxiv.org/abs/2309.01885
    """
    if block_size < 1:
        raise ValueError(f"gptq: block_size must be 1 or more, got {block_size}")
    spec = Spec(bits, format, symmetric, granularity, group_size, ranges)
    targets = find_targets(params, stats, where=where, settings=bits, method="gptq")
    descends = not (isinstance(refine, int) and refine == 0)
    plans = [plan_of(target, spec, act_order=act_order, block_size=block_size, descends=descends) for target in targets]
    leaves, solved = [], []
    for target, plan in zip(targets, plans, strict=True):
        moment = target.statistic("second_moment")
        codes, scaling, finite = _solve(target.weight, support_or_all(target), moment, damping, refine, plan=plan)
        leaves.append(plan.format.leaf(codes, scaling, target.weight.dtype))
        solved.append(finite)
    require_solved(targets, solved)
    return with_parts(params, [target.part for target in targets], leaves)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is static about the quantization of one weight: weights of one plan share one compiled program."""

    view: GroupedMatrices
    format: Format
    range: Range
    masked: bool
    act_order: bool
    block_size: int
    descends: bool

    @property
    def dynamic(self) -> bool:
        """True if groups get their scales during the sweep."""
        return not self.act_order and self.view.groups > 1


def plan_of(target: Target, spec: Spec, *, act_order: bool, block_size: int, descends: bool) -> Plan:
    """The plan of a weight; checks that the options fit it."""
    own, layout, method = spec.at(target.path), target.layout, target.method
    shape = own.scale_shape(layout.roles, layout.shape, method=method, name=target.path)
    return Plan(
        GroupedMatrices(layout, shape),
        own.format_of(method),
        range_of(own.ranges, method=method),
        target.support is not None,
        act_order,
        block_size,
        descends,
    )


@functools.partial(jax.jit, static_argnames="plan")
def _solve(
    weight: jax.Array,
    support: jax.Array,
    moment: jax.Array,
    damping: ArrayLike,
    refine: ArrayLike,
    *,
    plan: Plan,
) -> tuple[jax.Array, Scaling, jax.Array]:
    """Codes and scaling of one weight, and whether they are finite; its layers go through one program."""
    view, dtype = plan.view, jnp.float64 if weight.dtype == jnp.float64 else jnp.float32
    layers = (view.split(weight.astype(dtype)), view.split(support), view.split_moment(moment.astype(dtype)))
    values, scaling = over_batch(lambda x: _layer(x[0], x[1], x[2], damping, refine, plan=plan), layers)
    codes = jax.vmap(plan.format.encode)(values, scaling)
    return view.join(codes), view.join_scaling(scaling), jnp.isfinite(values).all()


def _layer(
    w: jax.Array, support: jax.Array, moment: jax.Array, damping: ArrayLike, refine: ArrayLike, *, plan: Plan
) -> tuple[jax.Array, Scaling]:
    """Values on the grid ``[parts, features, outputs]``, and the scaling ``[parts, groups, outputs]``."""
    weights = _importance(w, moment, damping)
    scaling = find_scaling(
        w,
        plan.view.layer_scale_shape,
        plan.format,
        plan.range,
        weights=weights,
        support=support if plan.masked else None,
    )
    parts = jax.tree.map(lambda field: jnp.broadcast_to(field, (len(w), *field.shape[1:])), scaling)
    problems = Problem(w, support, moment, parts)
    values, found = over_batch(lambda p: _part(p[0], p[1], damping, refine, plan=plan), (problems, weights))
    if plan.view.shared and len(w) > 1:  # no part may have scales of its own
        return values, scaling
    return values, found


def _part(
    problem: Problem, weights: jax.Array, damping: ArrayLike, refine: ArrayLike, *, plan: Plan
) -> tuple[jax.Array, Scaling]:
    """One matrix: values ``[features, outputs]`` and scaling ``[groups, outputs]``."""
    size = plan.view.layout.features // plan.view.groups
    diagonal = jnp.diag(problem.moment)
    swept = obs_sweep(
        problem.w,
        problem.moment,
        group=size if plan.dynamic else None,
        support=problem.support,
        rounding=(lambda x, _, own: plan.format.project(x, own)) if plan.dynamic else rounding_of(problem, plan.format),
        fit=functools.partial(_entered, problem, weights, plan=plan) if plan.dynamic else None,
        order=jnp.argsort(-diagonal) if plan.act_order else None,
        block_size=plan.block_size,
        damping=damping,
        retries=RETRIES,
    )
    scaling = problem.scaling if swept.fitted is None else swept.fitted
    if not plan.descends:
        return swept.values, scaling
    adjust = not (plan.view.shared and plan.view.layout.groups > 1)
    return refined(
        problem._replace(scaling=scaling), swept.values, plan.format, rounds=refine, damping=damping, adjust=adjust
    )


def _entered(problem: Problem, weights: jax.Array, values: jax.Array, index: jax.Array, *, plan: Plan) -> Scaling:
    """The scaling of a group as the sweep enters it, ``[outputs]``."""
    inside = lambda array: lax.dynamic_slice_in_dim(array, index * len(values), len(values))  # noqa: E731
    found = find_scaling(
        values,
        (1, values.shape[1]),
        plan.format,
        plan.range,
        weights=inside(weights),
        support=inside(problem.support) if plan.masked else None,
    )
    return jax.tree.map(lambda field: field[0], found)


def _importance(w: jax.Array, moment: jax.Array, damping: ArrayLike) -> jax.Array:
    """How much an error of each entry costs by itself, of the shape of ``w``: positive, also without data."""
    diagonal = jnp.diagonal(moment, axis1=1, axis2=2)
    mean = jnp.mean(diagonal, axis=1, keepdims=True)
    damped = diagonal + jnp.maximum(jnp.asarray(damping, w.dtype), jnp.asarray(1e-6, w.dtype)) * mean
    return jnp.broadcast_to(damped[..., None], w.shape)
