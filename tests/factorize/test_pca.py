import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
import sklearn.decomposition

from jaxcompress.factorize import PCA, incremental_pca, pca

RNG = np.random.default_rng(0)


def correlated(rows, features, dtype=np.float32):
    """Rows of a falling spectrum around a mean, so that components are well apart."""
    scales = 2.0 ** -np.linspace(0, 6, features)
    turn, _ = np.linalg.qr(RNG.normal(size=(features, features)))
    return (3 + (RNG.normal(size=(rows, features)) * scales) @ turn).astype(dtype)


def digits():
    """1,797 images of 64 pixels from 0 to 16; three pixels never change."""
    return sklearn.datasets.load_digits().data.astype(np.float32)


CASES = {"tall": lambda: correlated(80, 12), "wide": lambda: correlated(12, 40), "digits": digits}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scikit_learn(case):
    x = CASES[case]()
    k = 6
    ours = pca(jnp.asarray(x), components=k)
    theirs = sklearn.decomposition.PCA(k, svd_solver="full").fit(x.astype(np.float64))
    # float32 against float64. Vectors turn by the rounding over the gap of neighbouring variances, a tenth or more.
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(ours.components, theirs.components_, atol=1e-4)
    codes = ours.transform(jnp.asarray(x))
    np.testing.assert_allclose(codes, theirs.transform(x), atol=1e-4 * np.abs(x).max())
    back = theirs.inverse_transform(theirs.transform(x))
    np.testing.assert_allclose(ours.inverse_transform(codes), back, atol=1e-4 * np.abs(x).max())


def test_whitened_codes_have_variance_one_and_decode():
    x = jnp.asarray(correlated(90, 8))
    fitted = pca(x, whiten=True)
    codes = fitted.transform(x)
    np.testing.assert_allclose(jnp.cov(codes.T), np.eye(8), atol=1e-4)
    np.testing.assert_allclose(fitted.inverse_transform(codes), x, atol=1e-4)


def test_standardised_is_the_eigendecomposition_of_the_correlations():
    x = correlated(60, 7) * np.array([1, 10, 100, 1, 1, 1, 0.01], np.float32)
    x[:, 3] = 5.0  # never changes: its scale is 1
    fitted = pca(jnp.asarray(x), standardize=True, eigenvalue=0.1)
    varied = np.delete(x, 3, axis=1).astype(np.float64)
    expected = np.linalg.eigvalsh(np.corrcoef(varied.T))[::-1]
    np.testing.assert_allclose(fitted.variances, expected[expected > 0.1], rtol=1e-4)
    np.testing.assert_allclose(fitted.total_variance, 6.0, rtol=1e-5)
    whole = pca(jnp.asarray(x), standardize=True)
    np.testing.assert_allclose(whole.inverse_transform(whole.transform(jnp.asarray(x))), x, rtol=1e-3, atol=1e-3)


def by_hand():
    """Variances 16, 4, 4, 1 of 25: shares .64, .80, .96, 1."""
    deviations = np.diag([4.0, 2.0, 2.0, 1.0])
    return jnp.asarray(np.concatenate([deviations, -deviations]) * np.sqrt(7 / 2), jnp.float32)


@pytest.mark.parametrize(
    ("thresholds", "count"),
    [
        ({"explained": 0.5}, 1),
        ({"explained": 0.65}, 2),
        ({"explained": 0.9}, 3),
        ({"explained": 1.0}, 4),
        ({"eigenvalue": 3.0}, 3),
        ({"eigenvalue": 30.0}, 1),
        ({"eigenvalue": 3.0, "explained": 0.7}, 2),
        ({"components": 2, "explained": 0.99}, 2),
    ],
)
def test_thresholds_by_hand_cut_or_mask(thresholds, count):
    x = by_hand()
    cut = pca(x, **thresholds)
    assert cut.components.shape == (count, 4)
    masked = pca(x, **thresholds, masked=True)
    assert int(masked.rank) == count
    assert masked.components.shape == (thresholds.get("components", 4), 4)
    np.testing.assert_allclose(
        masked.inverse_transform(masked.transform(x)), cut.inverse_transform(cut.transform(x)), atol=1e-5
    )


def test_one_program_serves_every_traced_threshold(compilations):
    @jax.jit
    def error(x, explained):
        fitted = pca(x, explained=explained, masked=True, whiten=True)
        return fitted.rank, jnp.sum((fitted.inverse_transform(fitted.transform(x)) - x) ** 2) / 7

    x = by_hand()
    found = [error(x, jnp.float32(e)) for e in (0.5, 0.65, 0.9)]
    assert [int(rank) for rank, _ in found] == [1, 2, 3]
    np.testing.assert_allclose([e for _, e in found], [9, 5, 1], rtol=1e-4)  # the variances left out
    assert compilations("error") == 1


