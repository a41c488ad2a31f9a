import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.lowrank import break_even_rank, rank_for_energy, truncated_svd

RNG = np.random.default_rng(0)
solve = jax.jit(truncated_svd, static_argnames=("rank", "method"))


@pytest.mark.parametrize("method", ["gram", "full"])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (2, 6, 6)])
def test_triples_are_those_of_numpy_in_float64(method, shape):
    w = RNG.normal(size=shape)
    u, s, vt = solve(jnp.asarray(w, jnp.float32), rank=3, method=method)
    theirs = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(s, theirs[..., :3], rtol=1e-4)  # gram squares the condition number of about 10
    eye = np.broadcast_to(np.eye(3), (*shape[:-2], 3, 3))
    np.testing.assert_allclose(u.mT @ u, eye, atol=1e-4)
    np.testing.assert_allclose(vt @ vt.mT, eye, atol=1e-4)
    error = np.linalg.norm(w - np.asarray((u * s[..., None, :]) @ vt, np.float64), axis=(-2, -1))
    np.testing.assert_allclose(error, np.sqrt(np.sum(theirs[..., 3:] ** 2, -1)), rtol=1e-4)


def test_gram_exceeds_the_least_error_little_on_a_spectrum_over_six_decades():
    q, _ = np.linalg.qr(RNG.normal(size=(40, 40)))
    p, _ = np.linalg.qr(RNG.normal(size=(40, 40)))
    s = np.logspace(0, -6, 40)
    w = (q * s) @ p
    for rank in (2, 8, 16):
        u, sigma, vt = solve(jnp.asarray(w, jnp.float32), rank=rank)
        error = np.linalg.norm(w - np.asarray((u * sigma[None]) @ vt, np.float64))
        least = np.sqrt(np.sum(s[rank:] ** 2))
        assert error - least < 3e-4  # the square root of the precision, relative to the largest singular value 1


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_zero_tiny_and_huge_matrices_stay_finite(scale):
    w = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32) * jnp.float32(scale)
    u, s, vt = solve(w, rank=2)
    assert all(np.isfinite(part).all() for part in (u, s, vt))
    expected = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)[:2]
    np.testing.assert_allclose(s, expected, rtol=1e-4, atol=0)


def test_vmap_is_the_loop():
    w = jnp.asarray(RNG.normal(size=(3, 6, 4)), jnp.float32)
    u, s, vt = jax.vmap(lambda w: solve(w, rank=2))(w)
    for i in range(3):
        alone = solve(w[i], rank=2)
        np.testing.assert_allclose(s[i], alone.s, rtol=1e-5)
        np.testing.assert_allclose((u[i] * s[i][None]) @ vt[i], (alone.u * alone.s[None]) @ alone.vt, atol=1e-5)


def test_rank_for_energy_by_hand():
    s = jnp.array([[3.0, 2.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # 9/14 = 0.643, 13/14 = 0.929
    assert rank_for_energy(s, 0.64).tolist() == [1, 1, 1]
    assert rank_for_energy(s, 0.65).tolist() == [2, 1, 1]
    assert rank_for_energy(s, 0.95).tolist() == [3, 1, 1]


def test_what_cannot_be_asked_is_named():
    assert break_even_rank(300, 100) == 75
    with pytest.raises(ValueError, match=r"rank must be from 1 to 4 for matrices of shape \(6, 4\), got 5"):
        truncated_svd(jnp.ones((6, 4)), rank=5)
    with pytest.raises(ValueError, match="method must be 'gram', 'full' or 'randomized', got 'lanczos'"):
        truncated_svd(jnp.ones((6, 4)), rank=1, method="lanczos")
