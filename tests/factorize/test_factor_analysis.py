import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
import sklearn.decomposition

from jaxcompress.factorize import factor_analysis, pca, principal_factors

RNG = np.random.default_rng(0)


def rows_of_factors(rows, features, factors):
    """Data of the model: few factors, noise from 0.5 to 1.5 by feature, a mean."""
    loadings = RNG.normal(size=(factors, features))
    noise = RNG.normal(size=(rows, features)) * np.linspace(0.5, 1.5, features)
    return (RNG.normal(size=(rows, factors)) @ loadings + noise + 2).astype(np.float32)


def digits():
    """Pixels that vary, from 0 to 16."""
    x = sklearn.datasets.load_digits().data.astype(np.float32)
    return x[:, x.std(0) > 0.5][:, ::2]


CASES = {
    "tall": (lambda: rows_of_factors(300, 10, 2), 2),
    "wide": (lambda: rows_of_factors(20, 30, 2), 2),
    "digits": (digits, 5),
}


@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize("case", ["tall", "wide", pytest.param("digits", marks=pytest.mark.slow)])
def test_maximum_likelihood_agrees_with_scikit_learn(case):
    make, k = CASES[case]
    x = make()
    ours = factor_analysis(jnp.asarray(x), factors=k, tolerance=1e-6, iterations=25)
    theirs = sklearn.decomposition.FactorAnalysis(k, tol=1e-6 * len(x), svd_method="lapack", max_iter=25)
    theirs.fit(x.astype(np.float64))
    steps = min(int(ours.iterations), theirs.n_iter_)
    # The same steps in float32: a log-likelihood per row of the size of the features, to 1e-5 of it.
    expected = np.asarray(theirs.loglike_)[:steps] / len(x)
    np.testing.assert_allclose(ours.log_likelihoods[:steps], expected, rtol=2e-5)
    np.testing.assert_allclose(ours.log_likelihoods[-1], theirs.loglike_[steps - 1] / len(x), rtol=2e-5)
    covariance = theirs.get_covariance()
    np.testing.assert_allclose(ours.covariance(), covariance, atol=5e-3 * np.abs(covariance).max())
    np.testing.assert_allclose(ours.log_likelihood(jnp.asarray(x)).mean(), theirs.score(x), rtol=1e-4)
    # Factors are known up to a rotation and signs: what is decoded is not.
    decoded = theirs.transform(x) @ theirs.components_ + theirs.mean_
    found = ours.inverse_transform(ours.transform(jnp.asarray(x)))
    np.testing.assert_allclose(found, decoded, atol=1e-2 * np.abs(x).max())


@pytest.mark.parametrize("rows", [15, pytest.param(60, marks=pytest.mark.slow)])  # the dual and the covariance
def test_random_sketches_come_close(rows):
    x = jnp.asarray(rows_of_factors(rows, 30, 2))
    exact = factor_analysis(x, factors=2, iterations=10)
    close = factor_analysis(x, factors=2, iterations=10, key=jax.random.key(0))
    np.testing.assert_allclose(close.log_likelihoods, exact.log_likelihoods, rtol=1e-3)
    np.testing.assert_allclose(
        close.inverse_transform(close.transform(x)), exact.inverse_transform(exact.transform(x)), atol=0.05
    )


def test_likelihood_rises_and_noise_is_found_that_pca_cannot_see():
    x = rows_of_factors(4000, 12, 2)
    fitted = factor_analysis(jnp.asarray(x), factors=2)
    rises = np.diff(np.asarray(fitted.log_likelihoods)[: int(fitted.iterations)])
    assert (rises > -2e-5).all()  # up to the rounding of float32
    assert rises[0] > 0.01
    # 4,000 rows: a deviation is known to a few per cent, that of a feature whose loadings are large to 15.
    np.testing.assert_allclose(np.sqrt(fitted.noise), np.linspace(0.5, 1.5, 12), rtol=0.15)
    held_out = jnp.asarray(rows_of_factors(10, 12, 2))
    assert fitted.log_likelihood(held_out).shape == (10,)


def test_more_factors_than_there_are_stay_empty_and_the_right_number_scores_best():
    draw = np.random.default_rng(1)
    loadings = draw.normal(size=(2, 12))
    x = jnp.asarray(draw.normal(size=(600, 2)) @ loadings + draw.normal(size=(600, 12)), jnp.float32)
    scores = [float(factor_analysis(x[:300], factors=k).log_likelihood(x[300:]).mean()) for k in (1, 2)]
    assert scores[1] > scores[0] + 0.05
    independent = factor_analysis(jnp.asarray(np.diag([3.0, 2.0, 1.0, 1.0]), jnp.float32), factors=2)
    assert jnp.isfinite(independent.loadings).all()


