"""Sparse least squares from second moments, against NumPy and scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp_gram

from jaxcompress.solvers.sparse_fit import fit_support, hard_thresholding, largest_per_column, matching_pursuit
from tests.solvers.test_obs import error, problem

F, R = 12, 5
KEPT = np.array([1, 3, 6, 0, 12])


def unit_problem(seed):
    """Features of unit size, as scikit-learn's selection assumes."""
    w, s = problem(seed, F, R)
    scale = np.sqrt(np.diag(s))
    return w, s / np.outer(scale, scale)


def best_on(w, s, mask):
    values = np.zeros_like(w)
    for column in range(w.shape[1]):
        on = np.flatnonzero(mask[:, column])
        values[on, column] = np.linalg.solve(s[np.ix_(on, on)], s[on] @ w[:, column])
    return values


@functools.partial(jax.jit, static_argnames="steps")
def fit(w, s, mask, *, steps=100):
    return fit_support(w, s, mask, damping=0.0, iterations=steps)


def test_fit_is_least_squares():
    w, s = problem(0, F, R)
    mask = np.random.default_rng(1).random((F, R)) < 0.5
    got = fit(jnp.float32(w), jnp.float32(s), jnp.asarray(mask))
    np.testing.assert_allclose(got, best_on(w, s, mask), rtol=2e-3, atol=2e-4)  # condition number about 1e3
    assert not np.asarray(got)[~mask].any()


def test_fit_of_a_full_and_of_an_empty_support():
    w, s = problem(2, F, R)
    np.testing.assert_array_equal(fit(jnp.float32(w), jnp.float32(s), jnp.ones((F, R), bool)), np.float32(w))
    np.testing.assert_array_equal(fit(jnp.float32(w), jnp.float32(s), jnp.zeros((F, R), bool)), np.zeros((F, R)))


def test_matching_pursuit_is_scikit_learns():
    w, s = unit_problem(3)
    run = jax.jit(lambda w, s, kept: matching_pursuit(w, s, kept, damping=0.0))
    got = run(jnp.float32(w), jnp.float32(s), jnp.asarray(KEPT, jnp.int32))
    for column, kept in enumerate(KEPT):
        want = np.zeros(F) if kept == 0 else orthogonal_mp_gram(s, s @ w[:, column], n_nonzero_coefs=int(kept))
        np.testing.assert_array_equal(got.mask[:, column], want != 0)
        np.testing.assert_allclose(got.values[:, column], want, rtol=5e-3, atol=5e-4)


@functools.cache
def thresholding(iterations):
    @jax.jit
    def run(w, s, mask):
        kept = jnp.sum(mask, axis=0, dtype=jnp.int32)
        return hard_thresholding(w, s, largest_per_column(kept), mask, iterations=iterations, damping=0.0)

    return lambda w, s, mask: run(jnp.float32(w), jnp.float32(s), jnp.asarray(mask))


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_hard_thresholding_improves_on_the_support_it_starts_from(seed):
    w, s = problem(seed, F, R)
    order = np.argsort(np.argsort(-np.abs(w), axis=0), axis=0)
    mask = order < 4
    start = error(w, best_on(w, s, mask), s)
    few, many = (thresholding(n)(w, s, mask) for n in (0, 60))
    np.testing.assert_array_equal(few.mask, mask)
    assert (np.asarray(many.mask).sum(0) == 4).all()
    errors = [error(w, np.float64(found.values), s) for found in (few, many)]
    np.testing.assert_allclose(errors[0], start, rtol=1e-3)
    assert errors[1] < 0.95 * start
    assert start < error(w, w * mask, s)


def test_hard_thresholding_recovers_a_sparse_vector():
    """What is sparse already is found exactly, from a support that is wrong: the setting of compressed sensing."""
    random = np.random.default_rng(7)
    x = random.normal(size=(80, F))
    w = np.zeros((F, 3))
    for column in range(3):
        w[random.permutation(F)[:3], column] = random.choice([-1, 1], 3) * (1 + random.random(3))
    wrong = np.zeros((F, 3), bool)
    wrong[:3] = True
    got = thresholding(60)(w, x.T @ x / 80, wrong)
    np.testing.assert_array_equal(got.mask, w != 0)
    np.testing.assert_allclose(got.values, w, atol=1e-4)
