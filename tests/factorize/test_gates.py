import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcompress as jc
from jaxcompress.factorize import SVD, TT, Blocks, PerGate, gates_of, join_kernels, per_gate, svd
from tests.factorize.products import multiplications
from tests.zoo import ZOO

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def lstm(params, xs):
    """A joint kernel for the inputs, (in, 4 hidden), and one for the state, transposed."""

    def step(carry, x):
        h, c = carry
        z = x @ params["i"] + jnp.einsum("bh,oh->bo", h, params["h"]) + params["b"][None]
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((xs.shape[1], 8))
    return jax.lax.scan(step, (start, start), xs)[1]


@pytest.fixture(scope="module")
def network():
    return {"i": 0.3 * normal(6, 32), "h": 0.3 * normal(32, 8), "b": normal(32)}, normal(3, 2, 6)


def test_gates_are_found_in_the_trace(network):
    params, xs = network
    assert gates_of(lstm, params, xs) == {"i": 4, "h": 4}

    def sliced(p, x):
        z = jnp.tanh(x @ p["w"])
        return z[:, :4] * z[:, 4:8] + z[:, 8:], (x @ p["v"])[:, :5]

    assert gates_of(sliced, {"w": normal(3, 12), "v": normal(3, 7)}, normal(2, 3)) == {"w": 3}


@pytest.mark.parametrize("cell", [nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_gates_of_flax_cells(cell):
    fn, params = jc.nnx.split(nnx.RNN(cell(6, 8, rngs=nnx.Rngs(0))))
    found = gates_of(fn, params, normal(2, 3, 6))
    assert {path.rpartition("/")[-1] for path in found} == {"kernel"}
    assert set(found.values()) == {4 if cell is nnx.OptimizedLSTMCell else 3}


@pytest.mark.parametrize("stage", [SVD(rank=1), TT(rank=2, cores=2)], ids=lambda stage: type(stage).__name__)
def test_each_gate_is_factorized_by_itself(network, stage):
    params, xs = network
    sites = jc.sites(lstm, params, xs)
    thin = per_gate(params, stage, gates=gates_of(lstm, params, xs), sites=sites)
    assert (thin["i"].shape, thin["i"].number, thin["i"].axis) == ((6, 32), 4, 1)
    assert (thin["h"].shape, thin["h"].number, thin["h"].axis) == ((32, 8), 4, 0)
    alone = stage({"g": params["i"][:, 8:16]})["g"].materialize()
    np.testing.assert_allclose(thin["i"].materialize()[:, 8:16], alone, rtol=1e-3, atol=1e-4)
    lines = jc.explain(lstm, thin, xs)
    assert all(line.served for line in lines if line.path in "ih")
    assert lines[0].how == f"blocks: 4 {thin['i'].blocks.kind} products at once"
    theirs = lstm(jc.materialize(thin), xs)
    np.testing.assert_allclose(jc.lift(lstm)(thin, xs), theirs, rtol=1e-4, atol=1e-5)
    if isinstance(stage, SVD):
        coded = jc.quantize.rtn(thin, bits=8, sites=sites)
        assert {coded[name].blocks.u.kind for name in "ih"} == {"quantized"}
        np.testing.assert_allclose(jc.lift(lstm)(coded, xs), lstm(jc.materialize(coded), xs), rtol=1e-4, atol=1e-5)


def test_stage_survives_a_recipe(network):
    params, _ = network
    stage = PerGate(SVD(rank=1), gates=4, where="i")
    (again,) = jc.Recipe.from_json(jc.Recipe([stage]).to_json())
    assert again == stage
    ours, theirs = again(params)["i"], per_gate(params, SVD(rank=1), gates=4, where="i")["i"]
    np.testing.assert_array_equal(ours.materialize(), theirs.materialize())


def test_gates_of_their_own_fit_better_than_common_factors_at_the_same_cost():
    """Four gates of rank 2 each, in spaces of their own: joint factors of rank 2 lose most of them."""
    w = jnp.concatenate([normal(16, 2) @ normal(2, 16) for _ in range(4)], axis=1)
    own = per_gate({"w": w}, SVD(rank=2), gates=4)["w"].materialize()
    joint = svd({"w": w}, rank=2)["w"].materialize()
    assert float(jnp.linalg.norm(own - w)) < 1e-2 * float(jnp.linalg.norm(joint - w))


@pytest.mark.parametrize(
    ("x_shape", "numbers"),
    [
        ((5, 6), (((1,), (0,)), ((), ()))),
        ((8, 5), (((0,), (1,)), ((), ()))),
        ((8, 5, 6), (((2, 0), (0, 1)), ((), ()))),
        ((6, 5, 8), (((2,), (1,)), ((0,), (0,)))),
    ],
)
def test_products_of_blocks(x_shape, numbers):
    thin = per_gate({"w": normal(6, 8)}, SVD(rank=1), gates=2)["w"]
    x = normal(*x_shape)
    expected = jax.lax.dot_general(x, thin.materialize(), numbers)
    out = thin.matmul(x, contract=numbers[0], batch=numbers[1])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("recurrent_lstm", ("if", "ig", "ii", "io")),
        pytest.param("recurrent_optimized_lstm", ("if", "ig", "ii", "io"), marks=pytest.mark.slow),
        ("recurrent_gru", ("in", "ir", "iz")),
    ],
)
def test_separate_kernels_of_one_input_share_a_factor(name, kernels):
    model = ZOO[name].model
    joined = join_kernels(model.fn, model.params, *model.inputs)
    inputs = next(members for members, _ in joined.groups.values() if "/i" in members[0])
    assert sorted(path.split("/")[-2] for path in inputs) == list(kernels)
    np.testing.assert_array_equal(joined.fn(joined.params, *model.inputs), model.fn(model.params, *model.inputs))
    sites = jc.sites(joined.fn, joined.params, *model.inputs)
    thin = svd(joined.params, rank=3, where=list(joined.groups), sites=sites)
    leaf = jc.materialize(thin)
    np.testing.assert_allclose(
        jc.lift(joined.fn)(thin, *model.inputs), joined.fn(leaf, *model.inputs), rtol=1e-4, atol=1e-5
    )
    assert not jc.explain(joined.fn, thin, *model.inputs).materialized
    factor = jax.tree.leaves(thin, is_leaf=lambda x: isinstance(x, jc.factorize.LowRank))
    assert {part.u.shape for part in factor if isinstance(part, jc.factorize.LowRank)} == {(8, 3), (12, 3)}


