"""Trees factorized where errors are measured by a metric of the inputs: what whitened SVD, ASVD and FWSVD share.

Weights are read as matrices from features to outputs, as `jaxcompress.core.moments.Matrices` lays them out. One program
finds the whole bases of all weights of one layout, whatever their ranks; the ranks are cut off afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.moments import Matrices
from jaxcompress.core.parts import Part, setting_at, with_parts
from jaxcompress.core.targets import Target
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.factorize.rank.candidate import Spectrum
from jaxcompress.factorize.rank.ranks import Rank, checked, ranks_of
from jaxcompress.factorize.rank.spectra import candidate_of
from jaxcompress.solvers.metric_lowrank import MetricLowRank


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A weight and what its errors are measured by.

    Attributes:
        part: where it stands in the tree.
        layout: how it is read as matrices ``[features, outputs]``.
        given: arrays of the solver, a tuple; each starts with the batch of matrices.
    """

    part: Part
    layout: Matrices
    given: tuple[jax.Array, ...]


class Solver(NamedTuple):
    """Functions of a module, so that equal solvers are one static argument.

    Attributes:
        factors: ``(w, given, ranks, knob) -> (u, v)`` of the full rank, leading components first; ``ranks`` are traced.
        values: ``(w, given, knob) -> `` all singular values, descending.
    """

    factors: Callable[..., tuple[jax.Array, jax.Array]]
    values: Callable[..., jax.Array]


def weight_of(target: Target, *names: str) -> Weight:
    """A weight that met data, with the statistics of these names."""
    if target.layout.groups > 1:
        raise ValueError(
            f"{target.method}: {target.path!r} is the kernel of a convolution of {target.layout.groups} groups, whose "
            "inputs are apart: two factors cannot hold it. Leave it out with where="
        )
    return Weight(target.part, target.layout, tuple(target.statistic(name) for name in names))


def checked_damping(damping: ArrayLike, method: str) -> ArrayLike:
    """A damping, a number that is not negative.

    Raises:
        ValueError: if it is (seen only outside ``jit``).
    """
    if not isinstance(damping, Tracer) and not 0 <= float(np.asarray(damping)) < np.inf:
        raise ValueError(f"{method}: damping must be a finite number of 0 or more, got {damping}")
    return damping


def factorize_in_metric(
    params: Any, weights: Sequence[Weight], *, rank: Rank, solver: Solver, knob: ArrayLike, method: str
) -> Any:
    """The tree with `LowRank` leaves in place of the weights that get a rank.

    Args:
        params: the tree.
        weights: what to factorize.
        rank: as for `jaxcompress.factorize.svd`; rules judge the singular values of the solver.
        solver: what finds the factors.
        knob: a traced number for the solver.
        method: name for errors.

    Raises:
        ValueError: if a rank is out of range or saves nothing, or a weight cannot be split into rows and columns.
        TypeError: if a rule needs arrays that are traced.
    """
    parts = [dataclasses.replace(weight.part, roles=weight.layout.roles) for weight in weights]
    matrices = [matrix_of(part, method) for part in parts]
    candidates = [candidate_of(part, matrix) for part, matrix in zip(parts, matrices, strict=True)]
    for one in candidates:
        checked(setting_at(rank, one.path), one.name, method)

    def spectra(indices: Sequence[int], variance: bool) -> list[Spectrum]:
        del variance  # outputs are not centred: all of their energy is to be explained
        found: dict[int, Spectrum] = {}
        for members in _alike([weights[i] for i in indices]).values():
            own = [indices[i] for i in members]
            values = _values([_arrays(weights[i]) for i in own], knob, layout=weights[own[0]].layout, solver=solver)
            found.update(zip(own, map(Spectrum, values), strict=True))
        return [found[i] for i in indices]

    ranks = ranks_of(rank, candidates, spectra, method=method)
    leaves: list[Any] = [part.array for part in parts]
    chosen = [i for i, own in enumerate(ranks) if own is not None]
    for members in _alike([weights[i] for i in chosen]).values():
        own = [chosen[i] for i in members]
        layout, kept = weights[own[0]].layout, np.array([ranks[i] for i in own], np.int32)
        factors = _factors([_arrays(weights[i]) for i in own], kept, knob, layout=layout, solver=solver)
        for i, (u, v), count in zip(own, factors, kept.tolist(), strict=True):
            leaves[i] = _cut(u, v, rank=count, layout=layout, matrix=matrices[i])
    return with_parts(params, [weight.part for weight in weights], leaves)


