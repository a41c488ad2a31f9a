import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.factorize import LowRank
from jaxcompress.quantize import Quantized
from tests.factorize.convs import flops

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def lowrank(stack, rows, cols, rank=2):
    return LowRank.create(normal(*stack, *rows, rank), normal(*stack, rank, *cols), len(rows), len(cols))


def int8(shape, scale_shape):
    return Quantized.create(
        jnp.asarray(RNG.integers(-127, 128, size=shape), jnp.int8),
        jnp.asarray(RNG.uniform(0.5, 1.5, scale_shape) / 100, jnp.float32),
    )


def test_dense_array_by_einsum():
    leaf = lowrank((3,), (4, 2), (5,))
    assert (leaf.shape, leaf.rank, leaf.stack_ndim) == ((3, 4, 2, 5), 2, 1)
    expected = np.einsum("sabr,src->sabc", np.asarray(leaf.u, np.float64), np.asarray(leaf.v, np.float64))
    np.testing.assert_allclose(leaf.materialize(), expected, rtol=1e-5, atol=1e-6)
    assert leaf.stored_bits == 32 * (3 * 8 * 2 + 3 * 2 * 5)


# (stack, rows, cols) of the leaf, shape of x, and ((x contracted, leaf contracted), (x batch, leaf batch))
PRODUCTS = {
    "rows": (((), (8,), (6,)), (5, 8), (((1,), (0,)), ((), ()))),
    "columns": (((), (8,), (6,)), (6, 5), (((0,), (1,)), ((), ()))),
    "both": (((), (8,), (6,)), (6, 5, 8), (((2, 0), (0, 1)), ((), ()))),
    "one of two rows": (((), (4, 2), (6,)), (5, 2), (((1,), (1,)), ((), ()))),
    "two rows": (((), (4, 2), (3, 2)), (2, 5, 4), (((2, 0), (0, 1)), ((), ()))),
    "a row in step": (((), (4, 2), (6,)), (5, 4, 2), (((2,), (1,)), ((1,), (0,)))),
    "a column in step": (((), (8,), (3, 2)), (3, 5, 8), (((2,), (0,)), ((0,), (1,)))),
    "stack in step": (((3,), (8,), (6,)), (3, 5, 8), (((2,), (1,)), ((0,), (0,)))),
    "stack free": (((3,), (8,), (6,)), (5, 8), (((1,), (1,)), ((), ()))),
    "stack summed": (((3,), (8,), (6,)), (5, 3, 8), (((1, 2), (0, 1)), ((), ()))),
    "stack summed alone": (((3,), (8,), (6,)), (5, 3), (((1,), (0,)), ((), ()))),
    "nothing": (((), (8,), (6,)), (5,), (((), ()), ((), ()))),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_matmul_is_the_dense_product(case):
    sides, x_shape, numbers = PRODUCTS[case]
    leaf, x = lowrank(*sides), normal(*x_shape)
    out = leaf.matmul(x, contract=numbers[0], batch=numbers[1])
    expected = lax.dot_general(x, leaf.materialize(), numbers)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    # At most 48 products of size 1 to 10 in a sum, associated differently.
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_matmul_makes_no_dense_copy():
    leaf, x = lowrank((), (64,), (48,)), normal(5, 64)
    text = str(jax.make_jaxpr(lambda leaf, x: leaf.matmul(x, contract=((1,), (0,)), batch=((), ())))(leaf, x))
    assert "64,48" not in text
    assert "5,2" in text


def test_int8_factors_are_served_in_turn():
    leaf = LowRank.create(int8((8, 3), (1, 3)), int8((3, 6), (1, 6)))
    x = normal(5, 8)
    fn = lambda w, x: x @ w  # noqa: E731
    np.testing.assert_allclose(jax.jit(lift(fn))(leaf, x), fn(x=x, w=leaf.materialize()), rtol=1e-4, atol=1e-4)
    text = str(jax.make_jaxpr(lift(fn))(leaf, x))
    assert "f32[8,6]" not in text
    turned = lift(lambda w, x: x @ w.T)(leaf, normal(5, 6))
    assert turned.shape == (5, 8)


CONVS = {
    "plain": (((3, 3, 4), (6,)), ("NHWC", "HWIO", "NHWC"), {}),
    "strided": (((3, 3, 4), (6,)), ("NHWC", "HWIO", "NCHW"), {"window_strides": (2, 1), "padding": "VALID"}),
    "dilated": (
        ((3, 3, 4), (6,)),
        ("NHWC", "HWIO", "NHWC"),
        {"rhs_dilation": (2, 2), "lhs_dilation": (1, 2), "padding": ((1, 1), (2, 0))},
    ),
    "out first": (((6,), (4, 3, 3)), ("NHWC", "OIHW", "NHWC"), {}),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("nested", [False, True])
def test_conv_is_the_dense_convolution(case, nested):
    (rows, cols), numbers, options = CONVS[case]
    leaf = lowrank((), rows, cols)
    if nested:
        u, v = int8((*rows, 2), (*(1,) * len(rows), 2)), int8((2, *cols), (2, *(1,) * len(cols)))
        leaf = LowRank.create(u, v, len(rows), len(cols))
    x = normal(2, 7, 7, 4)

    def fn(w, x):
        return lax.conv_general_dilated(
            x, w, **{"window_strides": (1, 1), "padding": "SAME", **options}, dimension_numbers=numbers
        )

    assert explain(fn, leaf, x)[0].served
    # 36 products of size 1 to 10 per sum, and int8 scales of 0.01 keep the nested ones at that size.
    np.testing.assert_allclose(lift(fn)(leaf, x), fn(leaf.materialize(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sides", "numbers"),
    [
        (((3, 3, 4), (12,)), ("NHWC", "HWIO", "NHWC")),
        (((12,), (4, 3, 3)), ("NCHW", "OIHW", "NHWC")),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_groups_share_the_first_factor(sides, numbers, nested):
    """Rank 2: 2 (36 x 2 + 12) = 168 multiplications a pixel for 36 x 12 = 432; rank 6: 504."""
    rows, cols = sides
    leaf, x = lowrank((), rows, cols), normal(*((2, 5, 5, 8) if numbers[0] == "NHWC" else (2, 8, 5, 5)))
    if nested:
        u, v = int8((*rows, 2), (*(1,) * len(rows), 2)), int8((2, *cols), (2, *(1,) * len(cols)))
        leaf = LowRank.create(u, v, len(rows), len(cols))

    def fn(w, x):
        return lax.conv_general_dilated(
            x, w, (1, 2), "SAME", rhs_dilation=(2, 1), dimension_numbers=numbers, feature_group_count=2
        )

    assert explain(fn, leaf, x)[0].served
    np.testing.assert_allclose(lift(fn)(leaf, x), fn(leaf.materialize(), x), rtol=1e-4, atol=1e-4)
    if not nested:
        assert flops(lift(fn), leaf, x) == 2 * 168 * 2 * 5 * 3
        more = lowrank((), rows, cols, rank=6)
        assert not explain(fn, more, x)[0].served
        np.testing.assert_allclose(lift(fn)(more, x), fn(more.materialize(), x), rtol=1e-4, atol=1e-4)


def test_embedding_takes_rows_of_one_factor():
    leaf = lowrank((), (10,), (6,))
    rows = leaf.map_axis(0, lambda field, axis: jnp.take(field, jnp.array([7, 7, 0]), axis))
    assert (rows.u.shape, rows.v.shape) == ((3, 2), (2, 6))
    np.testing.assert_allclose(rows.materialize(), np.asarray(leaf.materialize())[[7, 7, 0]], rtol=1e-6)
    columns = leaf.map_axis(1, lambda field, axis: lax.rev(field, (axis,)))
    np.testing.assert_allclose(columns.materialize(), np.asarray(leaf.materialize())[:, ::-1], rtol=1e-6)


def test_layers_come_apart_and_map():
    leaf = lowrank((3,), (8,), (6,))
    for layer, dense in zip(leaf.unstack(), leaf.materialize(), strict=True):
        np.testing.assert_allclose(layer.materialize(), dense, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda layer: layer.materialize())(leaf), leaf.materialize(), rtol=1e-6)


def test_gradients_reach_both_factors():
    leaf, x = lowrank((), (8,), (6,)), normal(5, 8)
    loss = lambda w, x: jnp.sum(jnp.square(x @ w))  # noqa: E731
    ours = jax.grad(lift(loss))(leaf, x)
    theirs = jax.grad(lambda leaf: loss(leaf.materialize(), x))(leaf)
    np.testing.assert_allclose(ours.u, theirs.u, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.v, theirs.v, rtol=1e-3, atol=1e-3)


def test_narrow_dtypes_keep_theirs():
    leaf, x = lowrank((), (8,), (6,)).astype(jnp.bfloat16), normal(5, 8).astype(jnp.bfloat16)
    assert leaf.matmul(x, contract=((1,), (0,)), batch=((), ())).dtype == jnp.bfloat16
    wide = leaf.matmul(x, contract=((1,), (0,)), batch=((), ()), preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    assert leaf.matmul(x.astype(jnp.float32), contract=((1,), (0,)), batch=((), ())) is None


def test_lowers_for_every_platform_with_a_symbolic_batch():
    leaf = lowrank((), (8,), (6,))
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), jnp.float32)
    both = jax.jit(lambda leaf, x: (leaf.matmul(x, contract=((1,), (0,)), batch=((), ())), leaf.materialize()))
    back = export.deserialize(export.export(both, platforms=("cpu", "cuda", "tpu"))(leaf, batch).serialize())
    product, dense = back.call(leaf, jnp.ones((3, 8)))
    np.testing.assert_allclose(product, jnp.ones((3, 8)) @ dense, rtol=1e-4, atol=1e-4)


def test_create_names_what_is_wrong():
    with pytest.raises(TypeError, match="one float dtype, got float32 and bfloat16"):
        LowRank.create(jnp.ones((4, 2)), jnp.ones((2, 4), jnp.bfloat16))
    with pytest.raises(ValueError, match=r"row_ndim=1 and col_ndim=1; got \(4, 2\) and \(3, 4\)"):
        LowRank.create(jnp.ones((4, 2)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="row_ndim=2"):
        LowRank.create(jnp.ones((4, 2)), jnp.ones((2, 4)), 2, 1)