def test_the_shared_factor_meets_the_data_once():
    fn = lambda p, x: jnp.tanh(x @ p["a"]) * jnp.tanh(x @ p["b"]) * (x @ p["c"])  # noqa: E731
    params, x = {name: normal(32, 16) for name in "abc"}, normal(8, 32)
    joined = join_kernels(fn, params, x)
    assert joined.groups == {"a": (("a", "b", "c"), 1)}
    thin = svd(joined.params, rank=4)
    once = 8 * 32 * 4 + 3 * 8 * 4 * 16
    compiled = jax.jit(jc.lift(joined.fn)).lower(thin, x).compile()
    assert compiled.cost_analysis()["flops"] < 2 * once + 8 * 16 * 40  # some for the activations
    assert multiplications(jc.lift(joined.fn), thin, x) == once + 2 * 8 * 32 * 4  # what XLA finds to be the same


def test_attention_projections_join_along_their_heads():
    model = ZOO["attention_self"].model
    joined = join_kernels(model.fn, model.params, *model.inputs, **model.kwargs)
    assert joined.groups == {
        "params/query/kernel": (tuple(f"params/{name}/kernel" for name in ("query", "key", "value")), 1)
    }


def test_what_is_wrong_is_named(network):
    params, xs = network
    with pytest.raises(ValueError, match="the 32 outputs of 'i' are not 3 gates"):
        per_gate(params, SVD(rank=1), gates=3, where="i")
    with pytest.raises(ValueError, match="gates must be an integer from 2 on, got 1 for 'i'"):
        per_gate(params, SVD(rank=1), gates=1, where="i")
    with pytest.raises(ValueError, match="'i' is compressed already"):
        per_gate(svd(params, rank=2, where="i"), SVD(rank=1), gates=4, where="i")
    with pytest.raises(ValueError, match="axis must be one of the 2 axes of a block, got axis=2"):
        Blocks.create(jnp.ones((2, 3, 4)), axis=2)
    with pytest.raises(ValueError, match="no two kernels read one input"):
        join_kernels(lstm, params, xs)
