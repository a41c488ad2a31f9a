"""The leading eigenvectors: what they miss of the best subspace, over spectra of every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.leading_eigh import leading_eigh, worthwhile
from jaxcompress.solvers.lowrank import truncated_svd

RNG = np.random.default_rng(0)
N, COUNT = 256, 12
solve = jax.jit(leading_eigh, static_argnames="count")


def orthogonal(n):
    return np.linalg.qr(RNG.normal(size=(n, n)))[0]


SPECTRA = {
    "gaussian": np.linalg.svd(RNG.normal(size=(N, N)), compute_uv=False),
    "outliers over a bulk": np.concatenate([[300.0, 100.0, 99.0, 20.0, 5.0], np.linspace(1, 0.1, N - 5)]),
    "power law": np.arange(1.0, N + 1) ** -1.0,
    "exponential": 0.9 ** np.arange(N),
    "equal": np.ones(N),
    "a step at the cut": np.concatenate([np.ones(COUNT), np.full(N - COUNT, 0.5)]),
    "a step behind the cut": np.concatenate([np.ones(100), np.full(N - 100, 0.5)]),
    "of low rank": np.concatenate([np.ones(5), np.zeros(N - 5)]),
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_projection_is_as_good_as_the_best(spectrum):
    assert worthwhile(N, COUNT)
    w = (orthogonal(N) * spectrum) @ orthogonal(N)
    g = jnp.asarray(w.T @ w / spectrum[0] ** 2, jnp.float32)
    values, vectors = solve(g, count=COUNT)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(COUNT), atol=1e-5)
    np.testing.assert_allclose(values, (spectrum[:COUNT] / spectrum[0]) ** 2, rtol=1e-3, atol=1e-6)
    v = np.asarray(vectors, np.float64)
    error, least = np.linalg.norm(w - w @ v @ v.T), np.sqrt(np.sum(spectrum[COUNT:] ** 2))
    assert error - least < 1e-5 * np.linalg.norm(w)  # float32 squares: a bulk 300 times below an outlier is near noise


def test_zeros_batches_and_vmap():
    w = RNG.normal(size=(3, 300, N))
    w[1] = 0
    g = jnp.asarray(w.mT @ w / 300, jnp.float32)
    values, vectors = solve(g, count=COUNT)
    assert np.isfinite(np.asarray(vectors)).all()
    assert not values[1].any()
    mapped = jax.jit(jax.vmap(lambda g: leading_eigh(g, COUNT)))(g)[0]
    np.testing.assert_allclose(mapped, values, rtol=1e-5)


@pytest.mark.parametrize("shape", [(300, N), (N, 300), (2, N, N)])
def test_gram_takes_them_where_the_rank_is_small_and_the_gradient_is_right(shape):
    w = RNG.normal(size=shape)
    u, s, vt = jax.jit(truncated_svd, static_argnames="rank")(jnp.asarray(w, jnp.float32), rank=COUNT)
    theirs = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(s, theirs[..., :COUNT], rtol=1e-4)
    error = np.linalg.norm(w - np.asarray((u * s[..., None, :]) @ vt, np.float64), axis=(-2, -1))
    np.testing.assert_allclose(error, np.sqrt(np.sum(theirs[..., COUNT:] ** 2, -1)), rtol=1e-5)


def test_gradients_do_not_pass_through_the_iteration():
    w = RNG.normal(size=(N, N))
    polar = np.linalg.svd(w)
    gradient = jax.jit(jax.grad(lambda w: truncated_svd(w, rank=4).s.sum()))(jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(gradient, polar[0][:, :4] @ polar[2][:4], atol=1e-3)
