import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import SVD, LowRank, masked_factors, svd, svd_factors
from jaxcompress.prune import Masked
from jaxcompress.quantize import rtn

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def best(w, rank):
    """The optimum, from NumPy in float64."""
    u, s, vt = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]


@pytest.mark.parametrize("method", ["gram", "full"])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 10, 10)])
def test_factors_are_the_best_of_their_rank_and_balanced(method, shape):
    w = normal(*shape)
    u, v = svd_factors(w, rank=3, method=method)
    # Singular vectors lose a few digits where singular values lie close: 1e-4 of entries of size 1.
    np.testing.assert_allclose(u @ v, best(w, 3), atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(u, axis=-2), jnp.linalg.norm(v, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(lambda w: svd_factors(w, rank=3, method=method)[0])(w) @ v, u @ v, atol=1e-5)


def model(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jnp.einsum("bhwc,cnd->bhwnd", x, params["heads"])
    x = jnp.einsum("bhwnd,ndo->bhwo", x, params["out"])
    return jax.lax.scan(lambda x, w: (x @ w.T, None), x, params["layers"])[0]


def params_of_model():
    return {
        "conv": normal(3, 3, 4, 12),
        "heads": normal(12, 2, 4),
        "out": normal(2, 4, 6),
        "layers": normal(3, 6, 6),
    }


def test_sites_split_kernels_into_rows_and_columns():
    params, x = params_of_model(), normal(1, 4, 4, 4)
    sites = jc.sites(model, params, x)
    thin = svd(params, rank=2, sites=sites)
    shapes = {name: (leaf.u.shape, leaf.v.shape) for name, leaf in thin.items()}
    assert shapes == {
        "conv": ((3, 3, 4, 2), (2, 12)),
        "heads": ((12, 2), (2, 2, 4)),
        "out": ((2, 4, 2), (2, 6)),
        "layers": ((3, 6, 2), (3, 2, 6)),
    }
    np.testing.assert_allclose(
        thin["conv"].materialize(), best(params["conv"].reshape(36, 12), 2).reshape(3, 3, 4, 12), atol=1e-4
    )
    np.testing.assert_allclose(thin["layers"].materialize(), best(params["layers"], 2), atol=1e-4)
    dense = model(jc.materialize(thin), x)
    np.testing.assert_allclose(jc.lift(model)(thin, x), dense, atol=1e-4 * np.abs(dense).max())


def test_energy_takes_the_least_rank_that_holds_it():
    u, _ = np.linalg.qr(RNG.normal(size=(10, 10)))
    v, _ = np.linalg.qr(RNG.normal(size=(10, 10)))
    s = np.array([4.0, 2.0, 1.0, 0.5, *[1e-3] * 6])  # squares 16, 4, 1, 1/4 of 21.25: 75.3, 94.1, 98.8, 100 %
    w = jnp.asarray((u * s) @ v, jnp.float32)
    assert [svd({"w": w}, rank=energy)["w"].rank for energy in (0.7, 0.9, 0.95, 0.99)] == [1, 2, 3, 4]
    both = svd({"a": w, "b": jnp.outer(w[0], w[1])}, rank=0.9)
    assert (both["a"].rank, both["b"].rank) == (2, 1)


def test_masked_values_are_factorized_and_factors_quantized():
    mask = jnp.asarray(RNG.random((10, 10)) < 0.5)
    thin = svd({"w": Masked.create(normal(10, 10), mask)}, rank=2)["w"]
    assert isinstance(thin.values, LowRank)
    np.testing.assert_array_equal(np.asarray(thin.materialize())[~np.asarray(mask)], 0)
    packed = rtn(svd({"w": normal(10, 10)}, rank=3), bits=8)["w"]
    assert (packed.kind, packed.u.kind, packed.v.kind) == ("lowrank", "quantized", "quantized")
    assert packed.stored_bits == 8 * 60 + 32 * (3 + 10)


def test_jit_is_eager_dict_of_ranks_and_the_stage():
    params = {"a": normal(9, 9), "b": normal(9, 9), "c": normal(9, 9)}
    eager = svd(params, rank={"a": 2, "b": 3})
    traced = jax.jit(lambda p: svd(p, rank={"a": 2, "b": 3}))(params)
    assert (eager["a"].rank, eager["b"].rank, eager["c"] is params["c"]) == (2, 3, True)
    np.testing.assert_allclose(traced["b"].materialize(), eager["b"].materialize(), atol=1e-5)
    staged = SVD(rank=2, where="a")(params)
    np.testing.assert_allclose(staged["a"].materialize(), eager["a"].materialize(), atol=1e-5)


def test_methods_and_precisions_of_the_tree(compilations):
    params = {f"w{i}": normal(40, 30) @ jnp.diag(0.7 ** jnp.arange(30.0)) for i in range(3)}
    key = jax.random.key(0)
    random = svd(params, rank=4, method="randomized", key=key)
    again = svd(params, rank=4, method="randomized", key=key)
    precise = svd(params, rank=4, accumulate="float64")
    staged = SVD(rank=4, method="randomized", seed=0)(params)
    for name, w in params.items():
        assert (random[name].u == again[name].u).all()
        assert (random[name].u == staged[name].u).all()
        assert precise[name].dtype == jnp.float32
        error = np.linalg.norm(w - random[name].materialize())
        assert error < 1.05 * np.linalg.norm(w - best(w, 4))
        np.testing.assert_allclose(precise[name].materialize(), best(w, 4), atol=1e-5)
    before = compilations("_factorize")
    svd(jax.tree.map(lambda w: 2 * w, params), rank=4)
    svd(jax.tree.map(lambda w: 3 * w, params), rank=4)
    assert compilations("_factorize") == before + 1, "one program for all of one shape, once"
    with pytest.raises(ValueError, match="needs key="):
        svd(params, rank=4, method="randomized")


def test_masked_factors_are_those_of_every_rank_in_one_program():
    w = normal(9, 7)
    products = jax.jit(jax.vmap(lambda rank: jnp.matmul(*masked_factors(w, rank))))(jnp.arange(8))
    for rank in range(8):
        np.testing.assert_allclose(products[rank], best(w, rank), atol=1e-5)
    gradient = jax.jit(jax.grad(lambda w, rank: jnp.sum(jnp.matmul(*masked_factors(w, rank)) ** 2)))
    np.testing.assert_allclose(gradient(w, 3), 2 * best(w, 3), atol=1e-4)  # of the sum of squared kept values


def test_bfloat16_weights_get_bfloat16_factors():
    w = normal(8, 8).astype(jnp.bfloat16)
    leaf = svd({"w": w}, rank=2)["w"]
    assert (leaf.u.dtype, leaf.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(leaf.materialize().astype(jnp.float32), best(w.astype(jnp.float32), 2), atol=0.1)


def test_what_saves_nothing_or_cannot_be_read_is_named():
    w = normal(6, 3)
    with pytest.raises(ValueError, match=r"rank 2 saves nothing in 'w': two factors of 6 x 3 break even at rank 2"):
        svd({"w": w}, rank=2)
    with pytest.raises(ValueError, match=r"which 0\.999 of the energy takes, saves nothing in 'w'"):
        svd({"w": w}, rank=0.999)
    with pytest.raises(ValueError, match=r"rank must be a positive integer or a fraction in \(0, 1\), got 0"):
        svd({"w": w}, rank=0)
    with pytest.raises(ValueError, match="pass sites="):
        svd({"w": normal(3, 3, 2, 4)}, rank=1)
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        svd({"w": w.at[0, 0].set(jnp.nan)}, rank=1)
    with pytest.raises(ValueError, match="'w' is factorized already"):
        svd(svd({"w": normal(8, 8)}, rank=3), rank=1)
    with pytest.raises(TypeError, match="concrete arrays"):
        jax.jit(lambda p: svd(p, rank=0.5))({"w": w})
    mixed = {"w": normal(4, 6, 5)}
    sites = jc.sites(lambda p, x: jnp.einsum("bi,oip->bop", x, p["w"]), mixed, jnp.ones((2, 6)))
    with pytest.raises(ValueError, match=r"'w' \(shape \(4, 6, 5\)\) is no matrix"):
        svd(mixed, rank=1, sites=sites)
