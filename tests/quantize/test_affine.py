import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.quantize import Quantized

RNG = np.random.default_rng(0)


def leaf(shape, scale_shape, dtype=jnp.int8):
    top = 7 if dtype == jnp.int4 else 127
    codes = RNG.integers(-top, top + 1, size=shape)
    return Quantized.create(jnp.asarray(codes, dtype), jnp.asarray(RNG.uniform(0.5, 2.0, scale_shape), jnp.float32))


def reference(q):
    """Codes times scales repeated to full size, in NumPy float64."""
    scale = np.asarray(q.scale, np.float64)
    for axis, (size, held) in enumerate(zip(q.qvalue.shape, q.scale.shape, strict=True)):
        scale = np.repeat(scale, size // held, axis)
    return np.asarray(q.qvalue, np.float64) * scale


def test_scales_per_channel_per_group_and_for_all_by_hand():
    codes = jnp.array([[1, 2, 3, 4], [-1, -2, -3, -4]], jnp.int4)
    per_group = Quantized.create(codes, jnp.array([[1.0, 10.0], [2.0, 0.5]]))
    np.testing.assert_array_equal(per_group.materialize(), [[1.0, 2.0, 30.0, 40.0], [-2.0, -4.0, -1.5, -2.0]])
    for_all = Quantized.create(codes, jnp.array([[3.0]]))
    np.testing.assert_array_equal(for_all.materialize(), 3.0 * np.asarray(codes, np.float32))
    assert (per_group.stored_bits, for_all.stored_bits) == (8 * 4 + 4 * 32, 8 * 4 + 32)


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from([jnp.int8, jnp.int4]),
)
def test_materialize_is_codes_times_repeated_scales(sizes, dtype):
    q = leaf([groups * within for groups, within in sizes], [groups for groups, _ in sizes], dtype)
    assert q.materialize().shape == q.shape
    np.testing.assert_allclose(q.materialize(), reference(q), rtol=1e-6)  # one float32 product


# Per case: shapes of x, of the codes, of the scale, and the dimension numbers; batch axes and several free axes.
PRODUCTS = {
    "dense": ((5, 8), (8, 6), (1, 6), (((1,), (0,)), ((), ()))),
    "transposed": ((5, 6), (8, 6), (8, 1), (((1,), (1,)), ((), ()))),
    "heads": ((2, 5, 8), (8, 3, 4), (1, 3, 4), (((2,), (0,)), ((), ()))),
    "out of heads": ((5, 3, 4), (3, 4, 8), (1, 1, 8), (((1, 2), (0, 1)), ((), ()))),
    "batched": ((3, 5, 8), (3, 8, 6), (3, 1, 6), (((2,), (1,)), ((0,), (0,)))),
    "output groups": ((5, 8), (8, 6), (1, 2), (((1,), (0,)), ((), ()))),
    "outer": ((5,), (3, 4), (3, 1), (((), ()), ((), ()))),
}


@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int4])
def test_matmul_scales_the_result(case, dtype):
    x_shape, shape, scale_shape, numbers = PRODUCTS[case]
    q, x = leaf(shape, scale_shape, dtype), jnp.asarray(RNG.normal(size=x_shape), jnp.float32)
    out = q.matmul(x, contract=numbers[0], batch=numbers[1])
    expected = lax.dot_general(x, q.materialize(), numbers)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    # Sums of at most 12 products of size 100, each rounded in float32.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-3)


def test_matmul_declines_where_the_scale_varies_along_the_sum():
    x = jnp.ones((5, 8))
    assert leaf((8, 6), (2, 6)).matmul(x, contract=((1,), (0,)), batch=((), ())) is None
    assert leaf((8, 6), (1, 6)).matmul(x.astype(jnp.bfloat16), contract=((1,), (0,)), batch=((), ())) is None
    np.testing.assert_allclose(
        lift(lambda w, x: x @ w)(grouped := leaf((8, 6), (2, 6)), x), reference(grouped).sum(0)[None].repeat(5, 0), 1e-5
    )


