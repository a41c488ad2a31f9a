"""Weights that quantize their data: both forms against the fake-quantized reference, sites, stacks, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.prune.masked import Masked
from jaxcompress.quantize.affine import AffineQuantized, Quantized
from jaxcompress.quantize.quantized_input import DynamicActivations, StaticActivations

KEY = jax.random.key(0)


def int8(shape: tuple[int, ...], scale_shape: tuple[int, ...], seed: int = 0) -> Quantized:
    rng = np.random.RandomState(seed)
    codes = jnp.asarray(rng.randint(-127, 128, shape), jnp.int8)
    return Quantized.create(codes, jnp.asarray(rng.uniform(0.01, 0.02, scale_shape), jnp.float32))


def fake_rows(x: np.ndarray, axes: tuple[int, ...], bits: int = 8) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    x = np.asarray(x, np.float64)
    scale = np.abs(x).max(axes, keepdims=True) / top
    return np.round(x / np.where(scale > 0, scale, 1)) * scale


def fake_grid(x: np.ndarray, scale: float, zero: int, bits: int = 8) -> np.ndarray:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (np.clip(np.round(np.asarray(x, np.float64) / scale) + zero, low, high) - zero) * scale


@pytest.mark.parametrize("form", ["integer", "fake", "auto"])
@pytest.mark.parametrize("bits", [8, 4])
def test_dynamic_is_the_product_of_rows_on_their_grids(form: str, bits: int) -> None:
    weight = int8((16, 6), (1, 6))
    x = jax.random.normal(KEY, (9, 16)).at[3].set(0.0)  # a row of zeros has a grid too
    leaf = DynamicActivations(weight, bits, form)
    out = jax.jit(lift(lambda p, x: x @ p))(leaf, x)
    np.testing.assert_allclose(out, fake_rows(x, (1,), bits) @ np.asarray(weight.materialize(), np.float64), atol=1e-4)
    assert out.dtype == jnp.float32
    assert (out[3] == 0).all()


@pytest.mark.parametrize("form", ["integer", "fake"])
def test_a_row_that_is_not_finite_stays_so(form: str) -> None:
    leaf = DynamicActivations(int8((16, 6), (1, 6)), 8, form)
    x = jnp.ones((3, 16)).at[0, 2].set(jnp.nan).at[1, 2].set(jnp.inf)
    np.testing.assert_array_equal(np.isfinite(lift(lambda p, x: x @ p)(leaf, x)).all(1), [False, False, True])


def test_a_sum_that_may_overflow_is_one_of_floats() -> None:
    weight = Quantized.create(jnp.full((40_000, 1), 127, jnp.int8), jnp.ones((1, 1)))
    weight = AffineQuantized(weight.qvalue, weight.scale, weight.dtype, jnp.full((1, 1), -128, jnp.int8))
    leaf = StaticActivations(weight, jnp.ones(1), jnp.full(1, -128, jnp.int8), 8)
    out = lift(lambda p, x: x @ p)(leaf, jnp.full((8, 40_000), 255.0))
    np.testing.assert_allclose(out, 255.0**2 * 40_000, rtol=1e-4)  # above 2 ** 31


@pytest.mark.parametrize("form", ["integer", "fake"])
def test_static_grids_belong_to_sites(form: str) -> None:
    weight = int8((8, 8), (1, 8))
    w = np.asarray(weight.materialize(), np.float64)
    scale, zero = jnp.array([0.02, 0.05]), jnp.array([-20, 3], jnp.int8)
    leaf = StaticActivations(weight, scale, zero, 8, (0, 1), form)
    x = jax.random.normal(KEY, (5, 8))
    first = fake_grid(x, 0.02, -20) @ w
    np.testing.assert_allclose(lift(lambda p, x: x @ p @ p)(leaf, x), fake_grid(first, 0.05, 3) @ w, atol=1e-4)
    with pytest.raises(ValueError, match=r"site 2.*never\s+calibrated"):
        lift(lambda p, x: x @ p @ p @ p)(leaf, x)


@pytest.mark.parametrize("form", ["integer", "fake"])
def test_scanned_and_batched_layers_have_grids_of_their_own(form: str) -> None:
    weight = int8((3, 8, 8), (3, 1, 8))
    w = np.asarray(weight.materialize(), np.float64)
    scale, zero = jnp.array([[0.02], [0.03], [0.05]]), jnp.array([[1], [2], [-3]], jnp.int8)
    leaf = StaticActivations(weight, scale, zero, 8, (0,), form)
    x = jax.random.normal(KEY, (3, 5, 8))
    expected = [fake_grid(x[i], float(scale[i, 0]), int(zero[i, 0])) @ w[i] for i in range(3)]
    np.testing.assert_allclose(lift(lambda p, x: jnp.einsum("lbi,lio->lbo", x, p))(leaf, x), expected, atol=1e-4)
    scanned = lambda p, x: lax.scan(lambda _, t: (None, t[0] @ t[1]), None, (x, p))[1]  # noqa: E731
    np.testing.assert_allclose(lift(scanned)(leaf, x), expected, atol=1e-4)
    np.testing.assert_allclose(lift(jax.vmap(lambda p, x: x @ p))(leaf, x), expected, atol=1e-4)
    np.testing.assert_allclose(lift(lambda p, x: x @ p[1])(leaf, x[1]), expected[1], atol=1e-4)
    picked = lift(lambda p, x: jnp.einsum("bi,lio->lbo", x, p))
    with pytest.raises(ValueError, match="grids of their own"):
        picked(leaf, x[0])


@pytest.mark.parametrize("form", ["integer", "fake"])
@pytest.mark.parametrize("static", [False, True])
def test_convolutions(form: str, static: bool) -> None:
    weight = int8((3, 3, 4, 6), (1, 1, 1, 6))
    x = jax.random.normal(KEY, (2, 7, 7, 4))
    dims = ("NHWC", "HWIO", "NHWC")
    conv = functools.partial(lax.conv_general_dilated, window_strides=(2, 2), padding="SAME", dimension_numbers=dims)
    if static:
        leaf = StaticActivations(weight, jnp.array([0.02]), jnp.array([-5], jnp.int8), 8, (0,), form)
        rounded = fake_grid(x, 0.02, -5)
    else:
        leaf, rounded = DynamicActivations(weight, 8, form), fake_rows(x, (1, 2, 3))
    with jax.enable_x64(True):
        expected = conv(jnp.asarray(rounded), jnp.asarray(weight.materialize(), jnp.float64))
    np.testing.assert_allclose(lift(lambda p, x: conv(x, p))(leaf, x), expected, atol=1e-4)


def test_a_masked_weight_stays_masked_in_integers() -> None:
    weight = int8((8, 6), (1, 6))
    mask = jnp.asarray(np.random.RandomState(1).rand(8, 6) < 0.5)
    leaf = DynamicActivations(Masked.create(weight, mask), 8, "integer")
    x = jax.random.normal(KEY, (4, 8))
    expected = fake_rows(x, (1,)) @ np.where(mask, np.asarray(weight.materialize(), np.float64), 0)
    np.testing.assert_allclose(lift(lambda p, x: x @ p)(leaf, x), expected, atol=1e-4)


@pytest.mark.parametrize("form", ["integer", "fake", "auto"])
def test_gradients_pass_the_rounding_straight_through(form: str) -> None:
    weight = int8((8, 6), (1, 6))
    leaf = DynamicActivations(weight, 8, form)
    x = jax.random.normal(KEY, (16, 8))
    fn = lambda p, x: jnp.sum(jnp.cos(x @ p))  # noqa: E731
    grad = jax.grad(lambda x: lift(fn)(leaf, x))(x)
    rounded = jnp.asarray(fake_rows(x, (1,)), jnp.float32)
    np.testing.assert_allclose(grad, jax.grad(lambda x: fn(weight.materialize(), x))(rounded), atol=1e-4)
    scales = jax.grad(lambda s: lift(fn)(leaf.replace(weight=weight.replace(scale=s)), x))(weight.scale)
    direct = jax.grad(lambda s: fn(weight.replace(scale=s).materialize(), rounded))(weight.scale)
    np.testing.assert_allclose(scales, direct, rtol=1e-3)


def test_what_cannot_be_integers_says_so() -> None:
    groups = int8((8, 6), (4, 6))
    x = jax.random.normal(KEY, (4, 8))
    with pytest.raises(ValueError, match="constant along the sum"):
        lift(lambda p, x: x @ p)(DynamicActivations(groups, 8, "integer"), x)
    expected = fake_rows(x, (1,)) @ np.asarray(groups.materialize(), np.float64)
    np.testing.assert_allclose(lift(lambda p, x: x @ p)(DynamicActivations(groups, 8), x), expected, atol=1e-4)


def test_a_lookup_takes_rows_and_quantizes_nothing() -> None:
    leaf = DynamicActivations(int8((8, 6), (8, 1)), 8)
    rows = lift(lambda p, i: p[i])(leaf, jnp.array([2, 5]))
    np.testing.assert_array_equal(rows, leaf.materialize()[jnp.array([2, 5])])
    (line,) = explain(lambda p, i: p[i], leaf, jnp.array([2, 5]))
    assert line.served


@pytest.mark.parametrize("static", [False, True])
def test_slices_of_a_weight_round_their_data_too(static: bool) -> None:
    """Also where scales in groups cannot be sliced: the part is dense then, and the data still lies on its grid."""
    groups = int8((8, 6), (2, 6))
    leaf = DynamicActivations(groups, 4)
    rounded = lambda x: fake_rows(x, (1,), 4)  # noqa: E731
    if static:
        leaf = StaticActivations(groups, jnp.array([0.3]), jnp.array([1], jnp.int8), 4)
        rounded = lambda x: fake_grid(x, 0.3, 1, 4)  # noqa: E731
    x = jax.random.normal(KEY, (5, 3))
    expected = rounded(x) @ np.asarray(groups.materialize(), np.float64)[2:5]
    np.testing.assert_allclose(lift(lambda p, x: x @ p[2:5])(leaf, x), expected, atol=1e-4)
