import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
from tensorly.decomposition import parafac

from jaxcompress.solvers.cp_als import cp_als, cp_dense, sensitivity

RNG = np.random.default_rng(0)


def noisy(shape, rank, noise):
    """A sum of ``rank`` products and noise of that part of its spread."""
    names = "abcde"[: len(shape)]
    factors = [RNG.normal(size=(n, rank)) for n in shape]
    w = np.einsum(",".join(f"{name}r" for name in names) + "->" + names, *factors)
    return (w + noise * w.std() * RNG.normal(size=shape)).astype(np.float32)


def of_tensorly(w, rank):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mode smaller than the rank has fewer singular vectors
        found = parafac(w.astype(np.float64), rank=rank, n_iter_max=200, tol=1e-8, init="svd", random_state=0)
    return np.linalg.norm(tensorly.cp_to_tensor(found) - w) / np.linalg.norm(w)


@pytest.mark.parametrize(
    ("shape", "rank", "noise"), [((12, 10, 8), 4, 0.1), ((3, 3, 10, 8), 5, 0.1), ((3, 4, 3, 4, 3), 2, 0.3)]
)
def test_errors_are_those_of_tensorly_on_random_tensors(shape, rank, noise):
    w = noisy(shape, rank, noise)
    found = cp_als(jnp.asarray(w), rank=rank, key=jax.random.key(0))
    assert [factor.shape for factor in found.factors] == [(n, rank) for n in shape]
    dense = np.linalg.norm(np.asarray(cp_dense(found.factors)) - w) / np.linalg.norm(w)
    np.testing.assert_allclose(found.error, dense, rtol=1e-4)
    # Both stop close to one minimum, ours where a round gains 1e-6: within a thousandth of the error.
    np.testing.assert_allclose(found.error, of_tensorly(w, rank), rtol=1e-3)
    spreads = jnp.stack([jnp.sqrt(jnp.mean(factor**2, axis=0)) for factor in found.factors])
    np.testing.assert_allclose(spreads, jnp.broadcast_to(spreads[:1], spreads.shape), rtol=1e-3)


def test_error_is_that_of_tensorly_on_images(data_folder):
    """A tensor of images has no low rank, and a round gains little for long: ours must not end 1 % worse."""
    with np.load(data_folder / "mnist.npz") as stored:
        w = stored["x_train"][:30, ::2, ::2].astype(np.float32) / 255
    ours = cp_als(jnp.asarray(w), rank=6, key=jax.random.key(0)).error
    assert float(ours) <= 1.01 * of_tensorly(w, 6)


@pytest.mark.slow
def test_many_at_once_are_each_alone_and_compile_once(compilations):
    ws = jnp.stack([jnp.asarray(noisy((6, 5, 4), 2, 0.2)) for _ in range(3)])
    keys = jax.random.split(jax.random.key(1), 3)
    run = jax.jit(jax.vmap(lambda w, key: cp_als(w, rank=2, key=key, starts=2)))
    found = run(ws, keys)
    alone = [cp_als(w, rank=2, key=key, starts=2, tolerance=1e-6) for w, key in zip(ws, keys, strict=True)]
    # The loops stop apart by a round at most: a gain of 1e-6.
    np.testing.assert_allclose(found.error, jnp.stack([one.error for one in alone]), atol=1e-5)
    run(ws + 1, keys)
    cp_als(ws[0], rank=2, key=keys[0], starts=2, tolerance=1e-5)
    assert compilations("cp_als") == compilations("<lambda>") == 1


@pytest.mark.slow
def test_terms_that_cancel_are_tamed():
    """``a a b + a b a + b a a`` has no best sum of two: the fit gets better for ever as its two terms grow."""
    a, b = np.eye(4, 2).T
    w = jnp.asarray(sum(np.einsum("i,j,k->ijk", *v) for v in ((a, a, b), (a, b, a), (b, a, a))), jnp.float32)
    settings = dict(rank=2, key=jax.random.key(0), starts=4, iterations=300, tolerance=0.0)
    plain, stable = cp_als(w, **settings), cp_als(w, **settings, stable=True, slack=3.0)
    assert float(plain.error) < 0.03
    assert float(stable.error) <= 4 * float(plain.error) * 1.002
    assert float(sensitivity(stable.factors)) < 0.6 * float(sensitivity(plain.factors))
    # What it is for: noise in the factors does less harm.
    noise = [0.05 * jax.random.normal(jax.random.key(i), (64, 4, 2)) for i in range(3)]

    def change(factors):
        moved = lambda *n: cp_dense([x + y for x, y in zip(factors, n, strict=True)]) - w  # noqa: E731
        return jnp.mean(jax.vmap(moved)(*noise) ** 2)

    harm = [change(found.factors) for found in (stable, plain)]
    assert float(harm[0]) < 0.8 * float(harm[1])


@pytest.mark.slow
def test_the_correction_keeps_the_bound_and_lowers_the_sensitivity():
    w = jnp.asarray(RNG.normal(size=(9, 16, 12)), jnp.float32)
    plain = cp_als(w, rank=8, key=jax.random.key(0))
    stable = cp_als(w, rank=8, key=jax.random.key(0), stable=True, slack=0.02)
    assert float(stable.error) <= 1.02 * float(plain.error) * 1.002
    assert float(sensitivity(stable.factors)) < float(sensitivity(plain.factors))


def test_sensitivity_is_the_derivative_of_the_expected_error():
    """Noise of variance s in one factor alone moves the sum by s * size * sum_r prod of the others' squared norms."""
    factors = [jnp.asarray(RNG.normal(size=(n, 2)), jnp.float32) for n in (3, 4, 5)]
    squares = [np.sum(np.asarray(f, np.float64) ** 2, axis=0) for f in factors]
    by_hand = 3 * (squares[1] @ squares[2]) + 4 * (squares[0] @ squares[2]) + 5 * (squares[0] @ squares[1])
    np.testing.assert_allclose(sensitivity(factors), by_hand, rtol=1e-5)
    jacobians = jax.jacobian(lambda f: cp_dense(f))(factors)  # the trace of J^T J is that expectation
    np.testing.assert_allclose(by_hand, sum(float(jnp.sum(j**2)) for j in jacobians), rtol=1e-5)


@pytest.mark.slow
def test_zeros_scales_and_what_is_wrong():
    flat = cp_als(jnp.zeros((3, 4, 2)), rank=2, key=jax.random.key(0), stable=True)
    assert all(bool(jnp.isfinite(factor).all()) for factor in flat.factors)
    assert float(jnp.abs(cp_dense(flat.factors)).max()) == 0
    tiny = cp_als(jnp.asarray(1e-25 * noisy((6, 5, 4), 2, 0.0)), rank=2, key=jax.random.key(0))
    assert float(tiny.error) < 0.05
    with pytest.raises(ValueError, match="rank must be a positive integer, got 0"):
        cp_als(jnp.ones((2, 2)), rank=0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="two axes or more"):
        cp_als(jnp.ones(3), rank=1, key=jax.random.key(0))
