"""SparseGPT and Wanda on trees: exact counts, any kernel, the laws of methods, and who beats whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.core.observe import observe
from jaxcompress.core.tree import materialize
from jaxcompress.prune import magnitude, sparse_sensing, sparsegpt, wanda
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.wanda import wanda_mask
from jaxcompress.quantize import RTN, Quantized
from tests.laws.leaf_battery import assert_same_bits
from tests.zoo.model import arrays

METHODS = {"sparsegpt": sparsegpt, "wanda": wanda, "sparse_sensing": sparse_sensing}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def fn(p, x):
    return jnp.tanh(x @ p["first"]["w"] + p["first"]["b"][None]) @ p["second"]["w"]


def network():
    return {"first": arrays(w=(12, 12), b=(12,)), "second": arrays(seed=1, w=(12, 12))}


@functools.cache
def data():
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(64, 12)) @ (np.eye(12) + 0.5 * random.normal(size=(12, 12))), jnp.float32)


@functools.cache
def statistics():
    return observe(fn, network(), [data()], what="second_moment")


def zeros(tree):
    return {path: int((np.asarray(tree[path]["w"].materialize()) == 0).sum()) for path in ("first", "second")}


@every_method
def test_counts_input_and_compilations(method, compilations):
    params = network()
    before = jax.tree.map(np.array, params)
    out = method(params, statistics(), sparsity=0.5)
    assert_same_bits(jax.tree.map(np.asarray, params), before)
    assert zeros(out) == {"first": 72, "second": 72}
    assert out["first"]["b"] is params["first"]["b"]
    count = compilations()
    assert_same_bits(method(network(), statistics(), sparsity=0.25), method(network(), statistics(), sparsity=0.25))
    assert compilations() == count  # another sparsity is no other program


@every_method
def test_sparsity_may_be_traced_and_nothing_dropped_is_the_identity(method):
    params = network()
    run = jax.jit(lambda params, s: materialize(method(params, statistics(), sparsity=s, where="first/w")))
    np.testing.assert_array_equal(run(params, jnp.float32(0.0))["first"]["w"], params["first"]["w"])
    half = materialize(method(params, statistics(), sparsity=0.5, where="first/w"))
    np.testing.assert_allclose(run(params, jnp.float32(0.5))["first"]["w"], half["first"]["w"], rtol=1e-4, atol=1e-5)


@every_method
def test_n_of_m_along_the_inputs(method):
    out = method(network(), statistics(), n=2, m=4)
    for path in ("first", "second"):
        assert (np.asarray(out[path]["w"].mask).reshape(3, 4, 12).sum(1) == 2).all()


@every_method
def test_errors_name_what_is_wrong(method):
    params, stats = network(), statistics()
    for settings in ({}, {"sparsity": 0.5, "n": 2, "m": 4}, {"n": 2}):
        with pytest.raises(ValueError, match="either sparsity= or both n= and m="):
            method(params, stats, **settings)
    with pytest.raises(ValueError, match=r"n must lie in \[0, m\]"):
        method(params, stats, n=5, m=4)
    with pytest.raises(ValueError, match="m=5 does not divide the 12 input features of 'first/w'"):
        method(params, stats, n=2, m=5)
    with pytest.raises(ValueError, match="sparsity"):
        method(params, stats, sparsity=1.5)
    with pytest.raises(ValueError, match="first/b"):
        method(params, stats, sparsity=0.5, where="**/b")
    with pytest.raises(ValueError, match="first/w"):
        method(params, stats, sparsity=0.5, where="third/*")
    with pytest.raises(ValueError, match="second_moment"):
        method(params, {"first/w": ()}, sparsity=0.5)
    with pytest.raises(ValueError, match="coded already"):
        method(RTN(bits=8)(params), stats, sparsity=0.5)
    with pytest.raises(ValueError, match="'first/w/u' is a factor"):
        method(jc.factorize.svd(params, rank=2), stats, sparsity=0.5)
    params["second"]["w"] = params["second"]["w"].at[3, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="second/w"):
        method(params, stats, sparsity=0.5)


@every_method
def test_settings_per_glob_and_what_is_pruned_stays_pruned(method):
    out = method(network(), statistics(), sparsity={"first/*": 0.25, "**/w": 0.5})
    assert zeros(out) == {"first": 36, "second": 72}
    more = method(out, statistics(), sparsity=0.5)
    assert zeros(more) == {"first": 72, "second": 72}
    assert isinstance(more["first"]["w"], Masked)
    assert isinstance(more["first"]["w"].values, jax.Array)
    assert not np.asarray(more["first"]["w"].mask)[~np.asarray(out["first"]["w"].mask)].any()


def output_errors(prune, *, of=None):
    """Squared errors of each product on the data it met."""
    params, out = network(), materialize(prune)
    found = {}
    for path in ("first", "second"):
        lost = np.float64(params[path]["w"]) - np.float64(out[path]["w"])
        (seen,) = statistics()[f"{path}/w"]
        found[path] = np.trace(lost.T @ np.float64(seen["second_moment"]) @ lost)
    return found


def test_who_beats_whom_on_correlated_data():
    plain = output_errors(magnitude(network(), sparsity=0.5))
    by = {name: output_errors(method(network(), statistics(), sparsity=0.5)) for name, method in METHODS.items()}
    for path in ("first", "second"):
        assert by["sparsegpt"][path] < by["wanda"][path]
        assert by["sparse_sensing"][path] < plain[path]


def test_wanda_by_hand():
    """|w| * ||x||: 1 * 10 beats 2 * 1 in the first output, 4 * 1 loses to 1 * 10 in the second."""
    w, squares = jnp.array([[2.0, 4.0], [1.0, 1.0]]), jnp.array([1.0, 100.0])
    assert wanda_mask(w, squares, sparsity=0.5).tolist() == [[False, False], [True, True]]
    assert wanda_mask(w, jnp.diag(squares), n=1, m=2).tolist() == [[False, False], [True, True]]
    same = wanda_mask(jnp.ones((5, 3)), jnp.ones(5), sparsity=0.4)  # ties: the lower feature stays
    np.testing.assert_array_equal(same, np.repeat(np.arange(5)[:, None] < 3, 3, 1))


def test_every_output_of_wanda_keeps_as_many():
    out = wanda(network(), statistics(), sparsity=0.3)
    assert (np.asarray(out["first"]["w"].mask).sum(0) == 12 - round(0.3 * 12)).all()


def test_wanda_is_the_score_of_that_name_per_output():
    scored = jc.prune.by_score(network(), jc.prune.scores.Wanda(statistics()), sparsity=0.5, scope="output")
    ours = wanda(network(), statistics(), sparsity=0.5)
    for path in ("first", "second"):
        np.testing.assert_array_equal(ours[path]["w"].mask, scored[path]["w"].mask)


def test_quantized_in_the_same_sweep():
    """Codes on the grid of the dense weights, masks over them, and a smaller error than rounding what is pruned."""
    params = network()
    out = sparsegpt(params, statistics(), sparsity=0.25, quantizer=RTN(bits=4))
    leaf, dense = out["first"]["w"], RTN(bits=4)(params)["first"]["w"]
    assert isinstance(leaf, Masked)
    assert isinstance(leaf.values, Quantized)
    assert leaf.values.qvalue.dtype == jnp.int4
    np.testing.assert_array_equal(leaf.values.scale, dense.scale)
    np.testing.assert_array_equal(leaf.materialize(), leaf.values.materialize())  # dropped codes are zero
    assert zeros(out)["first"] >= 36
    after = RTN(bits=4)(sparsegpt(params, statistics(), sparsity=0.25))
    for path in ("first", "second"):
        assert output_errors(out)[path] < output_errors(after)[path]
    with pytest.raises(TypeError, match="made a lowrank leaf of 'first/w'"):
        sparsegpt(
            params, statistics(), sparsity=0.5, quantizer=lambda p, sites: jc.factorize.svd(p, rank=2, sites=sites)
        )
    with pytest.raises(TypeError, match="symmetric integer grids"):
        sparsegpt(params, statistics(), sparsity=0.5, quantizer=RTN(format="fp8_e4m3"))
    packed = sparsegpt(params, statistics(), sparsity=0.25, quantizer=RTN(bits=3))["first"]["w"]
    assert packed.values.bits == 3
    grid = packed.materialize() / packed.values.scale
    np.testing.assert_allclose(grid, jnp.clip(jnp.round(grid), -3, 3), atol=1e-5)
    only = sparsegpt(params, statistics(), sparsity=0.25, quantizer=RTN(bits=4, where="second/w"))
    assert isinstance(only["first"]["w"].values, jax.Array)


def test_a_grouped_convolution_and_a_stack():
    """The groups of a kernel are one layer with one count, the layers of a stack have one each."""
    params = {"conv": arrays(w=(2, 2, 2, 6))["w"], "stack": arrays(seed=1, w=(3, 6, 6))["w"]}

    def net(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, p["conv"], (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=2)
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x.reshape(-1, 6), p["stack"])[0]

    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 5, 4)), jnp.float32)
    out = sparsegpt(params, observe(net, params, [x], what="second_moment"), sparsity=0.37, damping=0.1)
    assert int((~out["conv"].mask).sum()) == round(0.37 * 48)
    assert (~np.asarray(out["stack"].mask)).sum((1, 2)).tolist() == [round(0.37 * 36)] * 3


def test_a_singular_moment_is_an_error():
    w = {"w": arrays(w=(6, 2))["w"]}
    stats = observe(lambda p, x: x @ p["w"], w, [jnp.ones((2, 6))], what="second_moment")
    with pytest.raises(ValueError, match=r"'w' is not positive definite .* raise damping="):
        sparsegpt(w, stats, sparsity=0.5, damping=0.0)
    assert np.isfinite(np.asarray(sparsegpt(w, stats, sparsity=0.5)["w"].materialize())).all()
