"""Singular triples of tall matrices, with derivatives that stay finite where singular values coincide.

The textbook derivative divides by ``s_i^2 - s_j^2``. What the triples are multiplied to, ``(u * s) @ vt``, has none of
that pole between two triples that are both kept: there the terms of ``u`` and ``v`` cancel. So for pairs closer than
rounding allows to tell (the square root of the precision, relatively) the smallest tangents of ``u`` and ``v`` that
give the product its exact derivative take their place. A pair across the cut does have the pole: there the same rule
gives the mean of what keeping the one or the other would give. Zero singular values contribute nothing.

Of what is cut off the rule needs no left vectors, which the Gram method knows badly: only ``w v``.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.leading_eigh import leading_eigh, worthwhile

_SOLVES = 8  # steps of the fixed point that stands in for the triples that a randomized method never saw


class TruncatedSVD(NamedTuple):
    """``w ~ (u * s) @ vt``: orthonormal columns of ``u``, singular values in descending order, rows of ``vt``."""

    u: jax.Array  # [..., m, rank]
    s: jax.Array  # [..., rank]
    vt: jax.Array  # [..., rank, n]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def triples(w: jax.Array, sketch: jax.Array | None, rank: int, method: str, power: int) -> TruncatedSVD:
    """The leading triples of ``w``, ``[..., m, n]`` with ``m >= n``, entries of size 1.

    Args:
        w: float32 or float64.
        sketch: for ``"randomized"``: normal, ``[..., n, columns]``; else None.
        rank: static.
        method: ``"gram"``, ``"full"`` or ``"randomized"``.
        power: for ``"randomized"``: number of power iterations.
    """
    if method == "full":
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        return TruncatedSVD(u[..., :rank], s[..., :rank], vt[..., :rank, :])
    if method == "gram":
        return _gram(w, rank)
    assert sketch is not None
    q = _range(w, sketch, power)
    # a tall matrix [n, columns], whose left vectors are the right ones of w
    v, s, ut = _gram(product(w.mT, q), rank)
    return TruncatedSVD(product(q, ut.mT), s, v.mT)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b`` at the highest precision of the device."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _gram(w: jax.Array, rank: int) -> TruncatedSVD:
    g = product(w.mT, w)
    few = worthwhile(g.shape[-1], rank)
    v = leading_eigh(g, rank)[1] if few else jnp.linalg.eigh(g)[1][..., ::-1][..., :rank]  # eigh ascends
    us = product(w, v)
    s = jnp.sqrt(jnp.sum(us * us, axis=-2))
    return TruncatedSVD(us / jnp.where(s > 0, s, 1)[..., None, :], s, v.mT)


def _range(w: jax.Array, sketch: jax.Array, power: int) -> jax.Array:
    """Orthonormal columns that span nearly the range of ``w`` (Halko et al., 2011, algorithm 4.4)."""

    def step(q: jax.Array, _: None) -> tuple[jax.Array, None]:
        back = jnp.linalg.qr(product(w.mT, q))[0]
        return jnp.linalg.qr(product(w, back))[0], None

    start = jnp.linalg.qr(product(w, sketch))[0]
    return lax.scan(step, start, None, length=power)[0]


@triples.defjvp
def _derivative(rank: int, method: str, power: int, primals: Any, tangents: Any) -> tuple[TruncatedSVD, TruncatedSVD]:
    w, sketch = primals
    dw = tangents[0]
    if method == "randomized":
        found = triples(w, sketch, rank, method, power)
        beyond = _iterated(w, dw, found)
    else:
        whole = triples(w, None, w.shape[-1], method, power)
        found = TruncatedSVD(whole.u[..., :rank], whole.s[..., :rank], whole.vt[..., :rank, :])
        beyond = _exact(w, dw, found, whole.s[..., rank:], whole.vt[..., rank:, :].mT)
    u, s, v = found.u, found.s, found.vt.mT
    k = product(u.mT, product(dw, v))
    a, b = _among(s, k)
    du = product(u, a) + beyond[0]
    dv = product(v, b) + beyond[1]
    return found, TruncatedSVD(du, jnp.diagonal(k, axis1=-2, axis2=-1), dv.mT)


def _among(s: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Coefficients of ``du`` in ``u`` and of ``dv`` in ``v``; ``k = u^T dw v``."""
    one, other = s[..., :, None], s[..., None, :]  # of i and of j, the row and the column
    near, gap = _gaps(one, other)
    both = _nonzero(one * one + other * other)
    diagonal = jnp.eye(s.shape[-1], dtype=bool)
    a = jnp.where(near, other / both * k, (other * k + one * k.mT) / gap)
    b = jnp.where(near, other / both * k.mT, (one * k + other * k.mT) / gap)
    zero = jnp.zeros((), s.dtype)
    diagonal = jnp.broadcast_to(diagonal, a.shape)
    return jnp.where(diagonal, zero, a), jnp.where(diagonal, zero, b)


def _exact(
    w: jax.Array, dw: jax.Array, found: TruncatedSVD, s_cut: jax.Array, v_cut: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The parts of ``du`` and ``dv`` outside of the kept triples, from all right vectors."""
    u, s, v = found.u, found.s, found.vt.mT
    moved = product(dw, v)
    rest = (moved - product(u, product(u.mT, moved))) * _inverse(s)[..., None, :]
    us_cut = product(w, v_cut)
    kept, cut = s[..., None, :], s_cut[..., :, None]
    left = product(us_cut.mT, moved)  # s_j u_j^T dw v_i, for j cut and i kept
    right = product(v_cut.mT, product(dw.mT, u))
    near, gap = _gaps(cut, kept)
    both, inverse = _nonzero(kept * kept + cut * cut), _inverse(s)[..., None, :]
    of_u = jnp.where(near, -left * inverse / both, (left * inverse + right) / gap)
    of_v = jnp.where(near, kept / both * right, (left + kept * right) / gap)
    return rest + product(us_cut, of_u), product(v_cut, of_v)


def _iterated(w: jax.Array, dw: jax.Array, found: TruncatedSVD) -> tuple[jax.Array, jax.Array]:
    """The same where the triples cut off are not known: by the equations that they solve, from ``w`` alone.

    Its error falls as the power ``2 * _SOLVES`` of the ratio of the first singular value cut off to one kept.
    """
    u, v, inverse = found.u, found.vt.mT, _inverse(found.s)[..., None, :]
    outside_u = lambda x: x - product(u, product(u.mT, x))  # noqa: E731
    outside_v = lambda y: y - product(v, product(v.mT, y))  # noqa: E731
    of_u, of_v = outside_u(product(dw, v)), outside_v(product(dw.mT, u))

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        y = (of_v + outside_v(product(w.mT, x))) * inverse
        return (of_u + outside_u(product(w, y))) * inverse, None

    x = lax.scan(step, of_u * inverse, None, length=_SOLVES)[0]
    return x, (of_v + outside_v(product(w.mT, x))) * inverse


def _gaps(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pairs cannot be told apart, and ``other^2 - one^2``, 1 where they cannot."""
    tolerance = float(jnp.finfo(one.dtype).eps) ** 0.5
    difference, total = other - one, other + one
    near = jnp.abs(difference) <= tolerance * total
    return near, jnp.where(near, jnp.ones((), one.dtype), difference * total)


def _nonzero(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, jnp.full((), jnp.inf, x.dtype))


def _inverse(s: jax.Array) -> jax.Array:
    """``1 / s``; 0 for what is zero but for rounding."""
    some = s > float(jnp.finfo(s.dtype).eps) * s[..., :1]
    return jnp.where(some, 1 / jnp.where(some, s, 1), 0)