def test_narrow_floats_accumulate_in_the_dtype_of_the_scale():
    codes = jnp.full((512, 1), 127, jnp.int8)
    q = Quantized.create(codes, jnp.array([[2.0**-10]]), jnp.float16)
    x = jnp.full((1, 512), 2.0, jnp.float16)  # the sum of codes alone is 130048: beyond float16
    out = q.matmul(x, contract=((1,), (0,)), batch=((), ()))
    assert out.dtype == jnp.float16
    assert float(out[0, 0]) == 127.0
    wide = q.matmul(x, contract=((1,), (0,)), batch=((), ()), preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32


CONVS = {
    "plain": ((4, 9, 9, 6), (3, 3, 6, 8), {}),
    "grouped": ((4, 9, 9, 6), (3, 3, 3, 8), {"feature_group_count": 2}),
    "depthwise": ((4, 9, 9, 6), (3, 3, 1, 12), {"feature_group_count": 6, "window_strides": (2, 1)}),
    "batch groups": ((4, 9, 9, 6), (3, 3, 6, 8), {"batch_group_count": 2}),
    "dilated": (
        (4, 9, 9, 6),
        (3, 3, 6, 8),
        {"lhs_dilation": (2, 2), "rhs_dilation": (1, 2), "padding": ((1, 1), (2, 0))},
    ),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("groups", [None, 2, 1])
def test_conv_scales_the_features(case, groups):
    x_shape, shape, options = CONVS[case]
    q = leaf(shape, (1, 1, 1, groups or shape[-1]))
    x = jnp.asarray(RNG.normal(size=x_shape), jnp.float32)

    def fn(w, x):
        options_ = {"window_strides": (1, 1), "padding": "SAME", **options}
        return lax.conv_general_dilated(x, w, **options_, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert explain(fn, q, x)[0].served
    expected = fn(q.materialize(), x)
    # 54 products of size 100 per sum.
    np.testing.assert_allclose(lift(fn)(q, x), expected, rtol=1e-4, atol=1e-2)


def test_conv_declines_scales_that_are_not_per_feature():
    q, x = leaf((3, 3, 6, 8), (1, 1, 6, 8)), jnp.ones((1, 5, 5, 6))

    def fn(w, x):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert not explain(fn, q, x)[0].served
    np.testing.assert_allclose(lift(fn)(q, x), fn(q.materialize(), x), rtol=1e-4, atol=1e-3)


def test_rows_taken_and_layers_unstacked():
    q = leaf((3, 8, 6), (3, 1, 6))
    rows = q.map_axis(1, lambda field, axis: jnp.take(field, jnp.array([5, 0]), axis))
    np.testing.assert_array_equal(rows.materialize(), np.asarray(q.materialize())[:, [5, 0]])
    for layer, dense in zip(q.unstack(), q.materialize(), strict=True):
        np.testing.assert_array_equal(layer.materialize(), dense)
    np.testing.assert_array_equal(jax.vmap(lambda layer: layer.materialize())(q), q.materialize())
    assert leaf((8, 6), (2, 6)).map_axis(0, lambda field, axis: field) is None  # groups are coarser than an index


def test_gradient_of_the_data_is_that_of_the_dense_product():
    q, x = leaf((8, 6), (1, 6)), jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
    fn = lambda w, x: jnp.sum(jnp.sin(x @ w))  # noqa: E731
    ours, theirs = jax.grad(lift(fn), argnums=1)(q, x), jax.grad(fn, argnums=1)(q.materialize(), x)
    # The argument of the cosine is of size 1000 and rounded: 1e-4 absolute, times weights of size 100.
    np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_lowers_for_every_platform_with_a_symbolic_batch():
    q = leaf((8, 6), (1, 6), jnp.int4)
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), jnp.float32)
    both = jax.jit(lambda q, x: (q.matmul(x, contract=((1,), (0,)), batch=((), ())), q.materialize()))
    back = export.deserialize(export.export(both, platforms=("cpu", "cuda", "tpu"))(q, batch).serialize())
    product, dense = back.call(q, jnp.ones((3, 8)))
    np.testing.assert_array_equal(dense, q.materialize())
    np.testing.assert_allclose(product, jnp.ones((3, 8)) @ dense, rtol=1e-5)


def test_create_names_what_is_wrong():
    codes = jnp.zeros((4, 6), jnp.int8)
    with pytest.raises(TypeError, match=r"qvalue must be int8 or int4 .*, got int32"):
        Quantized.create(codes.astype(jnp.int32), jnp.ones((1, 1)))
    with pytest.raises(TypeError, match="scale must be float, got int8"):
        Quantized.create(codes, codes)
    with pytest.raises(ValueError, match=r"got \(6,\) for \(4, 6\)"):
        Quantized.create(codes, jnp.ones(6))
    with pytest.raises(ValueError, match=r"got \(3, 1\) for \(4, 6\)"):
        Quantized.create(codes, jnp.ones((3, 1)))