def test_jit_is_eager_vmap_is_the_loop_and_the_result_is_a_pytree():
    x = jnp.asarray(np.stack([correlated(20, 6), correlated(20, 6)]))
    fit = functools.partial(pca, components=3)
    eager = fit(x[1])
    jitted = jax.jit(fit)(x[1])
    batched = jax.vmap(fit)(x)
    codes = jax.vmap(PCA.transform)(batched, x)
    np.testing.assert_allclose(jitted.components, eager.components, atol=1e-5)
    np.testing.assert_allclose(codes[1], eager.transform(x[1]), atol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(eager.inverse_transform(eager.transform(x)) ** 2))(x[1])
    assert jnp.isfinite(gradient).all()
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)


def test_more_components_than_directions_are_zeros_not_noise():
    x = jnp.asarray(correlated(5, 30))  # four directions once the mean is taken out
    fitted = pca(x, whiten=True)
    assert fitted.components.shape == (5, 30)
    codes = fitted.transform(x)
    assert np.abs(codes).max() < 10
    np.testing.assert_allclose(fitted.inverse_transform(codes), x, atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 30), (40, 11)])
def test_directions_far_below_the_root_of_the_precision_are_told_apart(shape):
    """A Gram matrix alone mixes what lies below 3e-4 of the largest deviation."""
    left, _ = np.linalg.qr(np.c_[np.ones(shape[0]), RNG.normal(size=(shape[0], 11))])
    right, _ = np.linalg.qr(RNG.normal(size=(shape[1], 11)))
    x = ((left[:, 1:] * np.logspace(0, -5, 11)) @ right.T).astype(np.float32)
    fitted = pca(jnp.asarray(x))
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    expected = np.linalg.svd(centred, compute_uv=False)[:11] / np.sqrt(shape[0] - 1)
    np.testing.assert_allclose(np.sqrt(fitted.variances[:11]), expected, rtol=0.05)
    assert int(fitted.rank) == 11  # the twelfth of the wide case is rounding
    inner = fitted.components @ fitted.components.T
    np.testing.assert_allclose(inner, np.diag(np.arange(len(inner)) < 11), atol=1e-5)


def test_scales_whose_squares_are_no_numbers():
    x = correlated(30, 5)
    expected = pca(jnp.asarray(x), standardize=True)
    for unit in (1e25, 1e-25):
        scaled = jnp.asarray(x * np.float32(unit))
        np.testing.assert_allclose(pca(scaled, standardize=True).variances, expected.variances, rtol=1e-4)
        with pytest.raises(ValueError, match=r"pca: float32 cannot hold the variances of x"):
            pca(scaled)
    assert pca(jnp.full((4, 3), 0.1)).total_variance < 1e-15  # constants are no error


@pytest.mark.parametrize("components", [None, 4])
def test_incremental_components_beyond_the_directions_are_zeros(components):
    x = jnp.asarray(RNG.normal(size=(4, 1)) * RNG.normal(size=(1, 6)) + 5, jnp.float32)
    fitted = incremental_pca(6, components=components).update(x).pca(whiten=True)
    assert int(fitted.rank) == 1
    np.testing.assert_allclose(fitted.transform(x)[:, 1:], 0, atol=1e-6)


def test_half_precision_is_computed_in_float32():
    x = jnp.asarray(correlated(40, 5)).astype(jnp.bfloat16)
    fitted = pca(x, components=2)
    assert fitted.components.dtype == jnp.float32
    assert fitted.transform(x).dtype == jnp.float32


def test_lowers_for_every_platform():
    fit = jax.jit(lambda x: pca(x, explained=0.9, masked=True).transform(x))
    jax.export.export(fit, platforms=["cpu", "cuda", "tpu"])(jax.ShapeDtypeStruct((8, 5), jnp.float32))


def test_what_cannot_be_asked_is_named():
    x = jnp.ones((4, 3)).at[0, 0].set(2.0)
    with pytest.raises(ValueError, match=r"x must be \[rows, features\] with 2 rows or more, got the shape \(3,\)"):
        pca(x[0])
    with pytest.raises(ValueError, match=r"components must be an integer from 1 to 3, got 0\.9; .* pass explained="):
        pca(x, components=0.9)
    with pytest.raises(ValueError, match=r"explained must be a fraction in \(0, 1\], got 95"):
        pca(x, explained=95)
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        pca(x.at[1, 1].set(jnp.nan))
    with pytest.raises(TypeError, match="rows of data must be float, got int32"):
        pca(jnp.ones((4, 3), jnp.int32))
    with pytest.raises(TypeError, match="explained must be one number, got"):
        pca(x, explained=jnp.array([0.5, 0.9]))
    with pytest.raises(ValueError, match=r"rows must be \[\.\.\., 3\], as was fitted, got the shape \(2, 4\)"):
        pca(x).transform(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"codes must be \[\.\.\., 2\], as was fitted, got the shape \(3,\)"):
        pca(x, components=2).inverse_transform(jnp.ones(3))
    with pytest.raises(TypeError, match="masked=True"):
        jax.jit(lambda x: pca(x, explained=0.9).components)(x)


def scanned(state, batches):
    return jax.lax.scan(lambda state, x: (state.update(x), None), state, batches)[0]


