"""The analytic solution against the article's formulas in NumPy float64, and on matrices of known rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxcompress.solvers.evbmf import evbmf, evbmf_rank

RNG = np.random.default_rng(0)
solve = jax.jit(evbmf, static_argnames="shape")


def tau(x, alpha):
    return 0.5 * (x - (1 + alpha) + np.sqrt((x - (1 + alpha)) ** 2 - 4 * alpha))


def article(s, shape):
    """Rank, shrunk values and noise: theorems 2 to 4 of Nakajima et al., 2013, by scipy."""
    small, large = min(shape), max(shape)
    alpha = small / large
    phi = lambda z: np.log(z + 1) / z - 0.5  # noqa: E731
    root = scipy.optimize.brentq(lambda t: phi(t) + phi(t / alpha), 1e-6, 1e3)
    least = (1 + root) * (1 + alpha / root)

    def free_energy(sigma2):
        x = s**2 / (large * sigma2)
        noise, signal = x[x <= least], x[x > least]
        t = tau(signal, alpha)
        both = np.sum(noise - np.log(noise))
        return both + np.sum(signal - np.log(signal) + np.log(t + 1) + alpha * np.log(t / alpha + 1) - t)

    most = int(np.ceil(small / (1 + alpha))) - 1
    lower = max(s[most] ** 2 / (large * least), np.mean(s[most:] ** 2) / large)
    upper = np.sum(s**2) / (small * large)
    ladder = np.geomspace(lower, upper, 2000)
    at = int(np.argmin([free_energy(sigma2) for sigma2 in ladder]))
    ends = ladder[max(at - 1, 0)], ladder[min(at + 1, len(ladder) - 1)]
    sigma2 = scipy.optimize.minimize_scalar(free_energy, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    kept = s[s**2 > large * sigma2 * least]
    ratio = (small + large) * sigma2 / kept**2
    shrunk = kept / 2 * (1 - ratio + np.sqrt((1 - ratio) ** 2 - 4 * small * large * sigma2**2 / kept**4))
    return len(kept), shrunk, sigma2


def noisy(m, n, rank, noise):
    return RNG.normal(size=(m, rank)) @ RNG.normal(size=(rank, n)) + noise * RNG.normal(size=(m, n))


@pytest.mark.parametrize("noise", [0.1, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (40, 40)])
def test_it_is_the_article(shape, noise):
    s = np.linalg.svd(noisy(*shape, 6, noise), compute_uv=False)
    rank, shrunk, sigma2 = article(s, shape)
    found = solve(jnp.asarray(s, jnp.float32), shape)
    assert int(found.rank) == rank
    np.testing.assert_allclose(found.sigma2, sigma2, rtol=1e-5)
    np.testing.assert_allclose(found.s[:rank], shrunk, rtol=1e-5)
    assert not found.s[rank:].any()


def test_it_recovers_rank_and_noise_and_shrinks_towards_the_truth():
    clean = RNG.normal(size=(100, 10)) @ RNG.normal(size=(10, 160))
    w = clean + 3 * RNG.normal(size=clean.shape)
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    found = solve(jnp.asarray(s, jnp.float32), (100, 160))
    assert int(found.rank) == 10
    np.testing.assert_allclose(found.sigma2, 9, rtol=0.03)
    error = lambda values: np.linalg.norm((u[:, :10] * values) @ vt[:10] - clean)  # noqa: E731
    assert error(np.asarray(found.s[:10])) < 0.95 * error(s[:10]), "shrunk values are nearer than those of the data"


def test_noise_alone_has_rank_zero_and_a_known_variance_is_taken():
    s = jnp.asarray(np.linalg.svd(RNG.normal(size=(50, 70)), compute_uv=False), jnp.float32)
    assert int(evbmf_rank(s, (50, 70))) == 0
    assert int(evbmf_rank(s, (50, 70), sigma2=1.0)) == 0
    assert int(evbmf_rank(s, (50, 70), sigma2=1e-4)) == 50, "with so little noise everything is signal"


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_batches_scales_exact_ranks_and_zeros(scale):
    exact, mixed = noisy(30, 20, 4, 0), noisy(30, 20, 4, 0.5)
    s = np.linalg.svd(np.stack([exact, mixed, np.zeros((30, 20))]), compute_uv=False)
    found = solve(jnp.asarray(s * scale, jnp.float32), (30, 20))
    assert found.rank.tolist() == [4, 4, 0]
    assert np.isfinite(np.asarray(found.s)).all()


def test_a_part_of_the_values_is_refused():
    with pytest.raises(ValueError, match=r"a matrix of shape \(30, 20\) has 20 singular values, got 5"):
        evbmf_rank(jnp.ones(5), (30, 20))
