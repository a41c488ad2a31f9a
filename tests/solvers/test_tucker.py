import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorly
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from tensorly.decomposition import partial_tucker, tucker

from jaxcompress.solvers.contraction import cheapest_order, contract
from jaxcompress.solvers.tucker import mode_spectra, tucker_factors

RNG = np.random.default_rng(0)


def decaying(*shape):
    """Random, with singular values that fall along every mode."""
    w = RNG.normal(size=shape)
    for axis, size in enumerate(shape):
        w = w * np.expand_dims(0.8 ** np.arange(size), [i for i in range(len(shape)) if i != axis])
    for axis, size in enumerate(shape):
        turn = np.linalg.qr(RNG.normal(size=(size, size)))[0]
        w = np.moveaxis(np.tensordot(turn, w, (1, axis)), 0, axis)
    return np.asarray(w, np.float32)


def rebuilt(core, factors, modes):
    out = np.asarray(core, np.float64)
    for factor, mode in zip(factors, modes, strict=True):
        out = np.moveaxis(np.tensordot(np.asarray(factor, np.float64), out, (1, mode)), 0, mode)
    return out


def error(w, found, modes):
    return np.linalg.norm(rebuilt(*found, modes) - w) / np.linalg.norm(w)


CASES = {
    "tucker-2": ((3, 3, 16, 12), (2, 3), (6, 5)),
    "all of three": ((7, 8, 9), (0, 1, 2), (3, 4, 2)),
    "matrix": ((12, 9), (0, 1), (4, 4)),
    "one mode": ((5, 6, 7), (1,), (3,)),
    "few of many": ((3, 260, 10), (1, 2), (6, 5)),  # directions by subspace iteration
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sweeps", [0, 4])
def test_errors_are_those_of_tensorly(case, sweeps):
    shape, modes, ranks = CASES[case]
    w = decaying(*shape)
    found = jax.jit(lambda w: tucker_factors(w, ranks=ranks, modes=modes, sweeps=sweeps))(w)
    # HOSVD: tensorly's starting point, whose core it does not give; n_iter_max=0 returns it.
    theirs, _ = partial_tucker(w.astype(np.float64), rank=list(ranks), modes=list(modes), n_iter_max=sweeps, tol=0)
    ours, peer = error(w, found, modes), error(w, theirs, modes)
    assert ours <= peer * (1 + 1e-5)  # Gram matrices in float32 against singular vectors in float64
    assert ours >= peer * (1 - 1e-5)
    for factor, rank in zip(found.factors, ranks, strict=True):
        np.testing.assert_allclose(factor.T @ factor, np.eye(rank), atol=1e-5)
    np.testing.assert_allclose(error(w, found, modes) ** 2, 1 - np.sum(np.square(found.core)) / np.sum(w**2), atol=1e-5)


def test_full_tucker_of_trained_weights():
    """The first layer of scikit-learn's network on its digits, (8, 8, 24): tensorly's error, and sweeps that help."""
    images, labels = load_digits(return_X_y=True)
    network = MLPClassifier((24,), max_iter=60, tol=0.02, n_iter_no_change=5, random_state=0).fit(images / 16, labels)
    w, ranks = np.asarray(network.coefs_[0].reshape(8, 8, 24), np.float32), (4, 4, 10)
    theirs = tucker(w.astype(np.float64), rank=list(ranks), n_iter_max=8, tol=0)
    errors = [error(w, tucker_factors(w, ranks=ranks, sweeps=sweeps), range(3)) for sweeps in (0, 1, 8)]
    assert errors[0] > errors[1] >= errors[2]
    np.testing.assert_allclose(errors[2], error(w, theirs, range(3)), rtol=1e-4)


def test_batches_scales_and_ranks_that_are_traced(compilations):
    w = np.stack([decaying(4, 6, 5), 1e25 * decaying(4, 6, 5), np.zeros((4, 6, 5), np.float32)])
    run = jax.jit(jax.vmap(lambda w, live: tucker_factors(w, ranks=(4, 5), modes=(0, 2), sweeps=2, live=live)))
    live, turned = jnp.array([[2, 3], [3, 2], [4, 5]]), jnp.array([[4, 5], [3, 2], [2, 3]])
    found = run(w, live)
    before = compilations()
    again = run(w, turned)
    assert compilations() == before
    for i, (a, b) in enumerate([(2, 3), (3, 2)]):
        alone = tucker_factors(w[i], ranks=(a, b), modes=(0, 2), sweeps=2)
        np.testing.assert_array_equal(found.factors[0][i, :, a:], 0)
        np.testing.assert_allclose(
            rebuilt(found.core[i], [factor[i] for factor in found.factors], (0, 2)) / np.abs(w[i]).max(),
            rebuilt(alone.core, alone.factors, (0, 2)) / np.abs(w[i]).max(),
            atol=1e-5,
        )
    assert all(np.isfinite(array).all() for array in jax.tree.leaves((found, again)))
    np.testing.assert_allclose(
        rebuilt(again.core[0], [factor[0] for factor in again.factors], (0, 2)), w[0], atol=1e-5
    )  # whole ranks keep everything


def test_spectra_are_the_singular_values_of_the_unfoldings():
    w = decaying(4, 6, 5)
    for mode, s in enumerate(mode_spectra(w)):
        expected = np.linalg.svd(tensorly.unfold(w.astype(np.float64), mode), compute_uv=False)
        np.testing.assert_allclose(s, expected, atol=1e-3 * expected[0])  # squares in float32: half of the digits


def test_what_is_out_of_range_is_named():
    w = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"ascending axes of an array of shape \(3, 4\), got \(1, 0\)"):
        tucker_factors(w, ranks=(1, 1), modes=(1, 0))
    with pytest.raises(ValueError, match=r"from 1 to 3 along axis 0 of \(3, 4\), got 4"):
        tucker_factors(w, ranks=(4, 1))
    with pytest.raises(ValueError, match="one for each of the modes"):
        tucker_factors(w, ranks=(1,))


def test_contraction_order_is_the_cheapest_of_all():
    """A chain of matrices: the textbook's dynamic program, and what NumPy finds when told to look for the optimum."""
    sizes = {0: 30, 1: 35, 2: 15, 3: 5, 4: 10, 5: 20, 6: 25}
    names = tuple((i, i + 1) for i in range(6))
    assert cheapest_order(names, (0, 6), sizes)[1] == 15_125  # Cormen et al., chapter 15.2
    arrays = [RNG.normal(size=(sizes[a], sizes[b])) for a, b in names]
    out = contract([jnp.asarray(a, jnp.float32) for a in arrays], names, (0, 6))
    expected = np.linalg.multi_dot(arrays)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())
    # An axis in step (0), one that three operands share (1), and a result in another order.
    a, b, c = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 5), (4, 5, 6), (5, 7)))
    np.testing.assert_allclose(
        contract([a, b, c], [(0, 1), (0, 1, 2), (1, 3)], (3, 0, 2)),
        np.einsum("ab,abc,bd->dac", a, b, c),
        rtol=1e-4,
        atol=1e-4,
    )