def test_principal_factors_decode_as_pca_does_with_unit_codes():
    x = jnp.asarray(rows_of_factors(60, 9, 3)) * jnp.asarray([[1, 1, 1, 50, 1, 1, 1, 1, 0.1]], jnp.float32)
    fitted, plain = principal_factors(x, factors=4), pca(x, components=4, standardize=True)
    codes = fitted.transform(x)
    np.testing.assert_allclose(jnp.cov(codes.T), np.eye(4), atol=1e-4)
    decoded = fitted.inverse_transform(codes)
    np.testing.assert_allclose(decoded, plain.inverse_transform(plain.transform(x)), rtol=1e-3, atol=1e-3)
    # By hand: loadings are sqrt(eigenvalue) * eigenvector of the correlations, noise fills the diagonal up to 1.
    values, vectors = np.linalg.eigh(np.corrcoef(np.asarray(x, np.float64).T))
    outer = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
    np.testing.assert_allclose(fitted.loadings.T @ fitted.loadings, outer, atol=1e-4)
    np.testing.assert_allclose(np.diag(outer) + fitted.noise, 1, atol=1e-4)


def test_jit_is_eager_vmap_is_the_loop_and_a_tolerance_may_be_traced(compilations):
    x = jnp.asarray(np.stack([rows_of_factors(40, 6, 1), rows_of_factors(40, 6, 1)]))

    @jax.jit
    def fit(x, tolerance):
        return factor_analysis(x, factors=1, iterations=50, tolerance=tolerance)

    alone, early = fit(x[1], 1e-5), fit(x[1], 1e-1)
    assert compilations("fit") == 1
    assert int(early.iterations) < int(alone.iterations)
    eager = factor_analysis(x[1], factors=1, iterations=50)
    np.testing.assert_allclose(alone.noise, eager.noise, rtol=1e-4)
    both = jax.vmap(lambda x: factor_analysis(x, factors=1, iterations=50))(x)
    np.testing.assert_allclose(both.noise[1], alone.noise, rtol=1e-3)
    assert int(both.iterations[1]) == int(alone.iterations)


def test_constant_and_copied_features_stay_finite():
    x = rows_of_factors(50, 6, 2)
    x[:, 2] = 7.0
    x[:, 4] = x[:, 1]
    for standardize in (False, True):
        fitted = factor_analysis(jnp.asarray(x), factors=2, standardize=standardize)
        decoded = fitted.inverse_transform(fitted.transform(jnp.asarray(x)))
        assert jnp.isfinite(decoded).all()
        np.testing.assert_allclose(decoded[:, 2], 7.0, atol=1e-3)


def test_units_of_the_data_do_not_matter():
    x = rows_of_factors(60, 6, 1)
    plain = factor_analysis(jnp.asarray(x), factors=1)
    for unit in (1e12, 1e-12):
        fitted = factor_analysis(jnp.asarray(x * np.float32(unit)), factors=1)
        np.testing.assert_allclose(fitted.noise / unit / unit, plain.noise, rtol=0.02)
    with pytest.raises(ValueError, match="float32 cannot hold the variances of x"):
        factor_analysis(jnp.asarray(x * np.float32(1e25)), factors=1)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_last_likelihood_is_that_of_the_rows(standardize):
    x = jnp.asarray(rows_of_factors(60, 6, 1)) * jnp.asarray([[1, 2, 9, 1, 1, 1]], jnp.float32)
    fitted = factor_analysis(x, factors=1, standardize=standardize)
    np.testing.assert_allclose(fitted.log_likelihood(x).mean(), fitted.log_likelihoods[-1], rtol=0.02)
    held = principal_factors(x[:2], factors=1)  # two rows lie on a line: nothing is left for noise
    with pytest.raises(ValueError, match="features have no noise, so that there is no density"):
        dataclasses.replace(held, noise=held.noise.at[0].set(0.0)).log_likelihood(x)


def test_float64():
    with jax.enable_x64(True):
        fitted = factor_analysis(jnp.asarray(rows_of_factors(20, 5, 1), jnp.float64), factors=1, iterations=5)
        assert fitted.noise.dtype == fitted.log_likelihoods.dtype == jnp.float64
        assert jnp.isfinite(fitted.loadings).all()


def test_lowers_for_every_platform():
    fit = jax.jit(lambda x: factor_analysis(x, factors=2).transform(x))
    jax.export.export(fit, platforms=["cpu", "cuda", "tpu"])(jax.ShapeDtypeStruct((8, 5), jnp.float32))


def test_what_cannot_be_asked_is_named():
    x = jnp.asarray(rows_of_factors(5, 3, 1))
    with pytest.raises(ValueError, match="factors must be an integer from 1 to 3, got 4"):
        factor_analysis(x, factors=4)
    with pytest.raises(ValueError, match="iterations must be an integer of 1 or more, got 0"):
        factor_analysis(x, factors=1, iterations=0)
    with pytest.raises(ValueError, match="principal_factors: x holds NaN or infinity"):
        principal_factors(x.at[0, 0].set(jnp.inf), factors=1)
    with pytest.raises(TypeError, match="rows of data must be float"):
        factor_analysis(jnp.ones((3, 3), jnp.int32), factors=1)
