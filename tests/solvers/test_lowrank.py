import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxcompress.solvers.lowrank import break_even_rank, masked_svd, rank_for_energy, truncated_svd

RNG = np.random.default_rng(0)
solve = jax.jit(truncated_svd, static_argnames=("rank", "method", "power_iterations"))


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


def decaying(m, n, decay):
    u, v = (np.linalg.qr(RNG.normal(size=(k, n)))[0] for k in (m, n))
    return (u * decay ** np.arange(n)) @ v.T


@pytest.mark.parametrize("shape", [(80, 60), (60, 80)])
def test_randomized_nears_the_optimum_as_power_iterations_are_added(shape):
    w = decaying(80, 60, 0.95)
    w = w if shape == w.shape else w.T
    least = np.sqrt(np.sum(np.linalg.svd(w, compute_uv=False)[6:] ** 2))
    excess = []
    for power in (0, 2, 6):
        found = solve(
            jnp.asarray(w, jnp.float32), rank=6, method="randomized", key=jax.random.key(1), power_iterations=power
        )
        np.testing.assert_allclose(found.u.T @ found.u, np.eye(6), atol=1e-4)
        error = np.linalg.norm(w - np.asarray((found.u * found.s[None]) @ found.vt, np.float64))
        excess.append(error / least - 1)
    assert excess[0] > 3 * excess[1] > 9 * excess[2] >= 0
    assert excess[2] < 1e-3
    # the bound of the mean error without power iterations: Halko et al., theorem 10.5, k = 6 and p = 10
    assert excess[0] + 1 < np.sqrt(1 + 6 / 9)


def test_randomized_is_exact_where_the_sketch_spans_the_range_and_a_function_of_its_key():
    w = jnp.asarray(RNG.normal(size=(2, 20, 3)) @ RNG.normal(size=(2, 3, 12)), jnp.float32)
    one, same, other = (solve(w, rank=3, method="randomized", key=jax.random.key(i)) for i in (0, 0, 1))
    for found in (one, other):
        np.testing.assert_allclose((found.u * found.s[..., None, :]) @ found.vt, w, atol=1e-4)
    assert (one.u == same.u).all()
    assert (one.u != other.u).any()


def test_float64_finds_what_float32_squares_lose():
    w = jnp.asarray(decaying(80, 60, 0.7), jnp.float32)  # float32 data: the optimum is that of the rounded matrix
    theirs = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    least = np.sqrt(np.sum(theirs[35:] ** 2))  # 4e-6 of the largest value; the Gram matrix resolves 3e-4 in float32
    errors = {}
    for accumulate in (None, "float64"):
        u, s, vt = truncated_svd(w, rank=35, accumulate=accumulate)
        assert (u.dtype, s.dtype) == (jnp.float32, jnp.float32)
        product = (np.asarray(u, np.float64) * np.asarray(s, np.float64)) @ np.asarray(vt, np.float64)
        errors[accumulate] = np.linalg.norm(np.asarray(w, np.float64) - product)
    assert errors["float64"] < 1.01 * least  # what rounding the triples to float32 adds
    assert errors[None] > 1.5 * errors["float64"]
    assert not jax.config.read("jax_enable_x64")
    with pytest.raises(TypeError, match="needs jax_enable_x64"):
        jax.jit(lambda w: truncated_svd(w, rank=2, accumulate="float64"))(w)


def test_float64_under_jit_where_jax_allows_it():
    w = decaying(30, 20, 0.5)
    with jax.enable_x64(True):
        found = jax.jit(lambda w: truncated_svd(w, rank=12).s)(jnp.asarray(w))
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, np.linalg.svd(w, compute_uv=False)[:12], rtol=1e-7)


def test_a_population_over_ranks_is_one_program(compilations):
    w = jnp.asarray(RNG.normal(size=(9, 7)), jnp.float32)

    @jax.jit
    def errors(w, ranks):
        def error(rank):
            u, s, vt = masked_svd(w, rank)
            return jnp.linalg.norm(w - (u * s[None]) @ vt)

        return jax.vmap(error)(ranks)

    expected = [np.sqrt(np.sum(np.linalg.svd(np.asarray(w), compute_uv=False)[rank:] ** 2)) for rank in range(8)]
    np.testing.assert_allclose(errors(w, jnp.arange(8)), expected, atol=1e-5)
    before = compilations("errors")
    np.testing.assert_allclose(errors(w, jnp.flip(jnp.arange(8))), expected[::-1], atol=1e-5)
    assert compilations("errors") == before
    per_layer = masked_svd(jnp.stack([w, w]), jnp.array([1, 3]))
    assert (per_layer.s > 0).sum(axis=-1).tolist() == [1, 3]


@pytest.mark.parametrize("method", ["gram", "randomized"])
def test_programs_lower_for_every_platform(method):
    run = jax.jit(lambda w: truncated_svd(w, rank=8, method=method, key=jax.random.key(0)))
    shape = jax.ShapeDtypeStruct((300, 260), jnp.float32)  # of a size at which few vectors are iterated for
    assert set(export.export(run, platforms=["cpu", "cuda", "tpu"])(shape).platforms) == {"cpu", "cuda", "tpu"}


def test_what_the_options_need_is_named():
    w = jnp.ones((6, 4))
    with pytest.raises(ValueError, match="needs key="):
        truncated_svd(w, rank=1, method="randomized")
    with pytest.raises(ValueError, match="must be 0 or more, got -1 and 2"):
        truncated_svd(w, rank=1, method="randomized", key=jax.random.key(0), oversample=-1)
    with pytest.raises(ValueError, match="accumulate must be None or 'float64', got 'float32'"):
        truncated_svd(w, rank=1, accumulate="float32")
    with pytest.raises(ValueError, match="a masked rank needs all triples"):
        masked_svd(w, 1, method="randomized")
