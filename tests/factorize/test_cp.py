import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import CP, CPTensor, cp, svd
from jaxcompress.prune import Masked
from tests.factorize.convolutions import CASES, GROUPED, assert_exports, assert_serves
from tests.factorize.products import PRODUCTS, STACKED, assert_product, least_multiplications, multiplications

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def canonical(*sizes, rank=3, stack=()):
    return CPTensor.create([normal(*stack, n, rank) for n in sizes])


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def test_dense_array_by_einsum():
    leaf = canonical(6, 4, 5, stack=(3,))
    expected = np.einsum("sir,sjr,skr->sijk", *(np.asarray(f, np.float64) for f in leaf.factors))
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-5)
    assert (leaf.shape, leaf.rank, leaf.stack_ndim, leaf.stored_bits) == ((3, 6, 4, 5), 3, 1, 32 * 3 * 3 * 15)
    pair = CPTensor.create([normal(2, 3, 4), normal(5, 4)], axes=((0, 2), (1,)))
    expected = np.einsum("ikr,jr->ijk", *(np.asarray(f, np.float64) for f in pair.factors))
    np.testing.assert_allclose(pair.materialize(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", PRODUCTS)
def test_matmul_is_the_dense_product(case):
    assert_product(canonical(6, 4, 5), *PRODUCTS[case])


@pytest.mark.parametrize("case", STACKED)
def test_matmul_of_a_stack(case):
    assert_product(canonical(6, 4, 5, stack=(3,)), *STACKED[case])


@pytest.mark.parametrize("rows", [1, 200])
def test_matmul_takes_the_cheapest_order(rows):
    leaf = canonical(6, 4, 5, rank=2)
    x = normal(rows, 6)
    run = lambda leaf, x: leaf.matmul(x, contract=((1,), (0,)), batch=((), ()))  # noqa: E731
    least = least_multiplications(["bi", "ir", "jr", "kr"], "bjk", dict(b=rows, i=6, j=4, k=5, r=2))
    assert multiplications(run, leaf, x) == least


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("joint", [False, True])
def test_conv_is_the_dense_convolution(case, joint):
    """With a window of one factor per axis, and of one for all of them."""
    conv = CASES[case]
    feature = [conv.numbers[1].index(letter) for letter in "IO"]
    window = tuple(axis for axis in range(len(conv.kernel)) if axis not in feature)
    axes = [(axis,) for axis in feature] + ([window] if joint else [(axis,) for axis in window])
    leaf = CPTensor.create([normal(*(conv.kernel[axis] for axis in own), 3) for own in axes], axes)
    assert leaf.shape == conv.kernel
    assert_serves(conv, {"w": leaf})


@pytest.mark.parametrize("case", GROUPED)
def test_grouped_convolutions_too(case):
    assert_serves(GROUPED[case], {"w": canonical(*GROUPED[case].kernel)})


def test_a_window_with_the_features_in_one_factor_is_materialized():
    conv = CASES["2d strided"]
    leaf = CPTensor.create([normal(3, 4, 2), normal(2, 2), normal(6, 2)], ((0, 2), (1,), (3,)))
    assert_serves(conv, {"w": leaf}, served=False)


def test_convolutions_lower_for_every_platform():
    assert_exports(CASES["2d dilated"], {"w": canonical(3, 3, 4, 6)})


def test_factors_may_be_leaves_and_gradients_reach_them():
    conv = CASES["2d dilated"]
    leaf = canonical(*conv.kernel)
    coded = jc.quantize.rtn({"w": leaf}, bits=8, sites=jc.sites(conv, {"w": leaf}, conv.data))
    assert all(factor.kind == "quantized" for factor in coded["w"].factors)
    assert_serves(conv, coded)
    loss = lambda fn: lambda params: jnp.sum(jnp.sin(fn(params, conv.data)))  # noqa: E731
    ours = jax.grad(loss(jc.lift(conv)))({"w": leaf})["w"]
    theirs = jax.grad(lambda params: loss(conv)(jc.materialize(params)))({"w": leaf})["w"]
    for a, b in zip(ours.factors, theirs.factors, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_embedding_takes_rows_of_one_factor():
    leaf = canonical(30, 4, 5)
    rows = leaf.map_axis(0, lambda field, axis: jnp.take(field, jnp.array([7, 29, 7]), axis))
    assert rows.factor0.shape == (3, 3)
    np.testing.assert_allclose(rows.materialize(), np.asarray(leaf.materialize())[[7, 29, 7]], rtol=1e-5, atol=1e-5)


def kernel(*shape):
    """A sum of three products and a little noise."""
    w = CPTensor.create([normal(n, 3) for n in shape]).materialize()
    return w + 0.05 * jnp.std(w) * normal(*shape)


def model(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.einsum("bhwc,cnd->bhwnd", x, params["heads"])


@pytest.fixture(scope="module")
def networks():
    params, x = {"conv": kernel(3, 3, 6, 8), "heads": kernel(8, 4, 6)}, normal(1, 6, 6, 6)
    return params, x, jc.sites(model, params, x)


def test_method_finds_what_there_is(networks):
    params, x, sites = networks
    thin = cp(params, rank=3, sites=sites)
    assert [factor.shape for factor in thin["conv"].factors] == [(3, 3, 3), (6, 3), (8, 3)]
    assert [factor.shape for factor in thin["heads"].factors] == [(8, 3), (4, 3), (6, 3)]
    assert all(relative(thin[name].materialize(), params[name]) < 0.1 for name in params)
    lines = jc.explain(model, thin, x)
    assert lines[0].how == "cp conv"
    assert "cp chain of 3 products" in lines[1].how
    theirs = model(jc.materialize(thin), x)
    np.testing.assert_allclose(jc.lift(model)(thin, x), theirs, atol=1e-4 * float(jnp.abs(theirs).max()))
    separate = cp(params, rank=3, spatial="separate", stable=True, where="conv", sites=sites)
    assert [factor.shape for factor in separate["conv"].factors] == [(3, 3), (3, 3), (6, 3), (8, 3)]
    assert separate["heads"] is params["heads"]
    assert relative(separate["conv"].materialize(), params["conv"]) < 0.1


@pytest.mark.slow
def test_chains_and_the_file(networks, tmp_path):
    params, _, sites = networks
    assert CP(rank={"conv": 3})(params, sites=sites)["heads"] is params["heads"]
    thin = cp(params, rank=3, sites=sites)
    shared = jc.cluster.kmeans(thin, bits=4, sites=sites, where="conv")
    pruned = jc.prune.magnitude(thin, sparsity=0.5, where="heads", sites=sites)
    assert all(factor.kind == "codebook" for factor in shared["conv"].factors)
    assert all(isinstance(factor, Masked) for factor in pruned["heads"].factors)
    for tree in (thin, shared, pruned):
        jc.save(tmp_path / "model.jxc", tree)
        back = jc.load(tmp_path / "model.jxc").params
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(a, b)
    mask = jnp.asarray(RNG.random((8, 4, 6)) < 0.5)
    masked = cp({**params, "heads": Masked.create(params["heads"], mask)}, rank=3, where="heads", sites=sites)
    assert masked["heads"].values.kind == "cp"
    np.testing.assert_array_equal(np.asarray(masked["heads"].materialize())[~np.asarray(mask)], 0)


def test_two_axes_are_the_singular_value_decomposition():
    w = normal(12, 9)
    ours = cp({"w": w}, rank=3, iterations=500, tolerance=0.0)["w"].materialize()
    np.testing.assert_allclose(relative(ours, w), relative(svd({"w": w}, rank=3)["w"].materialize(), w), rtol=1e-3)


def test_what_is_wrong_is_named(networks):
    params, x, sites = networks
    with pytest.raises(ValueError, match=r"20 saves nothing in 'conv': products of 9 x 6 x 8 break even at rank 18"):
        cp(params, rank=20, sites=sites)
    with pytest.raises(ValueError, match="'conv' is decomposed already"):
        cp(cp(params, rank=3, where="conv", sites=sites), rank=1, where="conv", sites=jc.sites(model, params, x))
    with pytest.raises(ValueError, match="pass sites="):
        cp(params, rank=2)
    with pytest.raises(ValueError, match="shapes stack"):
        CPTensor.create([jnp.ones((3, 2)), jnp.ones((4, 3))])
    with pytest.raises(TypeError, match="one float dtype"):
        CPTensor.create([jnp.ones((3, 2)), jnp.ones((4, 2), jnp.bfloat16)])
    with pytest.raises(ValueError, match="its own dense axes"):
        CPTensor.create([jnp.ones((3, 2)), jnp.ones((4, 2))], ((0,), (0,)))
