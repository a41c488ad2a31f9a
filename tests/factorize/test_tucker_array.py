import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxcompress as jc
from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.factorize.tucker_array import TuckerArray
from tests.factorize.convs import CONVS, flops

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def tucker(shape, ranks, stack=()):
    """A random leaf; rank None: no factor."""
    core = normal(*stack, *(size if rank is None else rank for size, rank in zip(shape, ranks, strict=True)))
    factors = [None if r is None else normal(*stack, n, r) for n, r in zip(shape, ranks, strict=True)]
    return TuckerArray.create(core, factors)


def test_dense_array_by_einsum():
    leaf = tucker((4, 5, 6), (2, None, 3), stack=(3,))
    assert (leaf.shape, leaf.ranks, leaf.stack_ndim) == ((3, 4, 5, 6), (2, 5, 3), 1)
    fields = [np.asarray(field, np.float64) for field in (leaf.core, leaf.factor0, leaf.factor2)]
    np.testing.assert_allclose(leaf.materialize(), np.einsum("sabc,sia,skc->sibk", *fields), rtol=1e-5, atol=1e-5)
    assert leaf.stored_bits == 32 * 3 * (2 * 5 * 3 + 4 * 2 + 6 * 3)
    assert leaf.component_paths() == ("core", "factor0", "factor2")


# ranks and stack of a leaf of shape (4, 5, 6), shape of x, ((x contracted, leaf contracted), (x batch, leaf batch))
PRODUCTS = {
    "one axis": ((2, 3, 2), (), (7, 4), (((1,), (0,)), ((), ()))),
    "two axes": ((2, 3, 2), (), (5, 7, 4), (((2, 0), (0, 1)), ((), ()))),
    "an axis without a factor": ((2, None, 2), (), (5, 7), (((0,), (1,)), ((), ()))),
    "an axis in step": ((2, 3, None), (), (5, 7, 4), (((2,), (0,)), ((0,), (1,)))),
    "stack in step": ((2, 3, 2), (3,), (3, 7, 4), (((2,), (1,)), ((0,), (0,)))),
    "stack summed": ((2, 3, 2), (3,), (3, 7, 4), (((0, 2), (0, 1)), ((), ()))),
    "stack free": ((None, None, 2), (3,), (7, 6), (((1,), (3,)), ((), ()))),
    "all": ((2, 3, 2), (), (6, 5, 4), (((0, 1, 2), (2, 1, 0)), ((), ()))),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_matmul_is_the_dense_product(case):
    ranks, stack, x_shape, numbers = PRODUCTS[case]
    leaf, x = tucker((4, 5, 6), ranks, stack), normal(*x_shape)
    out = leaf.matmul(x, contract=numbers[0], batch=numbers[1])
    expected = lax.dot_general(x, leaf.materialize(), numbers)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=2e-6 * scale)  # some hundred products, reassociated


def test_the_order_of_a_product_follows_the_batch():
    """One row meets factor, core, factor; many rows meet the dense matrix, which is cheaper to make at high rank."""
    leaf, thin = tucker((64, 64), (60, 60)), tucker((64, 64), (4, 4))
    numbers = {"contract": ((1,), (0,)), "batch": ((), ())}
    assert leaf.how(jnp.ones((1, 64)), **numbers) == "tucker matmul factor1 (core (x factor0))"
    assert leaf.how(jnp.ones((10_000, 64)), **numbers) == "tucker matmul x (factor1 (core factor0))"
    assert thin.how(jnp.ones((100, 64)), **numbers) == "tucker matmul (x factor0) (core factor1)"
    chain = lambda leaf, x: leaf.matmul(x, **numbers)  # noqa: E731
    assert flops(chain, thin, jnp.ones((1, 64))) == 2 * (64 * 4 + 4 * 4 + 4 * 64)
    assert flops(chain, thin, jnp.ones((100, 64))) == 2 * (100 * 64 * 4 + 4 * 4 * 64 + 100 * 4 * 64)
    assert flops(chain, leaf, jnp.ones((10_000, 64))) == 2 * (60 * 60 * 64 + 64 * 60 * 64 + 10_000 * 64 * 64)


@pytest.mark.parametrize("case", CONVS)
def test_conv_is_the_dense_convolution(case):
    conv = CONVS[case]
    out, feature, *_ = conv.kernel_axes
    ranks = [3 if axis == out else 2 if axis == feature else None for axis in range(len(conv.kernel))]
    for spatial in (None, 1):
        ranks = [rank if axis in (out, feature) else spatial for axis, rank in enumerate(ranks)]
        leaf = tucker(conv.kernel, ranks)
        x = normal(*conv.image)
        ours, theirs = jax.jit(lambda w, x: (lift(conv.fn)(w, x), conv.fn(w.materialize(), x)))(leaf, x)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6 * float(jnp.abs(theirs).max()))
        assert explain(conv.fn, leaf, x)[0].served == conv.worthwhile, case


