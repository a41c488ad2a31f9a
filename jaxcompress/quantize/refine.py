"""Descent over everything that a quantized matrix holds: scales, levels and codes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.solvers.descent import best_gains, best_levels, damped_moment, descend_weights, output_error
from jaxcompress.solvers.obs import Rounding

PASSES = 2  # over the weights, per round


class Problem(NamedTuple):
    """A matrix to quantize.

    Attributes:
        w: the weight, ``[features, outputs]``.
        support: where it is not pruned.
        moment: second moment of what meets it, ``[features, features]``.
        scaling: with ``[groups, outputs]`` or ``[1, 1]`` entries, groups being runs of neighbouring features.
    """

    w: jax.Array
    support: jax.Array
    moment: jax.Array
    scaling: Scaling


def rounding_of(problem: Problem, format: Format) -> Rounding:
    """What brings the entries of a feature to their nearest values."""
    groups = problem.scaling.scale.shape[0]
    size = problem.w.shape[0] // groups

    def rounding(values: jax.Array, feature: jax.Array) -> jax.Array:
        own = jax.tree.map(
            lambda field: lax.dynamic_index_in_dim(field, feature // size, keepdims=False), problem.scaling
        )
        return format.project(values, own)

    return rounding


def refined(
    problem: Problem,
    values: jax.Array,
    format: Format,
    *,
    rounds: ArrayLike,
    damping: ArrayLike,
    adjust: bool = True,
) -> tuple[jax.Array, Scaling]:
    """Values and scaling of no larger output error, by rounds of descent.

    A round moves the levels of fitted tables, or else the scales, to their least-squares optimum, then the weights to
    their best values, one at a time. Of all rounds every output keeps its best.

    Args:
        problem: matrix and scaling.
        values: where to start.
        format: of the values.
        rounds: how many; may be traced.
        damping: as for `jaxcompress.quantize.gptq`: the error is that of the damped second moment.
        adjust: False leaves the scaling as it is.
    """
    moment = damped_moment(problem.moment, damping)

    def once(_: jax.Array, state: tuple[jax.Array, Scaling]) -> tuple[jax.Array, Scaling]:
        values, scaling = _adjusted(problem._replace(scaling=state[1]), state[0], format, moment) if adjust else state
        now = problem._replace(scaling=scaling)
        moved = descend_weights(
            problem.w, values, moment, rounding_of(now, format), support=problem.support, passes=PASSES
        )
        return _better(problem, moment, (moved, scaling), state)

    return lax.fori_loop(0, rounds, once, (values, problem.scaling))


def _adjusted(problem: Problem, values: jax.Array, format: Format, moment: jax.Array) -> tuple[jax.Array, Scaling]:
    """The same codes on better scales or levels, values rounded anew."""
    scaling = problem.scaling
    groups, shared = scaling.scale.shape[0], scaling.scale.shape[1] == 1 < problem.w.shape[1]
    if scaling.table is not None and not shared:
        codes = format.encode(values, scaling)
        table = best_levels(problem.w, codes, scaling.table, moment, support=problem.support)
        scaling = scaling._replace(table=table)
    elif format.block is None:  # scales of any size
        gains = best_gains(problem.w, values, moment, groups=groups, shared=shared)
        scaling = scaling._replace(scale=scaling.scale * gains)
        values = values * jnp.repeat(gains, problem.w.shape[0] // groups, axis=0)
    on_grid = format.project(values, scaling)
    return jnp.where(problem.support, on_grid, jnp.zeros_like(on_grid)), scaling


def _better(
    problem: Problem, moment: jax.Array, moved: tuple[jax.Array, Scaling], before: tuple[jax.Array, Scaling]
) -> tuple[jax.Array, Scaling]:
    """Of two states the one of the smaller error, for every output by itself where scales allow it."""
    errors = [output_error(problem.w, values, moment) for values, _ in (moved, before)]
    if problem.scaling.scale.shape[1] == 1:
        errors = [jnp.sum(error, keepdims=True) for error in errors]
    take = errors[0] < errors[1]

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(take.reshape(1, -1, *(1,) * (new.ndim - 2)), new, old)

    return jax.tree.map(chosen, moved, before)
