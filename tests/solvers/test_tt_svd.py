import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
from tensorly.decomposition import tensor_train

from jaxcompress.solvers.tt_svd import feasible_ranks, tt_dense, tt_ranks, tt_svd

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def of_tensorly(w, ranks):
    found = tensor_train(np.asarray(w, np.float64), rank=[1, *ranks, 1])
    return np.linalg.norm(tensorly.tt_to_tensor(found) - np.asarray(w)) / np.linalg.norm(w)


@pytest.mark.parametrize(("shape", "ranks"), [((6, 5, 4), (3, 2)), ((4, 5, 6, 3), (3, 5, 2))])
def test_errors_are_those_of_tensorly(shape, ranks):
    w = normal(*shape)
    cores = tt_svd(w, rank=ranks)
    ends = (1, *ranks, 1)
    assert [core.shape for core in cores] == [(ends[i], n, ends[i + 1]) for i, n in enumerate(shape)]
    # The same projections, ours from eigenvectors in float32.
    np.testing.assert_allclose(relative(tt_dense(cores), w), of_tensorly(w, ranks), rtol=1e-4)
    sizes = [float(jnp.sqrt(jnp.mean(core**2))) for core in cores]
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-4)


@pytest.mark.slow
def test_error_is_that_of_tensorly_on_images(data_folder):
    with np.load(data_folder / "mnist.npz") as stored:
        w = jnp.asarray(stored["x_train"][:64], jnp.float32) / 255
    cores = tt_svd(w, rank=(20, 12))
    np.testing.assert_allclose(relative(tt_dense(cores), w), of_tensorly(w, (20, 12)), rtol=1e-3)


@pytest.mark.slow
def test_ranks_of_an_error_keep_within_it_and_are_no_larger_than_needed():
    decaying = normal(3, 6, 8, 5) * jnp.exp(-jnp.arange(8.0))[None, None, :, None]
    for error in (0.3, 0.03):
        ranks = tt_ranks(decaying, error)
        dense = jax.vmap(lambda w, ranks=ranks: tt_dense(tt_svd(w, rank=ranks)))(decaying)
        errors = [relative(a, b) for a, b in zip(dense, decaying, strict=True)]
        assert max(errors) <= error
    # An exact train is found exactly: sums of two products have ranks of two.
    exact = tt_dense([normal(1, 6, 2), normal(2, 5, 2), normal(2, 4, 1)])
    assert tt_ranks(exact[None], 1e-3) == (2, 2)
    assert relative(tt_dense(tt_svd(exact, rank=2)), exact) < 1e-3


@pytest.mark.slow
def test_full_ranks_are_exact_and_many_are_each_alone():
    ws = normal(3, 4, 3, 5)
    cores = jax.jit(jax.vmap(lambda w: tt_svd(w, rank=99)))(ws)
    for i, w in enumerate(ws):
        assert relative(tt_dense([core[i] for core in cores]), w) < 1e-3  # squared singular values of float32
    assert bool(jnp.isfinite(jnp.stack([jnp.abs(c).max() for c in tt_svd(jnp.zeros((3, 3, 3)), rank=2)])).all())


def test_what_is_wrong_is_named():
    assert feasible_ranks((2, 3, 40, 5), 100) == (2, 6, 5)
    with pytest.raises(ValueError, match="2 positive integers for 3 axes, got \\(3,\\)"):
        feasible_ranks((4, 4, 4), (3,))
    with pytest.raises(ValueError, match="two axes or more"):
        feasible_ranks((4,), 1)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda w: tt_ranks(w, 0.1))(jnp.ones((1, 2, 2)))


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units_whose_squares_are_no_numbers(unit):
    w = np.random.default_rng(3).normal(size=(4, 3, 5)).astype(np.float32)
    scaled = jnp.asarray(w * np.float32(unit))
    found = tt_dense(tt_svd(scaled, rank=2))
    np.testing.assert_allclose(found / np.float32(unit), tt_dense(tt_svd(jnp.asarray(w), rank=2)), atol=1e-4)
    assert tt_ranks(scaled[None], 0.3) == tt_ranks(jnp.asarray(w)[None], 0.3)


def test_a_rank_that_is_no_integer_is_named():
    with pytest.raises(ValueError, match=r"rank must be positive, or 2 positive integers for 3 axes, got 2\.5"):
        feasible_ranks((4, 3, 5), 2.5)  # pyright: ignore[reportArgumentType]
