"""Weights whose mean outputs a bias can hold: only what varies around the mean is left to the factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.core.mean_outputs import find_bias, with_mean_outputs
from jaxcompress.core.moments import Statistics
from jaxcompress.core.parts import setting_at
from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.core.targets import find_targets
from jaxcompress.factorize.in_metric import Solver, factorize_in_metric, weight_of
from jaxcompress.factorize.rank.ranks import Rank


def factorize_centred(
    params: Any,
    stats: Statistics,
    *,
    rank: Rank,
    solver: Solver,
    knob: ArrayLike,
    biases: Mapping[str, str] | None,
    where: Where,
    method: str,
) -> Any:
    """The tree with `LowRank` leaves, and biases that keep the mean outputs.

    Args:
        params: the tree.
        stats: with ``second_moment`` and ``mean``.
        rank: as for `factorize_in_metric`.
        solver: gets ``(second_moment, mean)`` of the inputs; the mean is zero where there is no bias.
        knob: a traced number for the solver.
        biases: as for `with_mean_outputs`; here a weight without one is taken as it is.
        where: which weights.
        method: name for errors.

    Raises:
        ValueError: if a path in ``biases`` is no bias of its weight, and what `find_targets` and `factorize_in_metric`
            raise.
    """
    targets = find_targets(params, stats, where=where, settings=rank, method=method)
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    biased = {target.path for target in targets if find_bias(target, leaves, biases) is not None}
    for target in targets:
        if target.path in (biases or {}) and target.path not in biased:
            raise ValueError(
                f"{method}: biases= names {setting_at(biases, target.path)!r}, which is no array of the size of the "
                f"outputs of {target.path!r}"
            )
    weights = []
    for target in targets:
        weight = weight_of(target, "second_moment")
        (moment,) = weight.given
        mean = target.statistic("mean") if target.path in biased else jnp.zeros(moment.shape[:-1], moment.dtype)
        weights.append(dataclasses.replace(weight, given=(moment, mean)))
    changed = factorize_in_metric(params, weights, rank=rank, solver=solver, knob=knob, method=method)
    after = dict(zip(*flatten_with_paths(changed)[:2], strict=True))
    moved = {path for path in biased if after[path] is not leaves[path]}
    if not moved:
        return changed
    return with_mean_outputs(
        params, changed, stats, biases=biases, where=lambda path, leaf: path in moved, method=method
    )


def covariance(moment: jax.Array, mean: jax.Array) -> jax.Array:
    """``E[x x^T] - E[x] E[x]^T``, ``[batch, features, features]``.

    Example:
        >>> covariance(jnp.array([[[5.0]]]), jnp.array([[2.0]])).tolist()
        [[[1.0]]]
    """
    return moment - mean[..., :, None] * mean[..., None, :]
