"""Where learned steps and offsets start: the rules of the papers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.observe import Observed
from jaxcompress.quantize.training.straight_through import widened
from jaxcompress.solvers.grid import grouped, or_one


def lsq_start(x: jax.Array, scale_shape: tuple[int, ...], *, bits: int) -> jax.Array:
    """The step of LSQ, ``2 mean(abs(x)) / sqrt(Qp)`` per group; 1 for groups of zeros.

    Example:
        >>> lsq_start(jnp.array([1.0, -3.0]), (1,), bits=3).round(4).tolist()
        [2.309...]

    References:
        Esser et al., 2020, section 2.1. https://arxiv.org/abs/1902.08153
    """
    groups = _wide_groups(x, scale_shape)
    mean = jnp.mean(jnp.abs(groups), axis=tuple(range(1, groups.ndim, 2)))
    return or_one(mean * jnp.asarray(2 / math.sqrt(2 ** (bits - 1) - 1), mean.dtype))


def lsq_plus_start(x: jax.Array, scale_shape: tuple[int, ...], *, bits: int) -> jax.Array:
    """The step of LSQ+ for weights, ``max(abs(m - 3 s), abs(m + 3 s)) / 2**(bits - 1)`` with mean m and deviation s.

    References:
        Bhalgat et al., 2020, section 3 (initialization of weights). https://arxiv.org/abs/2004.09576
    """
    groups = _wide_groups(x, scale_shape)
    inside = tuple(range(1, groups.ndim, 2))
    mean, deviation = jnp.mean(groups, axis=inside), jnp.std(groups, axis=inside)
    reach = jnp.maximum(jnp.abs(mean - 3 * deviation), jnp.abs(mean + 3 * deviation))
    return or_one(reach * jnp.asarray(2.0 ** (1 - bits), reach.dtype))


def observed_extremes(observed: Observed, stack: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of the data, per layer of the first ``stack`` axes.

    Raises:
        KeyError: if neither was observed; names what was.
    """
    if "min" in observed.values and "max" in observed.values:
        low, high = (np.asarray(observed[name], np.float32) for name in ("min", "max"))
        rest = tuple(range(stack, low.ndim))
        return low.min(axis=rest), high.max(axis=rest)
    counts, edges = (np.asarray(part) for part in observed["histogram"])
    rest = tuple(range(stack, counts.ndim - 1))
    low = np.where(counts > 0, edges[..., :-1], np.inf).min(-1)
    high = np.where(counts > 0, edges[..., 1:], -np.inf).max(-1)
    low, high = low.min(axis=rest), high.max(axis=rest)
    return low.astype(np.float32), high.astype(np.float32)


def observed_mean_size(observed: Observed, stack: int) -> np.ndarray:
    """The mean absolute value of the data, per layer of the first ``stack`` axes; from a histogram by bin centres.

    Raises:
        KeyError: if neither was observed.
    """
    if "mean_abs" in observed.values:
        mean = np.asarray(observed["mean_abs"], np.float32)
        return mean.mean(axis=tuple(range(stack, mean.ndim)))
    counts, edges = (np.asarray(part, np.float64) for part in observed["histogram"])
    size = np.abs(edges[..., :-1] + edges[..., 1:]) / 2
    rest = (*range(stack, counts.ndim),)
    return ((counts * size).sum(axis=rest) / np.maximum(counts.sum(axis=rest), 1)).astype(np.float32)


def _wide_groups(x: jax.Array, scale_shape: tuple[int, ...]) -> Any:
    return grouped(widened(x), scale_shape)
