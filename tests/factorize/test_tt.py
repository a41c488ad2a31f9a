import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import TT, TensorTrain, tt
from jaxcompress.prune import Masked

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def exact(digits, rank, cut):
    """A matrix that is a train of this rank."""
    cores = [normal(1, *digits[0], rank), *(normal(rank, *d, rank) for d in digits[1:-1]), normal(rank, *digits[-1], 1)]
    return TensorTrain.create(cores, sizes=cut).materialize()


def model(params, ids):
    x = params["table"][ids]
    x = jax.lax.conv_general_dilated(x, params["conv"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
    x = jnp.einsum("btc,cnd->btnd", x, params["heads"])
    x = jnp.einsum("btnd,ndo->bto", x, params["out"])
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])[0]


@pytest.fixture(scope="module")
def network():
    params = {
        "table": normal(53, 8),
        "conv": normal(3, 8, 10),
        "heads": normal(10, 2, 6),
        "out": normal(2, 6, 8),
        "layers": normal(3, 8, 8),
    }
    ids = jnp.asarray(RNG.integers(0, 53, (2, 5)))
    return params, ids, jc.sites(model, params, ids)


@pytest.mark.slow
def test_every_kind_of_weight(network):
    params, ids, sites = network
    thin = tt(params, rank=2, cores=2, sites=sites)
    assert [core.shape for core in thin["table"].cores] == [(1, 6, 4, 2), (2, 9, 2, 1)]  # 53 rows and one of padding
    assert [core.shape for core in thin["conv"].cores] == [(1, 8, 2), (2, 3, 2), (2, 10, 1)]
    assert [core.shape for core in thin["heads"].cores] == [(1, 2, 2, 2), (2, 5, 6, 1)]
    assert [core.shape for core in thin["out"].cores] == [(1, 2, 4, 2), (2, 6, 2, 1)]
    assert [core.shape for core in thin["layers"].cores] == [(3, 1, 2, 4, 2), (3, 2, 4, 2, 1)]
    assert jax.tree.map(jnp.shape, jc.materialize(thin)) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(
        jc.lift(model)(thin, ids), jax.jit(model)(jc.materialize(thin), ids), rtol=1e-3, atol=1e-4
    )
    lines = {line.path: line for line in jc.explain(model, thin, ids)}
    assert all(line.served for line in lines.values())
    assert (lines["table"].how, lines["conv"].how) == (
        "only the rows taken are decoded (tensor_train)",
        "tensor_train conv",
    )
    matrix = tt(params, rank=2, cores=2, kernels="matrix", where="conv", sites=sites)
    assert [core.ndim for core in matrix["conv"].cores] == [4, 4]
    assert not jc.explain(model, matrix, ids)[1].served


def test_what_is_a_train_is_found_by_rank_and_by_error():
    digits = ((4, 2), (3, 4), (2, 3))
    w = exact(digits, 2, (22, 24))
    given = dict(digits=((4, 3, 2), (2, 4, 3)))
    # Zeros in the place of what was cut off may take a higher rank: the rows 22 and 23.
    whole = exact(digits, 2, None)
    found = tt({"w": whole}, rank=2, **given)["w"]
    assert relative(found.materialize(), whole) < 1e-3
    by_error = tt({"w": whole, "v": normal(24, 24)}, error=0.01, where="w", **given)["w"]
    assert (by_error.ranks, relative(by_error.materialize(), whole) < 0.01) == ((1, 2, 2, 1), True)
    loose = TT(error=0.5, **given)({"w": w})["w"]
    assert loose.shape == (22, 24)
    assert relative(loose.materialize(), w) < 0.5
    dicts = tt({"a": w, "b": w}, rank={"a": (2, 3)}, digits={"a": given["digits"]})
    assert (dicts["a"].ranks, dicts["b"] is w) == ((1, 2, 3, 1), True)


@pytest.mark.slow
def test_chains_masks_and_the_file(tmp_path):
    params = {"w": normal(24, 24)}
    thin = tt(params, rank=2)
    packed = jc.quantize.rtn(thin, bits=8)
    pruned = jc.prune.magnitude(thin, sparsity=0.5)
    kinds = [{core.kind for core in tree["w"].cores} for tree in (packed, pruned)]
    assert kinds == [{"quantized"}, {"masked"}]
    # A scale for each output of a core: the digit of the columns and the bond after it.
    assert packed["w"].core1.scale.shape == (1, 1, *packed["w"].core1.shape[2:])
    assert packed["w"].stored_bits < thin["w"].stored_bits / 2
    fn, x = lambda p, x: x @ p["w"], normal(3, 24)
    for tree in (packed, pruned):
        assert jc.explain(fn, tree, x)[0].served
        np.testing.assert_allclose(jc.lift(fn)(tree, x), x @ tree["w"].materialize(), rtol=1e-3, atol=1e-3)
        jc.save(tmp_path / "model.jxc", tree)
        for a, b in zip(jax.tree.leaves(jc.load(tmp_path / "model.jxc").params), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(a, b)
    mask = jnp.asarray(RNG.random((24, 24)) < 0.5)
    masked = tt({"w": Masked.create(params["w"], mask)}, rank=2)["w"]
    assert masked.values.kind == "tensor_train"
    np.testing.assert_array_equal(np.asarray(masked.materialize())[~np.asarray(mask)], 0)


def test_more_rank_is_less_error():
    w = jnp.asarray(np.sin(np.arange(24)[:, None] * np.arange(1, 25)[None] / 9.0), jnp.float32)
    errors = [relative(tt({"w": w}, rank=rank)["w"].materialize(), w) for rank in (2, 5)]
    assert errors[1] < 0.8 * errors[0]


def test_what_is_wrong_is_named(network):
    params, _, sites = network
    w = {"w": normal(16, 16)}
    with pytest.raises(ValueError, match=r"9 saves nothing in 'w': its cores would hold \d+ entries, the weight 256"):
        tt(w, rank=9)
    with pytest.raises(ValueError, match=r"error of 0\.001, which takes the ranks"):
        tt(w, error=0.001)
    with pytest.raises(ValueError, match="'w' is decomposed already"):
        tt(tt(w, rank=1), rank=1)
    with pytest.raises(ValueError, match=r"'w' \(shape \(16, 16\)\): digits \(2, 2\) of axis 0 count to 4"):
        tt(w, rank=1, digits=((2, 2), (4, 4)))
    with pytest.raises(ValueError, match="'w': rank must be positive, or 2 positive integers"):
        tt(w, rank=(1, 2, 3))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda p: tt(p, error=0.5))(w)
    with pytest.raises(ValueError, match="pass sites="):
        tt(params, rank=1)
    with pytest.raises(ValueError, match="kernels must be"):
        tt(params, rank=1, kernels="rows", sites=sites)