def test_incremental_is_pca_of_all_rows_however_they_are_split():
    x = digits()[:1600]
    whole = pca(jnp.asarray(x), components=8)
    for size in (20, 800):
        split = scanned(incremental_pca(64), jnp.asarray(x.reshape(-1, size, 64))).pca(components=8)
        np.testing.assert_allclose(split.mean, whole.mean, atol=1e-4)
        np.testing.assert_allclose(split.variances, whole.variances, rtol=2e-5)
        np.testing.assert_allclose(split.components, whole.components, atol=2e-4)
        np.testing.assert_allclose(split.explained, whole.explained, rtol=2e-5)


def test_incremental_agrees_with_scikit_learn_far_from_zero():
    """The mean is 1,000 times the deviations: sums of squares would lose every digit in float32."""
    x = (correlated(96, 10, np.float64) + 1000).astype(np.float32)
    ours = scanned(incremental_pca(10), jnp.asarray(x.reshape(6, 16, 10))).pca(components=4)
    theirs = sklearn.decomposition.IncrementalPCA(10, batch_size=16).fit(x.astype(np.float64))
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_[:4], rtol=1e-3)
    np.testing.assert_allclose(ours.components, theirs.components_[:4], atol=1e-3)


def test_few_components_forget_as_scikit_learn_does():
    x = correlated(96, 16)
    theirs = sklearn.decomposition.IncrementalPCA(4, batch_size=16).fit(x.astype(np.float64))
    ours = scanned(incremental_pca(16, components=4), jnp.asarray(x.reshape(6, 16, 16))).pca()
    exact = pca(jnp.asarray(x), components=4)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(ours.components, theirs.components_, atol=1e-3)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-5)
    assert ours.variances[-1] < exact.variances[-1]


@pytest.mark.parametrize("components", [None, 3])
def test_rows_that_do_not_count_and_states_that_merge(components):
    x = correlated(30, 5)
    padded = jnp.asarray(np.concatenate([x[16:], np.full((2, 5), np.nan, np.float32)]))
    start = incremental_pca(5, components=components)
    update = jax.jit(lambda state, x, rows: state.update(x, rows))
    state = update(update(start, jnp.asarray(x[:16]), jnp.ones(16, bool)), padded, jnp.arange(16) < 14)
    expected = start.update(jnp.asarray(x[:16])).update(jnp.asarray(x[16:])).pca(components=3)
    found = state.pca(components=3)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-5)
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.total_variance, np.trace(np.cov(x.T)), rtol=1e-5)
    if components is None:
        joined = start.update(jnp.asarray(x[:10])).merge(start.update(jnp.asarray(x[10:])))
        np.testing.assert_allclose(joined.pca().variances, pca(jnp.asarray(x)).variances, rtol=1e-4, atol=2e-7)
        standardised = joined.pca(standardize=True, eigenvalue=1.0)
        np.testing.assert_allclose(
            standardised.variances, pca(jnp.asarray(x), standardize=True, eigenvalue=1.0).variances, rtol=1e-4
        )


def test_incremental_names_what_it_cannot_do():
    with pytest.raises(ValueError, match="has seen 1 rows, two are needed"):
        incremental_pca(3).update(jnp.ones((1, 3))).pca()
    with pytest.raises(ValueError, match=r"a batch must be \[rows, 3\], got the shape \(2, 4\)"):
        incremental_pca(3).update(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="rows must be bool of shape"):
        incremental_pca(3).update(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(ValueError, match="components must be an integer from 1 to 3, got 4"):
        incremental_pca(3, components=4)
    with pytest.raises(ValueError, match=r"features must be an integer of 1 or more, got 2\.5"):
        incremental_pca(2.5)
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got int32"):
        incremental_pca(3, dtype="int32")
    with pytest.raises(ValueError, match="the batches held NaN or infinity"):
        incremental_pca(3).update(jnp.full((2, 3), jnp.nan)).pca()


@pytest.mark.slow
def test_mnist_agrees_with_scikit_learn(data_folder):
    images = np.load(data_folder / "mnist.npz")["x_train"][:6000].reshape(6000, 784).astype(np.float32) / 255
    theirs = sklearn.decomposition.PCA(30, svd_solver="full").fit(images.astype(np.float64))
    ours = pca(jnp.asarray(images), components=30)
    split = scanned(incremental_pca(784), jnp.asarray(images.reshape(12, 500, 784))).pca(components=30)
    for fitted in (ours, split):
        np.testing.assert_allclose(fitted.variances, theirs.explained_variance_, rtol=1e-4)
        np.testing.assert_allclose(jnp.abs(jnp.sum(fitted.components * theirs.components_, axis=1)), 1, atol=1e-3)
        error = np.mean((fitted.inverse_transform(fitted.transform(jnp.asarray(images))) - images) ** 2)
        np.testing.assert_allclose(error, theirs.noise_variance_ * (784 - 30) / 784 * 5999 / 6000, rtol=1e-3)