def test_a_convolution_runs_in_its_cheapest_form():
    """What XLA counts is the least of the four orders, by hand, and less than the dense convolution."""

    def conv(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shape = (3, 3, 16, 24)
    for (r_in, r_out), pixels in itertools.product([(4, 6), (15, 6), (4, 23)], [(1, 5), (4, 12)]):
        leaf = tucker(shape, (None, None, r_in, r_out))
        batch, size = pixels
        x = normal(batch, size, size, 16)
        before, after = batch * size**2, batch * (size - 2) ** 2
        orders = {
            "both": before * 16 * r_in + after * 9 * r_in * r_out + after * r_out * 24,
            "in": before * 16 * r_in + after * 9 * r_in * 24 + 9 * r_in * r_out * 24,
            "out": 9 * 16 * r_in * r_out + after * 9 * 16 * r_out + after * r_out * 24,
        }
        found = flops(lift(conv), leaf, x)
        assert found == 2 * min(orders.values())
        assert found < flops(conv, leaf.materialize(), x)


def test_groups_share_the_core():
    """Two groups: the features of each meet one input factor and one core, and each its own rows of the last factor."""

    def conv(w, x):
        return lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        )

    leaf, x = tucker((3, 8, 32), (None, 2, 4)), normal(2, 9, 16)
    assert explain(conv, leaf, x)[0].served
    np.testing.assert_allclose(lift(conv)(leaf, x), conv(leaf.materialize(), x), rtol=1e-4, atol=1e-3)
    depthwise = tucker((3, 1, 16), (None, None, 2))
    assert not explain(lambda w, x: conv_depthwise(w, x), depthwise, x)[0].served


def conv_depthwise(w, x):
    return lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=16)


def test_rows_are_taken_from_a_factor():
    leaf = tucker((10, 6), (3, 2))
    rows = leaf.map_axis(0, lambda field, axis: jnp.take(field, jnp.array([7, 7, 0]), axis))
    assert (rows.factor0.shape, rows.core.shape) == ((3, 3), (3, 2))
    np.testing.assert_allclose(rows.materialize(), np.asarray(leaf.materialize())[[7, 7, 0]], rtol=1e-5, atol=1e-6)


def small_model(params, x):
    x = lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return x.mean((1, 2)) @ params["head"]


@pytest.mark.slow
def test_cores_and_factors_are_quantized_clustered_and_pruned(tmp_path):
    params = {"conv": tucker((3, 3, 8, 12), (None, None, 4, 5)), "head": tucker((12, 12), (4, 4))}
    x = normal(2, 6, 6, 8)
    sites = jc.sites(small_model, params, x)
    pruned = jc.prune.magnitude(params, sparsity=0.5, where="conv", sites=sites)
    chains = {
        "int8": jc.quantize.rtn(params, bits=8, sites=sites),
        "shared": jc.cluster.kmeans(params, levels=16, where="head", sites=sites),
        "pruned int8": jc.quantize.rtn(pruned, bits=8, where="conv", sites=sites),
    }
    conv, head = chains["int8"]["conv"], chains["shared"]["head"]
    # The core is a smaller kernel: one scale for each of its output features.
    assert [conv.core.scale.shape, conv.factor2.scale.shape, conv.factor3.scale.shape] == [
        (1, 1, 1, 5),
        (1, 4),
        (12, 1),
    ]
    assert [field.kind for field in head.components().values()] == ["codebook"] * 3
    for name, tree in chains.items():
        dense = small_model(jc.materialize(tree), x)
        np.testing.assert_allclose(
            lift(small_model)(tree, x), dense, rtol=1e-4, atol=1e-5 * float(jnp.abs(dense).max())
        )
        path = tmp_path / f"{name}.jxc"
        jc.save(path, tree)
        again = jc.load(path).params
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))
    core = chains["pruned int8"]["conv"].core
    assert (core.kind, float(jnp.mean(core.mask))) == ("masked", 0.5)
    np.testing.assert_array_equal(np.asarray(core.materialize())[~np.asarray(core.mask)], 0)
    lines = {line.path: line.how for line in explain(small_model, chains["int8"], x)}
    assert lines == {"conv": "tucker conv", "head": "tucker matmul factor1 (core (x factor0))"}


def test_gradients_reach_core_and_factors():
    leaf, x = tucker((8, 6), (3, 2)), normal(5, 8)
    loss = lambda w, x: jnp.sum(jnp.square(x @ w))  # noqa: E731
    ours = jax.grad(lift(loss))(leaf, x)
    theirs = jax.grad(lambda leaf: loss(leaf.materialize(), x))(leaf)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_lowers_for_every_platform_with_a_symbolic_batch():
    leaf = tucker((3, 3, 8, 12), (None, None, 2, 3))
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("b, 5, 5, 8"), jnp.float32)
    flat = tucker((8, 6), (3, 2))

    def both(leaf, flat, x):
        y = lax.conv_general_dilated(x, leaf, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y, x @ flat

    run = jax.jit(lift(both))
    back = export.deserialize(export.export(run, platforms=("cpu", "cuda", "tpu"))(leaf, flat, batch).serialize())
    x = normal(3, 5, 5, 8)
    for ours, theirs in zip(back.call(leaf, flat, x), both(leaf.materialize(), flat.materialize(), x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_create_names_what_is_wrong():
    with pytest.raises(TypeError, match=r"one float dtype, got \['bfloat16', 'float32'\]"):
        TuckerArray.create(jnp.ones((2, 2)), [jnp.ones((4, 2), jnp.bfloat16), None])
    with pytest.raises(ValueError, match="factor1 must have the shape"):
        TuckerArray.create(jnp.ones((2, 2)), [jnp.ones((4, 2)), jnp.ones((4, 3))])
    with pytest.raises(ValueError, match="at least one not None"):
        TuckerArray.create(jnp.ones((2, 2)), [None, None])
