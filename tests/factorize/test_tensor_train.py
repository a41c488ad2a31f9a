import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.factorize import TensorTrain
from tests.core.kinds import avals_of, floats_of_shape, served
from tests.factorize.convolutions import CASES, assert_exports, assert_serves
from tests.factorize.products import PRODUCTS, STACKED, assert_product, least_multiplications, multiplications

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def train(stack=()):
    """A (6, 4, 5): two digits of the first axis, of which one is too many, two of the second, one of the last."""
    cores = [normal(*stack, 1, 3, 2, 2), normal(*stack, 2, 3, 3), normal(*stack, 3, 2, 5, 1)]
    return TensorTrain.create(cores, axes=((0, 1), (0,), (1, 2)), sizes=(7, 4, 5))


def cut(leaf):
    """To the six rows of `products.PRODUCTS`."""
    return leaf.replace(cut=(6, *leaf.cut[1:]))


def test_dense_array_by_hand():
    leaf = train()
    a, b, c = (np.asarray(core, np.float64) for core in leaf.cores)
    expected = np.zeros((7, 4, 5))
    for i, j, k in np.ndindex(7, 4, 5):
        expected[i, j, k] = (a[:, i // 3, j // 2] @ b[:, i % 3] @ c[:, j % 2, k])[0, 0]
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-5)
    assert (leaf.shape, leaf.ranks, leaf.stored_bits) == ((7, 4, 5), (1, 2, 3, 1), 32 * (12 + 18 + 30))


def test_a_ring_is_the_trace():
    leaf = TensorTrain.create([normal(2, 3, 3), normal(3, 4, 2)])
    expected = np.einsum("aib,bja->ij", *(np.asarray(core, np.float64) for core in leaf.cores))
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        leaf.matmul(jnp.eye(3), contract=((1,), (0,)), batch=((), ())), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("case", PRODUCTS)
def test_matmul_is_the_dense_product(case):
    assert_product(cut(train()), *PRODUCTS[case])


@pytest.mark.parametrize("case", STACKED)
def test_matmul_of_a_stack(case):
    assert_product(cut(train((3,))), *STACKED[case])


@pytest.mark.parametrize(("rows", "chain"), [(2, True), (500, False)])
def test_matmul_takes_the_cheapest_order(rows, chain):
    """A small batch goes through the chain, a large one meets the matrix; `explain` says which."""
    rank = 3 if chain else 12
    leaf = TensorTrain.create([normal(1, 4, 4, rank), normal(rank, 4, 4, rank), normal(rank, 4, 4, 1)])
    x, fn = normal(rows, 64), lambda params, x: x @ params["w"]
    sizes = dict(n=rows, r=rank, s=rank) | dict.fromkeys("ijkabc", 4)
    least = least_multiplications(["nijk", "iar", "rjbs", "skc"], "nabc", sizes)
    assert multiplications(jc.lift(fn), {"w": leaf}, x) == least
    assert (f"chain of 3 products, {least:,} multiplications" in jc.explain(fn, {"w": leaf}, x)[0].how) == chain
    assert ("multiplied out, cheaper" in jc.explain(fn, {"w": leaf}, x)[0].how) == (not chain)
    made = {np.prod(shape) for shape, _ in avals_of(jax.make_jaxpr(jc.lift(fn))({"w": leaf}, x).jaxpr)}
    assert (64 * 64 in made) == (not chain)
    np.testing.assert_allclose(jc.lift(fn)({"w": leaf}, x), x @ leaf.materialize(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("back", [False, True])
def test_conv_is_the_dense_convolution(case, back):
    """From the input over the window to the output, or the cores the other way round; digits of features."""
    conv = CASES[case]
    features = {letter: conv.numbers[1].index(letter) for letter in "IO"}
    window = [axis for axis in range(len(conv.kernel)) if axis not in features.values()]
    half = (features["O"], conv.kernel[features["O"]] // 2)
    chain = [
        [(features["I"], conv.kernel[features["I"]])],
        [(a, conv.kernel[a]) for a in window],
        [half],
        [(half[0], 2)],
    ]
    chain = chain[::-1] if back else chain
    ranks = [1, 2, 3, 2, 1]
    cores = [normal(ranks[k], *(size for _, size in own), ranks[k + 1]) for k, own in enumerate(chain)]
    leaf = TensorTrain.create(cores, [tuple(axis for axis, _ in own) for own in chain])
    assert leaf.shape == conv.kernel
    assert_serves(conv, {"w": leaf})


def test_convolutions_lower_for_every_platform():
    cores = [normal(1, 4, 2), normal(2, 3, 3, 3), normal(3, 6, 1)]
    assert_exports(CASES["2d dilated"], {"w": TensorTrain.create(cores, ((2,), (0, 1), (3,)))})


def test_kernels_in_another_order_are_materialized():
    conv = CASES["2d strided"]
    leaf = TensorTrain.create([normal(1, 3, 2, 2), normal(2, 2, 4, 3), normal(3, 3, 1)], ((0, 2), (1, 2), (3,)), None)
    assert leaf.shape == (3, 2, 8, 3)
    wide = conv.__class__((3, 2, 8, 3), (2, 7, 7, 8), conv.numbers, conv.options)
    assert_serves(wide, {"w": leaf}, served=False)


LOOKUPS = {
    "brackets": lambda t, i: t[i],
    "clip": lambda t, i: jnp.take(t, i * 9 - 5, axis=0, mode="clip"),
    "fill": lambda t, i: jnp.take(t, i * 9 - 5, axis=0, mode="fill", fill_value=7.0),
    "columns": lambda t, i: jnp.take(t, i % 8, axis=1),
    "transposed": lambda t, i: t.T[:, i],
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", LOOKUPS)
def test_embedding_decodes_only_the_rows_taken(name, nested):
    leaf = TensorTrain.create([normal(1, 4, 2, 3), normal(3, 8, 4, 1)], sizes=(30, 8))
    params = {"t": leaf} if not nested else jc.quantize.rtn({"t": leaf}, bits=8)
    fn, ids = lambda params, i: LOOKUPS[name](params["t"], i), jnp.array([[3, 29, 0], [7, 7, 1]])
    np.testing.assert_allclose(jc.lift(fn)(params, ids), fn(jc.materialize(params), ids), rtol=1e-4, atol=1e-4)
    assert served(fn, params, ids)
    for shape in ((30, 8), (8, 30), (32, 8), (4, 8, 2, 4)):
        assert floats_of_shape(jc.lift(fn), shape, params, ids) == 0


def test_single_cores_hold_axes_that_can_be_sliced():
    leaf = train()
    part = leaf.map_axis(2, lambda field, axis: jax.lax.slice_in_dim(field, 1, 4, axis=axis))
    np.testing.assert_allclose(part.materialize(), leaf.materialize()[..., 1:4], rtol=1e-5, atol=1e-5)
    assert leaf.map_axis(0, lambda field, axis: field) is None
    stacked = train((3,))
    for layer, dense in zip(stacked.unstack(), stacked.materialize(), strict=True):
        np.testing.assert_allclose(layer.materialize(), dense, rtol=1e-5, atol=1e-5)


def test_roles_of_a_core_are_those_of_its_digits():
    from jaxcompress.core.roles import Roles

    found = train((3,)).field_roles("core2", Roles((0,), (1, 2), (3,)))
    assert (found.stack, found.contracting, found.output) == ((0,), (1, 2), (3, 4))


def test_start_has_the_variance_of_glorot():
    keys = jax.random.split(jax.random.key(0), 8)
    leaf = TensorTrain.init(keys[0], (784, 300), rank=6, digits=((7, 4, 7, 4), (3, 4, 5, 5)))
    assert 235_200 / (leaf.stored_bits // 32) > 100
    variance = lambda key: jnp.mean(TensorTrain.init(key, (60, 40), rank=5).materialize() ** 2)  # noqa: E731
    # The entries of one matrix depend on each other: 8 matrices have a mean that is off by about a tenth.
    np.testing.assert_allclose(jnp.mean(jax.vmap(variance)(keys)), 2 / 100, rtol=0.35)
    deep = TensorTrain.init(keys[0], (3, 12, 10), rank=2, variance=1.0, dtype=jnp.bfloat16)
    assert (deep.shape, deep.dtype, deep.stack_ndim) == ((3, 12, 10), jnp.bfloat16, 1)


def test_a_layer_of_a_hundredth_of_the_parameters_learns():
    """LeNet-300-100's first layer at 113x fewer parameters: 30 steps on images of four strokes."""
    x = RNG.normal(size=(4, 784)).repeat(16, axis=0) + 0.5 * RNG.normal(size=(64, 784))
    x, y = jnp.asarray(x, jnp.float32), jnp.arange(64) // 16
    kernel = TensorTrain.init(jax.random.key(0), (784, 300), rank=6, digits=((7, 4, 7, 4), (3, 4, 5, 5)))
    params = {"first": kernel, "bias": jnp.zeros(300), "out": 0.05 * normal(300, 4)}
    fn = jc.lift(lambda p, x: jax.nn.relu(x @ p["first"] + p["bias"][None]) @ p["out"])
    loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(fn(p, x), y).mean()  # noqa: E731
    tx = optax.adam(1e-2)

    def step(carry, _):
        value, grads = jax.value_and_grad(loss)(carry[0])
        updates, state = tx.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), value

    with jax.numpy_dtype_promotion("standard"):
        (params, _), values = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=30))(params)
    assert float(values[-1]) < 0.1 * float(values[0])


def test_create_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"ranks that meet .* got \[\(1, 2, 2, 3\), \(2, 2, 2, 1\)\]"):
        TensorTrain.create([jnp.ones((1, 2, 2, 3)), jnp.ones((2, 2, 2, 1))])
    with pytest.raises(ValueError, match=r"sizes must be from 1 to \(4, 4\)"):
        TensorTrain.create([jnp.ones((1, 2, 2, 1))] * 2, sizes=(5, 4))
    with pytest.raises(TypeError, match="one float dtype"):
        TensorTrain.create([jnp.ones((1, 2, 2, 1), jnp.int32)] * 2)
    with pytest.raises(ValueError, match="2 to 8, got 1"):
        TensorTrain.create([jnp.ones((1, 2, 2, 1))])
    with pytest.raises(ValueError, match="from 0 on"):
        TensorTrain.create([jnp.ones((1, 2, 2, 1))] * 2, axes=((0, 0), (0, 1)))
