"""Canonical decompositions (CP): a tensor as a sum of products of vectors, by alternating least squares."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.contraction import contract
from jaxcompress.solvers.lowrank import truncated_svd


class Canonical(NamedTuple):
    """``w[i, j, ...] ~ sum_r factors[0][i, r] factors[1][j, r] ...``, columns of one ``r`` of one root mean square."""

    factors: tuple[jax.Array, ...]
    error: jax.Array
    """``norm(w - sum) / norm(w)``."""


@functools.partial(jax.jit, static_argnames=("rank", "starts", "iterations", "stable"))
def cp_als(
    w: jax.Array,
    *,
    rank: int,
    key: jax.Array,
    starts: int = 1,
    iterations: int = 200,
    tolerance: float = 1e-6,
    stable: bool = False,
    slack: float = 0.01,
) -> Canonical:
    """The best sum of ``rank`` products of vectors that alternating least squares finds.

    In turn every factor is the solution of a least squares problem whose normal matrix is the elementwise product of
    the other factors' Gram matrices. A term that holds the factor near its last value, of the size of rounding errors,
    keeps the matrix regular; it moves no fixed point. The first start are the leading singular vectors of every
    unfolding (columns beyond the size of an axis are random), the others are random.

    A sum may not have a best approximation: then terms grow without bound and cancel each other, and no small
    change of a factor, by fine-tuning or by rounding, is safe any more. ``stable=True`` corrects that: of all sums
    with an error of at most ``(1 + slack)`` times the one found, it descends to one of the least `sensitivity`.

    Args:
        w: float array of two axes or more (vmap it for more tensors), finite. Computed in float32, or float64.
        rank: number of products, static.
        key: from `jax.random.key`, for what is random of the starts.
        starts: how many; the best result is returned. Static.
        iterations: at most so many rounds, of the fit and of the correction. Static.
        tolerance: stops when a round improves the relative error (the relative sensitivity) by less. May be traced.
        stable: see above. Static.
        slack: see above; not negative. May be traced.

    Returns:
        Factors ``[n, rank]`` in the dtype of ``w``, and the relative error.

    Raises:
        ValueError: if ``w`` has fewer than two axes, or ``rank``, ``starts`` or ``iterations`` is not positive.

    Example:
        >>> w = jnp.einsum("i,j,k->ijk", jnp.arange(3.0), jnp.ones(4), jnp.ones(2))
        >>> found = cp_als(w, rank=1, key=jax.random.key(0))
        >>> [factor.shape for factor in found.factors], bool(found.error < 1e-3)
        ([(3, 1), (4, 1), (2, 1)], True)

    References:
        Kolda and Bader, 2009. Tensor decompositions and applications, section 3.4. Phan et al., 2020. Stable low-rank
        tensor decomposition for compression of convolutional neural networks, section 3. https://arxiv.org/abs/2008.05441
    """
    for name, value in (("rank", rank), ("starts", starts), ("iterations", iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if w.ndim < 2:
        raise ValueError(f"w must have two axes or more, got the shape {w.shape}")
    dtype = w.dtype
    w = w.astype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
    largest = jnp.max(jnp.abs(w))
    largest = jnp.where(largest > 0, largest, 1)
    w = w / largest  # squares neither overflow nor vanish

    def from_start(start: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        factors = _fit(w, start, iterations, tolerance)
        error = _error(w, factors)
        if stable:
            factors = _correct(w, factors, (1 + slack) * error, iterations, tolerance)
            error = _error(w, factors)
        return factors, error

    svd_key, *keys = jax.random.split(key, starts)
    begin = [_singular_start(w, rank, svd_key), *(_random_start(w, rank, own) for own in keys)]
    if starts == 1:
        factors, error = from_start(begin[0])
    else:
        found, errors = jax.vmap(from_start)(jax.tree.map(lambda *arrays: jnp.stack(arrays), *begin))
        best = jnp.argmin(errors)
        factors, error = jax.tree.map(lambda array: array[best], (found, errors))
    factors = tuple(factor * largest ** (1 / w.ndim) for factor in factors)
    return Canonical(tuple(factor.astype(dtype) for factor in factors), error)


def cp_dense(factors: Sequence[jax.Array]) -> jax.Array:
    """The sum of the products."""
    rank = len(factors)
    axes = tuple(range(rank))
    return contract(factors, [(axis, rank) for axis in axes], axes, precision=lax.Precision.HIGHEST)


def sensitivity(factors: Sequence[jax.Array]) -> jax.Array:
    """The expected squared change of the sum under small noise in the factors, over the variance of that noise.

    That is ``sum_n size_n sum_r prod_(m != n) norm(factor_m[:, r]) ** 2``: large where terms cancel each other.

    Example:
        >>> float(sensitivity([jnp.full((2, 1), 3.0), jnp.ones((1, 1)), jnp.ones((4, 1))]))
        152.0

    References:
        Phan et al., 2020, definition 1 and lemma 1. https://arxiv.org/abs/2008.05441
    """
    squares = [jnp.sum(jnp.square(factor), axis=-2) for factor in factors]
    terms = [factor.shape[-2] * jnp.sum(_product_but(squares, n)) for n, factor in enumerate(factors)]
    return sum(terms[1:], terms[0])


def _singular_start(w: jax.Array, rank: int, key: jax.Array) -> tuple[jax.Array, ...]:
    factors = []
    for n, own in enumerate(jax.random.split(key, w.ndim)):
        unfolded = jnp.moveaxis(w, n, 0).reshape(w.shape[n], -1)
        u = truncated_svd(unfolded, rank=min(rank, *unfolded.shape)).u
        rest = jax.random.normal(own, (w.shape[n], rank - u.shape[1]), w.dtype) / math.sqrt(w.shape[n])
        factors.append(jnp.concatenate([u, rest], axis=1))
    return tuple(factors)


def _random_start(w: jax.Array, rank: int, key: jax.Array) -> tuple[jax.Array, ...]:
    keys = jax.random.split(key, w.ndim)
    return tuple(jax.random.normal(k, (n, rank), w.dtype) / math.sqrt(n) for k, n in zip(keys, w.shape, strict=True))


def _fit(w: jax.Array, start: tuple[jax.Array, ...], iterations: int, tolerance: float) -> tuple[jax.Array, ...]:
    """Rounds of least squares until the error stays; columns of unit norm in between."""
    whole = jnp.sum(w * w)
    whole = jnp.where(whole > 0, whole, 1)
    damping = 8 * start[0].shape[1] * jnp.finfo(w.dtype).eps

    def round_(state: tuple) -> tuple:
        factors, weights, before, _, count = state
        factors = list(factors)
        gram = moment = solution = jnp.zeros(())  # of the last factor, once the loop is done
        for n, factor in enumerate(factors):
            gram, moment = _normal_equations(w, factors, n)
            regular = gram + damping * jnp.eye(len(gram), dtype=w.dtype)
            solution = _solve(regular, moment + damping * factor * weights[None])
            weights = jnp.linalg.norm(solution, axis=0)
            factors[n] = jnp.where(weights > 0, solution / jnp.where(weights > 0, weights, 1)[None], factor)
        explained = 2 * jnp.sum(moment * solution) - jnp.sum((solution.T @ solution) * gram)
        error = jnp.sqrt(jnp.maximum(whole - explained, 0) / whole)
        return tuple(factors), weights, error, before, count + 1

    def more(state: tuple) -> jax.Array:
        _, _, error, before, count = state
        return (count < iterations) & ((count < 2) | (jnp.abs(before - error) > tolerance))

    norms = [jnp.linalg.norm(factor, axis=0) for factor in start]
    unit = tuple(f / jnp.where(norm > 0, norm, 1)[None] for f, norm in zip(start, norms, strict=True))
    far = jnp.asarray(jnp.inf, w.dtype)
    factors, weights, *_ = lax.while_loop(more, round_, (unit, jnp.ones_like(norms[0]), far, far, jnp.int32(0)))
    return _evened((*factors[:-1], factors[-1] * weights[None]))


def _correct(
    w: jax.Array, factors: tuple[jax.Array, ...], bound: jax.Array, iterations: int, tolerance: float
) -> tuple[jax.Array, ...]:
    """Lessens the sensitivity while the relative error stays within a bound.

    In turn every factor becomes the one of the least sensitivity within the bound, ``min tr(A diag(v) A^T)`` subject to
    ``norm(w_n - A Z^T) <= bound``: ``A = w_n Z (Z^T Z + gamma diag(v))^-1`` with the largest ``gamma`` that the bound
    allows, which is found by bisection in the eigenvectors of ``v^-1/2 Z^T Z v^-1/2``.
    """
    whole = jnp.sum(w * w)
    allowed = bound**2 * whole

    def update(factors: list[jax.Array], n: int) -> jax.Array:
        # In terms of the step from the factor at hand and of the residual, so that no digits are lost.
        residual = w - cp_dense(factors)
        gram, moment = _normal_equations(residual, factors, n)
        squares = [jnp.sum(factor * factor, axis=0) for factor in factors]
        terms = [len(factor) * _product_but(squares, n, k) for k, factor in enumerate(factors) if k != n]
        values = sum(terms[1:], terms[0])
        values = jnp.maximum(values, jnp.finfo(w.dtype).eps * jnp.max(values))
        root = jnp.sqrt(jnp.where(values > 0, values, 1))
        spectrum, basis = jnp.linalg.eigh(gram / (root[:, None] * root[None]))
        spectrum = jnp.maximum(spectrum, 0)
        turned, now = _product(moment / root[None], basis), _product(factors[n] * root[None], basis)
        missing = jnp.sum(residual * residual)

        def step(gamma: jax.Array) -> jax.Array:
            return (turned - gamma * now) / (spectrum + gamma)[None]

        def within(gamma: jax.Array) -> jax.Array:
            d = step(gamma)
            return missing - 2 * jnp.sum(turned * d) + jnp.sum(spectrum[None] * d * d) <= allowed

        top = jnp.maximum(spectrum[-1], jnp.finfo(w.dtype).tiny)
        low, high = jnp.log(jnp.finfo(w.dtype).eps * top), jnp.log(1e6 * top)

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            middle = (ends[0] + ends[1]) / 2
            fits = within(jnp.exp(middle))
            return jnp.where(fits, middle, ends[0]), jnp.where(fits, ends[1], middle)

        gamma = jnp.exp(lax.fori_loop(0, 40, halve, (low, high))[0])
        return factors[n] + _product(step(gamma), basis.T) / root[None]

    def round_(state: tuple) -> tuple:
        held, now, _, count = state
        factors = list(held)
        for n in range(len(factors)):
            factors[n] = update(factors, n)
            factors = list(_evened(tuple(factors)))
        within = _error(w, factors) <= bound * (1 + 1e-3) + 1e-6
        kept = tuple(jnp.where(within, new, old) for new, old in zip(factors, held, strict=True))
        return kept, sensitivity(kept), now, count + 1

    def more(state: tuple) -> jax.Array:
        _, now, before, count = state
        return (count < iterations) & ((count < 1) | (before - now > tolerance * before))

    start = sensitivity(factors)
    return lax.while_loop(more, round_, (factors, start, start, jnp.int32(0)))[0]


def _normal_equations(w: jax.Array, factors: Sequence[jax.Array], n: int) -> tuple[jax.Array, jax.Array]:
    """``Z^T Z`` and ``w_n Z``, where ``Z`` is the Khatri-Rao product of all factors but one."""
    rank = w.ndim
    others = [m for m in range(w.ndim) if m != n]
    grams = [_product(factors[m].T, factors[m]) for m in others]
    names = [tuple(range(w.ndim)), *((m, rank) for m in others)]
    moment = contract([w, *(factors[m] for m in others)], names, (n, rank), precision=lax.Precision.HIGHEST)
    return functools.reduce(jnp.multiply, grams), moment


def _evened(factors: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The same sum with columns of one root mean square in every term, which is the least sensitive scaling."""
    norms = [jnp.linalg.norm(factor, axis=0) / math.sqrt(len(factor)) for factor in factors]
    logs = [jnp.log(jnp.where(norm > 0, norm, 1)) for norm in norms]
    mean = jnp.exp(sum(logs[1:], logs[0]) / len(factors))
    alive = functools.reduce(jnp.minimum, norms) > 0
    return tuple(
        jnp.where(alive[None], factor * (mean / jnp.where(norm > 0, norm, 1))[None], 0.0)
        for factor, norm in zip(factors, norms, strict=True)
    )


def _error(w: jax.Array, factors: Sequence[jax.Array]) -> jax.Array:
    whole = jnp.linalg.norm(w)
    return jnp.linalg.norm(w - cp_dense(factors)) / jnp.where(whole > 0, whole, 1)


def _product_but(values: Sequence[jax.Array], *left_out: int) -> jax.Array:
    kept = [value for i, value in enumerate(values) if i not in left_out]
    return functools.reduce(jnp.multiply, kept, jnp.ones_like(values[0]))


def _solve(gram: jax.Array, moment: jax.Array) -> jax.Array:
    """``moment @ inv(gram)``."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram), True), moment.T).T


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