def balanced(found: MetricLowRank) -> tuple[jax.Array, jax.Array]:
    """The factors with columns and rows of equal norm, so that both have the same scale: better to quantize.

    Example:
        >>> found = MetricLowRank(jnp.array([[4.0], [0.0]]), jnp.array([[0.0, 1.0]]), jnp.array([4.0]))
        >>> [factor.tolist() for factor in balanced(found)]
        [[[2.0], [0.0]], [[0.0, 2.0]]]
    """
    largest = jnp.max(jnp.abs(found.u), axis=-2)
    unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))  # squares neither overflow nor vanish
    norms = unit * jnp.sqrt(jnp.sum(jnp.square(found.u / unit[..., None, :]), axis=-2))
    root = jnp.sqrt(jnp.where(norms > 0, norms, jnp.ones_like(norms)))
    return found.u / root[..., None, :], found.v * root[..., :, None]


def _alike(weights: Sequence[Weight]) -> dict[Any, list[int]]:
    """Indices of the weights of one program."""
    groups: dict[Any, list[int]] = {}
    for i, weight in enumerate(weights):
        groups.setdefault((weight.layout, weight.part.array.dtype, weight.part.support is None), []).append(i)
    return groups


def _arrays(weight: Weight) -> tuple[Any, ...]:
    return weight.part.array, weight.part.support, weight.given


def _stacked(arrays: Sequence[tuple[Any, ...]], layout: Matrices) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The matrices of all weights in one batch, pruned entries as zeros, and what is given for them."""
    values = [w if support is None else jnp.where(support, w, jnp.zeros_like(w)) for w, support, _ in arrays]
    w = jnp.concatenate([layout.split(value) for value in values])
    w = w.astype(wider(w.dtype, jnp.float32))
    return w, tuple(jnp.concatenate(same) for same in zip(*(given for _, _, given in arrays), strict=True))


@functools.partial(jax.jit, static_argnames=("layout", "solver"))
def _values(arrays: list[tuple[Any, ...]], knob: ArrayLike, *, layout: Matrices, solver: Solver) -> list[jax.Array]:
    w, given = _stacked(arrays, layout)
    found = solver.values(w, given, knob)
    return list(found.reshape(len(arrays), layout.batch, -1))


@functools.partial(jax.jit, static_argnames=("layout", "solver"))
def _factors(
    arrays: list[tuple[Any, ...]], ranks: ArrayLike, knob: ArrayLike, *, layout: Matrices, solver: Solver
) -> list[tuple[jax.Array, jax.Array]]:
    w, given = _stacked(arrays, layout)
    u, v = solver.factors(w, given, jnp.repeat(jnp.asarray(ranks), layout.batch), knob)
    dtype = arrays[0][0].dtype
    split = lambda factor: factor.astype(dtype).reshape(len(arrays), layout.batch, *factor.shape[1:])  # noqa: E731
    return list(zip(split(u), split(v), strict=True))


@functools.partial(jax.jit, static_argnames=("rank", "layout", "matrix"))
def _cut(u: jax.Array, v: jax.Array, *, rank: int, layout: Matrices, matrix: Matrix) -> LowRank:
    """The first components alone, as a leaf: one small program in place of a few smaller ones."""
    return factors_leaf(u[..., :rank], v[..., :rank, :], layout, matrix)


def factors_leaf(u: jax.Array, v: jax.Array, layout: Matrices, matrix: Matrix) -> LowRank:
    """Factors ``[batch, features, rank]`` and ``[batch, rank, outputs]`` as a leaf of the weight's own axes."""
    rank, stack = v.shape[-2], matrix.stack
    order = layout.feature_order()
    if order is not None:
        u = jnp.take(u, np.argsort(order), axis=1)
    inputs, outputs = (matrix.rows, matrix.cols) if matrix.inputs_are_rows else (matrix.cols, matrix.rows)
    if matrix.inputs_are_rows:
        return LowRank(u.reshape(*stack, *inputs, rank), v.reshape(*stack, rank, *outputs), *matrix.axes)
    return LowRank(v.mT.reshape(*stack, *outputs, rank), u.mT.reshape(*stack, rank, *inputs), *matrix.axes)
