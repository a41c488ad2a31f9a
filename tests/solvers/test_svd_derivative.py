"""Derivatives of truncated decompositions, against differences of NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.lowrank import masked_svd, truncated_svd

RNG = np.random.default_rng(0)
METHODS = ["gram", "full", "randomized"]


def orthogonal(n):
    return np.linalg.qr(RNG.normal(size=(n, n)))[0]


def with_spectrum(m, n, s):
    k = len(s)
    return (orthogonal(m)[:, :k] * np.asarray(s)) @ orthogonal(n)[:k]


def numpy_truncation(w, rank):
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def truncation(w, rank, method):
    u, s, vt = truncated_svd(w, rank=rank, method=method, key=jax.random.key(0))
    return jnp.matmul(u * s[None], vt, precision="highest")


def differences(fn, w, direction, step=1e-5):
    return (fn(w + step * direction) - fn(w - step * direction)) / (2 * step)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "spectrum", "rank"),
    [
        ((9, 6), [5.0, 4.0, 3.0, 1.0, 0.5, 0.2], 3),  # cut in a gap
        ((6, 9), [5.0, 4.0, 3.0, 1.0, 0.5, 0.2], 3),
        ((9, 6), [5.0, 3.0, 3.0, 3.0, 0.5, 0.2], 4),  # a triple value, all of it kept
        ((6, 6), [2.0, 2.0, 2.0, 0.5, 0.5, 0.5], 3),  # repeated on both sides of the cut
    ],
)
def test_tangents_of_the_product_are_those_of_differences(method, shape, spectrum, rank):
    w, direction = with_spectrum(*shape, spectrum), RNG.normal(size=shape)
    expected = differences(lambda w: numpy_truncation(w, rank), w, direction)
    f = lambda w: truncation(w, rank, method)  # noqa: E731
    primals, tangents = jax.jit(lambda w, d: jax.jvp(f, (w,), (d,)))(jnp.float32(w), jnp.float32(direction))
    np.testing.assert_allclose(primals, numpy_truncation(w, rank), atol=2e-5)
    # entries of size 1 and a gap of 1 in float32; near ties of rounded values the pole cancels up to 1e-3
    np.testing.assert_allclose(tangents, expected, atol=2e-3)


def test_a_whole_rank_of_equal_values_has_the_identity_as_derivative():
    w, direction = jnp.eye(4) * 2, jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)
    for method in ("gram", "full"):
        tangents = jax.jvp(lambda w, method=method: truncation(w, 4, method), (w,), (direction,))[1]
        np.testing.assert_allclose(tangents, direction, atol=1e-6)


@pytest.mark.parametrize("method", ["gram", "full"])
def test_gradients_of_single_triples_are_those_of_jax_where_values_are_apart(method):
    w = jnp.asarray(with_spectrum(7, 5, [5.0, 4.0, 2.0, 1.0, 0.3]), jnp.float32)
    weights = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((7, 2), (2,), (2, 5))]

    def value(triples):
        u, s, vt = triples  # signs are free: products that do not depend on them
        return jnp.sum(jnp.square(u) * weights[0]) + jnp.sum(s * weights[1]) + jnp.sum(jnp.square(vt) * weights[2])

    def theirs(w):
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        return value((u[:, :2], s[:2], vt[:2]))

    ours = jax.jit(jax.grad(lambda w: value(truncated_svd(w, rank=2, method=method))))(w)
    np.testing.assert_allclose(ours, jax.jit(jax.grad(theirs))(w), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("w", [np.zeros((6, 4)), np.eye(6, 4), np.outer(np.arange(6), np.ones(4))])
def test_gradients_stay_finite_at_zeros_ties_across_the_cut_and_deficient_ranks(method, w):
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(truncation(w, 2, method) ** 3)))
    assert np.isfinite(gradient(jnp.asarray(w, jnp.float32))).all()


def test_second_derivatives_and_vmap():
    w = jnp.asarray(with_spectrum(5, 4, [4.0, 2.0, 1.0, 0.2]), jnp.float32)
    direction = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    loss = lambda w: jnp.sum(jnp.square(truncation(w, 2, "gram") - 1))  # noqa: E731
    curvature = jax.jit(jax.vmap(lambda w: jax.jvp(jax.grad(loss), (w,), (direction,))[1]))(jnp.stack([w, 2 * w]))
    numpy_loss = lambda w: np.sum(np.square(numpy_truncation(w, 2) - 1))  # noqa: E731
    for scale, found in zip((1, 2), curvature, strict=True):
        at = scale * np.asarray(w, np.float64)
        second = (
            numpy_loss(at + 1e-4 * np.asarray(direction, np.float64))
            - 2 * numpy_loss(at)
            + numpy_loss(at - 1e-4 * np.asarray(direction, np.float64))
        ) / 1e-8
        np.testing.assert_allclose(np.sum(np.asarray(found) * np.asarray(direction)), second, rtol=1e-3)


def test_the_nuclear_norm_has_the_polar_factor_as_gradient_also_under_a_traced_rank():
    w = with_spectrum(6, 5, [4.0, 2.0, 2.0, 1.0, 0.5])
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    gradient = jax.jit(jax.grad(lambda w, rank: jnp.sum(masked_svd(w, rank).s)))
    for rank in (1, 3, 5):
        np.testing.assert_allclose(gradient(jnp.float32(w), rank), u[:, :rank] @ vt[:rank], atol=1e-4)
