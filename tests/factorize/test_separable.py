import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxcompress as jc
from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.factorize.separable import Separable
from tests.factorize.convs import CONVS, flops

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def separable(shape, first_axes=(0,), second_axes=(1,), feature=2, out=3, rank=2, stack=()):
    one = [rank if axis == out else 1 if axis in second_axes else size for axis, size in enumerate(shape)]
    two = [rank if axis == feature else 1 if axis in first_axes else size for axis, size in enumerate(shape)]
    return Separable.create(normal(*stack, *one), normal(*stack, *two), first_axes, second_axes, feature, out)


def test_dense_array_by_einsum():
    leaf = separable((3, 5, 4, 6), stack=(2,))
    assert (leaf.shape, leaf.rank, leaf.stack_ndim, leaf.component_paths()) == (
        (2, 3, 5, 4, 6),
        2,
        1,
        ("first", "second"),
    )
    first, second = (np.asarray(field, np.float64) for field in (leaf.first, leaf.second))
    expected = np.einsum("shir,swro->shwio", first[:, :, 0], second[:, 0])
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-5)
    for layer, dense in zip(leaf.unstack(), leaf.materialize(), strict=True):
        np.testing.assert_allclose(layer.materialize(), dense, rtol=1e-6, atol=1e-6)


SLIDING = {name: conv for name, conv in CONVS.items() if len(conv.kernel) > 3}


@pytest.mark.parametrize("case", SLIDING)
def test_conv_is_the_dense_convolution(case):
    conv = SLIDING[case]
    out, feature, *spatial = conv.kernel_axes
    for first in (spatial[:1], spatial[1:]):
        rest = tuple(sorted({*spatial} - {*first}))
        leaf = separable(conv.kernel, tuple(sorted(first)), rest, feature, out, rank=3)
        x = normal(*conv.image)
        ours, theirs = jax.jit(lambda w, x: (lift(conv.fn)(w, x), conv.fn(w.materialize(), x)))(leaf, x)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6 * float(jnp.abs(theirs).max()))
        assert explain(conv.fn, leaf, x)[0].served == conv.worthwhile


def conv(w, x, numbers=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, **options)


def test_a_kernel_that_is_used_the_other_way_round():
    """From its outputs to its inputs, as the gradient of a convolution does: the second kernel comes first."""
    leaf, x = separable((3, 3, 8, 10)), normal(2, 6, 6, 10)
    back = lambda w, x: conv(w, x, ("NHWC", "HWOI", "NHWC"))  # noqa: E731
    assert explain(back, leaf, x)[0].served
    theirs = back(leaf.materialize(), x)
    np.testing.assert_allclose(lift(back)(leaf, x), theirs, atol=5e-6 * float(jnp.abs(theirs).max()))


def test_multiplications_by_hand():
    leaf, x = separable((3, 5, 8, 10)), normal(2, 9, 9, 8)

    def strided(w, x):
        return lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    # 4 of 9 rows are left by the first convolution, then 3 of 9 columns by the second.
    assert flops(lift(strided), leaf, x) == 2 * 2 * (4 * 9 * 3 * 8 * 2 + 4 * 3 * 5 * 2 * 10)
    full = separable((3, 5, 8, 10), rank=20)
    (line,) = explain(strided, full, x)
    assert not line.served  # two convolutions of rank 20 cost more than the dense one
    np.testing.assert_allclose(lift(strided)(full, x), strided(full.materialize(), x), rtol=1e-4, atol=1e-3)


def test_outside_of_a_convolution():
    leaf, x = separable((3, 2, 4, 6)), normal(5, 3, 4)
    fn = lambda w, x: jnp.einsum("bhi,hwio->bwo", x, w)  # noqa: E731
    assert explain(fn, leaf, x)[0].served
    np.testing.assert_allclose(lift(fn)(leaf, x), fn(leaf.materialize(), x), rtol=1e-4, atol=1e-4)
    batched = lambda w, x: jnp.einsum("whi,hwio->wo", x, w)  # noqa: E731
    x = normal(2, 3, 4)
    np.testing.assert_allclose(lift(batched)(leaf, x), batched(leaf.materialize(), x), rtol=1e-4, atol=1e-4)


def test_stacked_kernels_under_scan():
    leaf, x = separable((3, 3, 6, 6), stack=(2,)), normal(2, 5, 5, 6)
    fn = lambda w, x: lax.scan(lambda x, w: (jnp.tanh(conv(w, x) / 9), None), x, w)[0]  # noqa: E731
    assert explain(fn, leaf, x)[0].served
    np.testing.assert_allclose(lift(fn)(leaf, x), fn(leaf.materialize(), x), rtol=1e-4, atol=1e-5)


def test_kernels_are_quantized_and_pruned(tmp_path):
    params = {"w": separable((3, 3, 8, 8), rank=8)}  # both kernels have the same shape but for a turn
    x = normal(2, 6, 6, 8)
    fn = lambda p, x: conv(p["w"], x)  # noqa: E731
    sites = jc.sites(fn, params, x)
    pruned = jc.prune.magnitude(params, sparsity=0.5, sites=sites)
    chains = {
        "int8": jc.quantize.rtn(params, bits=8, sites=sites),
        "pruned int8": jc.quantize.rtn(pruned, bits=8, sites=sites),
    }
    int8 = chains["int8"]["w"]
    assert (int8.first.scale.shape, int8.second.scale.shape) == ((1, 1, 1, 8), (1, 1, 1, 8))
    for name, tree in chains.items():
        theirs = fn(jc.materialize(tree), x)
        np.testing.assert_allclose(lift(fn)(tree, x), theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max()))
        path = tmp_path / f"{name}.jxc"
        jc.save(path, tree)
        again = jc.load(path).params
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))
    first = chains["pruned int8"]["w"].first
    assert (first.kind, float(jnp.mean(first.mask))) == ("masked", 0.5)
    np.testing.assert_array_equal(np.asarray(first.materialize())[~np.asarray(first.mask)], 0)
    assert [line.how for line in explain(fn, chains["int8"], x)] == ["separable conv"]


def test_lowers_for_every_platform_with_a_symbolic_batch():
    leaf = separable((3, 3, 8, 12))
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("b, 5, 5, 8"), jnp.float32)
    run = jax.jit(lift(conv))
    back = export.deserialize(export.export(run, platforms=("cpu", "cuda", "tpu"))(leaf, batch).serialize())
    x = normal(3, 5, 5, 8)
    np.testing.assert_allclose(back.call(leaf, x), conv(leaf.materialize(), x), rtol=1e-4, atol=1e-3)


def test_create_names_what_is_wrong():
    with pytest.raises(TypeError, match="one float dtype, got float32 and bfloat16"):
        Separable.create(jnp.ones((3, 1, 2, 1)), jnp.ones((1, 3, 1, 4), jnp.bfloat16))
    with pytest.raises(
        ValueError, match=r"first must have size 1 along \(1,\).* got \(3, 3, 2, 1\) and \(1, 3, 1, 4\)"
    ):
        Separable.create(jnp.ones((3, 3, 2, 1)), jnp.ones((1, 3, 1, 4)))
    with pytest.raises(ValueError, match="all axes after the stack, each once"):
        Separable.create(jnp.ones((3, 1, 2, 1)), jnp.ones((1, 3, 1, 4)), (0,), (1,), 2, 2)
