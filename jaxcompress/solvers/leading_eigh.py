"""The leading eigenvectors of a positive semidefinite matrix, where they are few: `jnp.linalg.eigh` finds them all.

Subspace iteration, accelerated by Chebyshev polynomials. A block of some more vectors than asked for is multiplied by a
polynomial of the matrix that is small on ``[0, cut]``, ``cut`` the least Ritz value of the block, and grows fastest
above; then orthonormalized and rotated to Ritz vectors. Eigenvalues far above the cut would drown the others in
rounding: they converge by plain multiplication and are projected out of the polynomial, whose degree the rest decides.
So it is products of the matrix with a thin block, many times faster than a tridiagonalization.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_CYCLES = 12
_FAR = 8.0  # times the cut: eigenvalues above are projected out of the polynomial
_GROWTH = 1e5  # of the largest component under the polynomial; relative to the smallest, rounding stays below 1e-2
_DEGREES = (3, 16)
_MISSING = 1e-5  # stops when the sum of the eigenvalues falls short by less, of all others


class _Block(NamedTuple):
    vectors: jax.Array  # [n, block], orthonormal Ritz vectors
    moved: jax.Array  # the matrix times them
    values: jax.Array  # [block], descending


class _Loop(NamedTuple):
    block: _Block
    missing: jax.Array
    before: jax.Array  # what was missing a cycle ago
    cycle: jax.Array


def leading_eigh(g: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues in descending order and eigenvectors, the ``count`` largest.

    Their sum falls short of the largest by a few millionths of the sum of all others; single vectors where the next
    eigenvalue lies close are less exact than those of `jnp.linalg.eigh`. The result is a function of ``g`` alone: the
    block starts from a fixed pseudo-random one.

    Args:
        g: positive semidefinite, ``[..., n, n]``, finite, entries neither huge nor tiny.
        count: how many, far below ``n``, static: see `worthwhile`.

    Returns:
        ``([..., count], [..., n, count])``. Not differentiable.

    Example:
        >>> values, _ = leading_eigh(jnp.diag(0.5 ** jnp.arange(256.0)), 3)
        >>> jnp.round(values, 4).tolist()
        [1.0, 0.5, 0.25]

    References:
        Zhou, Saad, Tiago and Chelikowsky, 2006. Self-consistent-field calculations using Chebyshev-filtered subspace
        iteration, algorithm 4.1 (the filter).
    """
    solve = functools.partial(_leading, count=count)
    if g.ndim == 2:
        return solve(g)
    values, vectors = lax.map(solve, g.reshape(-1, *g.shape[-2:]))  # each stops when it is done
    return values.reshape(*g.shape[:-2], count), vectors.reshape(*g.shape[:-1], count)


def worthwhile(n: int, count: int) -> bool:
    """Whether `leading_eigh` is the faster way on a CPU.

    Example:
        >>> worthwhile(768, 64), worthwhile(768, 256), worthwhile(64, 4)
        (True, False, False)
    """
    return n >= 256 and 5 * _block(n, count) <= n


def _block(n: int, count: int) -> int:
    return min(n, count + max(16, count // 2))


def _leading(g: jax.Array, *, count: int) -> tuple[jax.Array, jax.Array]:
    n = g.shape[0]
    start = jax.random.normal(jax.random.key(0), (n, _block(n, count)), g.dtype)
    total = jnp.trace(g)
    tiny = float(jnp.finfo(g.dtype).eps) * total

    def unfinished(loop: _Loop) -> jax.Array:
        others = total - jnp.sum(loop.block.values[:count])
        far = loop.missing > _MISSING * jnp.maximum(others, tiny)
        return far & (loop.missing < 0.5 * loop.before) & (loop.cycle < _CYCLES)  # else what is left is rounding

    def cycle(loop: _Loop) -> _Loop:
        block = _ritz(g, _filtered(g, loop.block))
        return _Loop(block, _missing(block, count), loop.missing, loop.cycle + 1)

    first = _ritz(g, _product(g, _orthonormal(_product(g, start))))
    infinite = jnp.full((), jnp.inf, g.dtype)
    loop = lax.while_loop(unfinished, cycle, _Loop(first, _missing(first, count), infinite, jnp.zeros((), jnp.int32)))
    return loop.block.values[:count], loop.block.vectors[:, :count]


def _missing(block: _Block, count: int) -> jax.Array:
    """By how much the sum of the Ritz values falls short: squared residuals over the distances to the cut."""
    residual = block.moved[:, :count] - block.vectors[:, :count] * block.values[None, :count]
    distance = jnp.maximum(block.values[:count] - block.values[-1], 1e-2 * block.values[:count])
    return jnp.sum(jnp.sum(residual * residual, axis=0) / jnp.where(distance > 0, distance, 1))


def _filtered(g: jax.Array, block: _Block) -> jax.Array:
    """Ritz vectors times the polynomial; those far above the cut times the matrix."""
    x, moved, values = block
    cut = jnp.maximum(values[-1], float(jnp.finfo(g.dtype).eps) * values[0])
    cut = jnp.where(cut > 0, cut, 1)
    far = (values > _FAR * cut)[None, :]
    fixed, some = jnp.where(far, x, 0), jnp.any(far)
    highest = jnp.max(jnp.where(far[0], 0, values))
    reach = jnp.arccosh(jnp.maximum(2 * highest / cut - 1, 1 + 1e-3))
    degree = jnp.clip(jnp.log(2 * _GROWTH) / reach, *_DEGREES).astype(jnp.int32)

    def shifted(y: jax.Array, gy: jax.Array) -> jax.Array:
        z = gy * (2 / cut) - y  # maps [0, cut] to [-1, 1]
        return lax.cond(some, lambda: z - _product(fixed, _product(fixed.T, z)), lambda: z)

    def step(_: Any, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        before, now = pair
        return now, 2 * shifted(now, _product(g, now)) - before

    near = jnp.where(far, 0, x)
    first = shifted(near, jnp.where(far, 0, moved))
    y = lax.fori_loop(1, degree, step, (near, first))[1]
    y = jnp.where(far, moved, y)
    norm = jnp.sqrt(jnp.sum(y * y, axis=0, keepdims=True))
    return y / jnp.where(norm > 0, norm, 1)


def _ritz(g: jax.Array, x: jax.Array) -> _Block:
    """Ritz vectors and values of the span, in descending order."""
    q = _orthonormal(x)
    moved = _product(g, q)
    values, rotation = jnp.linalg.eigh(_product(q.T, moved))
    rotation = rotation[:, ::-1]
    return _Block(_product(q, rotation), _product(moved, rotation), values[::-1])


def _orthonormal(x: jax.Array) -> jax.Array:
    return jnp.linalg.qr(x)[0]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
