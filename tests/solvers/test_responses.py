import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from jaxcompress.solvers.responses import auxiliary, fit_responses

RNG = np.random.default_rng(0)
N, D = 600, 10


def responses(shift=0.0):
    """Correlated, with some noise."""
    rows = RNG.normal(size=(N, 6)) @ RNG.normal(size=(6, D)) + 0.3 * RNG.normal(size=(N, D)) + shift
    return np.asarray(rows, np.float32)


def predicted(fit, seen):
    return seen @ np.asarray(fit.left, np.float64) @ np.asarray(fit.right, np.float64) + np.asarray(fit.offset)


def test_same_responses_are_their_principal_components():
    y = responses(shift=2.0)
    fit = fit_responses(y, y, rank=4)
    theirs = PCA(4).fit(y.astype(np.float64))
    expected = theirs.inverse_transform(theirs.transform(y.astype(np.float64)))
    np.testing.assert_allclose(predicted(fit, y), expected, atol=2e-3)  # float32 covariances
    np.testing.assert_allclose(fit.error, np.square(expected - y).sum() / N, rtol=1e-3)
    np.testing.assert_allclose(fit.right @ fit.right.T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("intercept", [True, False])
def test_reduced_rank_regression_by_numpy(intercept):
    """The regression, projected onto the leading right singular vectors of its predictions, in float64."""
    y = responses(shift=1.0)
    seen = y + 0.5 * responses() * (y > 0)
    x, z = seen.astype(np.float64), y.astype(np.float64)
    if intercept:
        x, z = x - x.mean(0), z - z.mean(0)
    slope = np.linalg.lstsq(x, z, rcond=None)[0]
    vt = np.linalg.svd(x @ slope, full_matrices=False)[2][:3]
    best = np.square(z - x @ slope @ vt.T @ vt).sum() / N
    fit = fit_responses(seen, y, rank=3, intercept=intercept)
    assert np.square(predicted(fit, seen) - y).sum() / N <= best * (1 + 1e-4)
    np.testing.assert_allclose(fit.error, best, rtol=1e-4)
    if not intercept:
        np.testing.assert_array_equal(fit.offset, 0)
    naive = fit_responses(y, y, rank=3, intercept=intercept)  # the components of the wanted responses alone
    assert np.square(predicted(naive, seen) - y).sum() / N > 1.02 * best


def test_what_a_relu_sees_is_fitted_better_than_by_the_linear_fit():
    y = responses(shift=-2.0)
    fits = {relu: fit_responses(y, y, rank=3, relu=relu) for relu in (False, True)}
    errors = {
        relu: np.square(np.maximum(predicted(fit, y), 0) - np.maximum(y, 0)).sum() / N for relu, fit in fits.items()
    }
    assert errors[True] < 0.8 * errors[False]
    np.testing.assert_allclose(fits[True].error, errors[True], rtol=1e-4)


def test_auxiliary_responses_minimize_entry_by_entry():
    given, target = RNG.normal(size=200) * 2, np.maximum(RNG.normal(size=200), 0)
    grid = np.linspace(-8, 8, 4001)
    for penalty in (0.01, 1.0):
        z = np.asarray(auxiliary(jnp.asarray(given, jnp.float32), jnp.asarray(target, jnp.float32), penalty))
        loss = lambda z, p=penalty: np.square(target - np.maximum(z, 0)) + p * np.square(z - given)  # noqa: E731
        every = loss(grid[:, None]).min(0)  # on a grid of step 0.004
        assert (loss(z) <= every + 1e-5).all()


def test_silent_outputs_scales_jit_and_errors():
    y = responses()
    y[:, 3] = 0
    fit = fit_responses(1e20 * y, 1e20 * y, rank=6)
    small = fit_responses(y, y, rank=6)
    assert all(bool(jnp.isfinite(part).all()) for part in (fit.left, fit.right, fit.offset))
    np.testing.assert_allclose(predicted(fit, 1e20 * y) / 1e20, predicted(small, y), atol=1e-3)
    mapped = jax.vmap(lambda y: fit_responses(y, y, rank=2, relu=True).error)(jnp.stack([y[:300], y[300:]]))
    np.testing.assert_allclose(mapped[1], fit_responses(y[300:], y[300:], rank=2, relu=True).error, rtol=1e-3)
    with pytest.raises(ValueError, match="rank must be from 1 to 10"):
        fit_responses(y, y, rank=11)
    with pytest.raises(ValueError, match=r"one shape \[n, outputs\]"):
        fit_responses(y, y[1:], rank=1)
