"""Ranks that really are faster: thin products timed against the dense one, at the shapes that the model meets."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.parts import Part, find_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.sites import sites
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.factorize.rank.planned import Ranks
from jaxcompress.factorize.rank.products import Product, products_of
from jaxcompress.factorize.rank.spectra import candidate_of

_ROUNDS = 7
_SAMPLE_SECONDS = 0.002

Measure = Callable[[Callable[[], Any], Callable[[], Any]], tuple[float, float]]


class SpeedRanks(Ranks):
    """Ranks that were measured to be faster.

    Attributes:
        speedups: by path, the dense product's time over that of the thin ones at the chosen rank.
        slower: paths of the weights in which no rank was fast enough: they stay dense.
    """

    speedups: dict[str, float]
    slower: tuple[str, ...]


def latency_ranks(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    speedup: float = 1.0,
    multiple_of: int = 8,
    where: Where = None,
    measure: Measure | None = None,
    **kwargs: Any,
) -> SpeedRanks:
    """For every weight the largest rank at which its two thin products are faster than the dense one.

    A rank below the break-even saves entries and arithmetic, not always time. Here the products themselves are timed:
    every contraction and convolution that a weight meets in ``fn``, at the shapes of these inputs, dense and thin in
    turn. The ranks are bounds: hand over these or smaller ones. The products alone are timed, without what XLA fuses
    into them.

    Args:
        fn: the model, ``fn(params, *inputs, **kwargs)``, any function that ``jit`` accepts.
        params: tree of float arrays. Not changed.
        *inputs: of the batch size that is served; may be `jax.ShapeDtypeStruct`.
        speedup: how many times faster the thin products must be at least.
        multiple_of: ranks are multiples of this.
        where: which leaves; by default all that are contracted.
        measure: ``measure(dense, thin) -> their times``, of two functions without arguments; by default medians of
            interleaved runs.
        **kwargs: of ``fn``.

    Returns:
        Rank by path; weights in which no rank is fast enough are left out, and listed in ``slower``.

    Raises:
        ValueError: if no rank is fast enough in any weight, ``speedup`` or ``multiple_of`` is out of range, or a weight
            cannot be split into rows and columns.

    Example:
        >>> params = {"w": jnp.ones((64, 64))}
        >>> arithmetic = lambda dense, thin: (1.0, 0.9)  # a machine on which every thin product is a little faster
        >>> dict(latency_ranks(lambda p, x: x @ p["w"], params, jnp.ones((8, 64)), measure=arithmetic))
        {'w': 24}
    """
    if not speedup > 0 or isinstance(multiple_of, bool) or not isinstance(multiple_of, int) or multiple_of < 1:
        raise ValueError(
            "latency_ranks: speedup must be positive and multiple_of a positive int, "
            f"got {speedup!r} and {multiple_of!r}"
        )
    found = sites(fn, params, *inputs, **kwargs)
    contracted = {site.path for site in found if site.contracting}
    chosen = where if where is not None else lambda path, leaf: path in contracted
    parts = find_parts(params, where=chosen, sites=found, method="latency_ranks")
    matrices = [matrix_of(part, "latency_ranks") for part in parts]
    products = products_of(fn, params, inputs, kwargs)
    known: dict[Any, tuple[int, float] | None] = {}
    ranks, speedups = {}, {}
    candidates = [candidate_of(part, matrix, found) for part, matrix in zip(parts, matrices, strict=True)]
    for part, matrix, one in zip(parts, matrices, candidates, strict=True):
        own = tuple(products.get(part.path, ()))
        if own and (matrix, part.array.dtype, own) not in known:
            levels = range(multiple_of, one.largest + 1, multiple_of)
            rivals = functools.partial(_times, part, matrix, own, measure or _interleaved)
            known[matrix, part.array.dtype, own] = _largest(levels, rivals, speedup)
        result = known.get((matrix, part.array.dtype, own))
        if result is not None:
            ranks[part.path], speedups[part.path] = result
    if not ranks:
        raise ValueError(
            f"latency_ranks: no rank is {speedup:g} times as fast as the dense product in any of "
            f"{[one.name for one in candidates]} at these inputs: factorize to save bytes, or not at all"
        )
    made = SpeedRanks(ranks, candidates=candidates, rule=f"products measured {speedup:g} times faster, or more")
    made.speedups = speedups
    made.slower = tuple(one.path for one in candidates if one.path not in ranks)
    return made


def _largest(
    levels: range, times: Callable[[int], tuple[float, float] | None], speedup: float
) -> tuple[int, float] | None:
    """The largest rank that is fast enough, by bisection: time grows with the rank."""
    low, high, best = 0, len(levels), None
    while low < high:
        middle = (low + high) // 2
        found = times(levels[middle])
        if found is None:
            return None
        dense, thin = found
        if thin * speedup <= dense and thin < dense:
            best, low = (levels[middle], dense / thin), middle + 1
        else:
            high = middle
    return best


def _times(
    part: Part, matrix: Matrix, products: tuple[Product, ...], measure: Measure, rank: int
) -> tuple[float, float] | None:
    """The time of all products of a weight, dense and at a rank; None if the leaf does not serve one of them."""
    totals = [0.0, 0.0]
    for product in products:
        leaf = _leaf(part, matrix, product, rank)
        x, w = jnp.zeros(product.x, product.dtype), jnp.zeros(product.shape, part.array.dtype)
        if jax.eval_shape(product.thin, x, leaf) is None:
            return None
        dense, thin = jax.jit(product.dense), jax.jit(product.thin)
        pair = measure(functools.partial(dense, x, w), functools.partial(thin, x, leaf))
        totals = [total + one for total, one in zip(totals, pair, strict=True)]
    return totals[0], totals[1]


def _leaf(part: Part, matrix: Matrix, product: Product, rank: int) -> LowRank:
    """A leaf of zeros of the shape of the weight as it arrives (a layer of a stack)."""
    stacked = len(matrix.stack)
    size = dict(zip(product.axes, product.shape, strict=True))
    stack = [size[axis] for axis in range(stacked) if axis in size]
    u = jnp.zeros((*stack, *matrix.rows, rank), part.array.dtype)
    return LowRank(u, jnp.zeros((*stack, rank, *matrix.cols), part.array.dtype), *matrix.axes)


def _interleaved(dense: Callable[[], Any], thin: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of a call of each, in turn, in runs long enough to time."""
    calls = []
    for run in (dense, thin):
        jax.block_until_ready(run())
        began = time.perf_counter()
        jax.block_until_ready(run())
        calls.append(max(1, round(_SAMPLE_SECONDS / max(time.perf_counter() - began, 1e-9))))
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for run, number, kept in zip((dense, thin), calls, samples, strict=True):
            began = time.perf_counter()
            for _ in range(number):
                jax.block_until_ready(run())
            kept.append((time.perf_counter() - began) / number)
    return statistics.median(samples[0]), statistics.median(samples[1])
