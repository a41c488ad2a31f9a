import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import LowRank
from jaxcompress.prune import Masked
from jaxcompress.quantize import RTN, Quantized, rtn
from tests.zoo.llama import trained

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def numpy_rtn(w, axes, bits):
    """The definition, one scale per index of the other axes; float32 as the codes are decided there."""
    top = np.float32(2 ** (bits - 1) - 1)
    scale = np.abs(w).max(axis=axes, keepdims=True) / top
    return np.round(w / scale), scale


@pytest.mark.parametrize(("bits", "dtype"), [(8, jnp.int8), (4, jnp.int4)])
def test_codes_and_scales_are_those_of_the_definition(bits, dtype):
    w = normal(16, 6)
    q = rtn({"w": w}, bits=bits)["w"]
    codes, scale = numpy_rtn(np.asarray(w), (0,), bits)
    assert (q.qvalue.dtype, q.dtype, q.stored_bits) == (dtype, jnp.float32, 96 * bits + 6 * 32)
    np.testing.assert_allclose(q.scale, scale, rtol=1e-6)
    assert np.max(np.abs(np.asarray(q.qvalue, np.float32) - codes)) <= 1  # a quotient at a tie may round either way
    assert np.mean(np.asarray(q.qvalue, np.float32) != codes) < 0.02
    # No entry is off by more than half a step, and the largest of each channel is met.
    assert np.all(np.abs(q.materialize() - w) <= 0.5001 * scale)
    assert np.all(np.max(np.abs(np.asarray(q.qvalue, np.int32)), axis=0) == 2 ** (bits - 1) - 1)


def test_zeros_stay_zero_and_empty_channels_have_scale_one():
    w = jnp.array([[0.0, 1.0, 0.0], [0.0, -2.0, 1e-44]])
    q = rtn({"w": w}, bits=8)["w"]
    np.testing.assert_array_equal(q.scale[0, [0, 2]], [1.0, 1.0])  # a scale of 1e-46 would underflow
    np.testing.assert_array_equal(q.materialize()[:, [0, 2]], np.zeros((2, 2)))
    assert float(q.materialize()[0, 0]) == 0.0


def test_groups_follow_the_contracted_axes():
    w = jnp.asarray(np.repeat([1.0, 100.0, 10.0], 4)[:, None] * RNG.uniform(0.5, 1, (12, 5)), jnp.float32)
    q = rtn({"w": w}, bits=4, group_size=4)["w"]
    assert q.scale.shape == (3, 5)
    np.testing.assert_allclose(q.scale, np.abs(np.asarray(w)).reshape(3, 4, 5).max(1) / 7, rtol=1e-6)
    assert np.max(np.abs(q.materialize() - w) / np.abs(w)) < 0.15  # half a step of 1/7 relative to 0.5 and more
    coarse = rtn({"w": w}, bits=4)["w"]
    assert np.sum(np.square(coarse.materialize() - w)) > 1.2 * np.sum(np.square(q.materialize() - w))


def model(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jnp.einsum("bhwc,cnd->bhwnd", x, params["heads"])
    x = jnp.einsum("bhwnd,ndo->bhwo", x, params["out"])
    return jax.lax.scan(lambda x, w: (x @ w, None), x, params["layers"])[0] + params["bias"][None, None, None]


def test_sites_tell_what_the_axes_mean():
    params = {
        "conv": normal(3, 3, 2, 4),
        "heads": normal(4, 2, 3),
        "out": normal(2, 3, 6),
        "layers": normal(5, 6, 6),
        "bias": jnp.ones(6),
    }
    sites = jc.sites(model, params, jnp.ones((1, 4, 4, 2)))
    packed = rtn(params, bits=8, sites=sites)
    assert packed["conv"].scale.shape == (1, 1, 1, 4)
    assert packed["heads"].scale.shape == (1, 2, 3)
    assert packed["out"].scale.shape == (1, 1, 6)
    assert packed["layers"].scale.shape == (5, 1, 6)
    assert packed["bias"] is params["bias"]
    grouped = rtn(params, bits=4, group_size=3, sites=sites, where=["out", "layers"])
    assert (grouped["out"].scale.shape, grouped["layers"].scale.shape) == ((2, 1, 6), (5, 2, 6))
    x = normal(1, 4, 4, 2)
    dense = model(jc.materialize(packed), x)
    np.testing.assert_allclose(jc.lift(model)(packed, x), dense, rtol=1e-3, atol=1e-3 * np.abs(dense).max())


def test_masked_values_and_low_rank_factors_are_quantized():
    mask = jnp.asarray(RNG.random((8, 6)) < 0.5)
    masked = rtn({"w": Masked.create(normal(8, 6), mask)}, bits=8)["w"]
    assert isinstance(masked.values, Quantized)
    np.testing.assert_array_equal(np.asarray(masked.materialize())[~np.asarray(mask)], 0)
    thin = LowRank.create(normal(8, 2), normal(2, 6))
    packed = rtn({"w": thin}, bits=8)["w"]
    assert (packed.u.scale.shape, packed.v.scale.shape) == ((1, 2), (1, 6))  # rows are summed over, then the rank
    x = normal(3, 8)
    np.testing.assert_allclose(jc.lift(lambda p, x: x @ p)(packed, x), x @ packed.materialize(), rtol=1e-4, atol=1e-4)
    turned = jc.sites(lambda p, x: x @ p["w"].T, {"w": thin}, jnp.ones((3, 6)))
    packed = rtn({"w": thin}, bits=8, sites=turned)["w"]
    assert (packed.u.scale.shape, packed.v.scale.shape) == ((8, 1), (2, 1))  # columns are summed over, then the rank


def test_jit_is_eager_and_dict_of_bits():
    params = {"a": normal(8, 4), "b": normal(8, 4), "c": normal(4, 4)}
    eager = rtn(params, bits={"a": 4, "b": 8})
    traced = jax.jit(lambda p: rtn(p, bits={"a": 4, "b": 8}))(params)
    assert (eager["a"].qvalue.dtype, eager["b"].qvalue.dtype, eager["c"] is params["c"]) == (jnp.int4, jnp.int8, True)
    for name in "ab":
        np.testing.assert_allclose(traced[name].materialize(), eager[name].materialize(), rtol=1e-6)
    staged = RTN(bits=4, where="a")(params)
    np.testing.assert_array_equal(staged["a"].qvalue, eager["a"].qvalue)


def test_granularities_and_formats_on_kernels_of_any_rank():
    params = {
        "conv": normal(3, 3, 2, 4),
        "heads": normal(4, 2, 3),
        "out": normal(2, 3, 6),
        "layers": normal(5, 6, 6) + 1,
        "bias": jnp.ones(6),
    }
    x = normal(1, 4, 4, 2)
    sites = jc.sites(model, params, x)
    whole = rtn(params, bits=8, granularity="tensor", sites=sites)
    shapes = {name: whole[name].scale.shape for name in ("conv", "heads", "out", "layers")}
    assert shapes == {"conv": (1, 1, 1, 1), "heads": (1, 1, 1), "out": (1, 1, 1), "layers": (5, 1, 1)}
    for settings in ({"bits": 3, "symmetric": False}, {"format": "nf4"}):
        packed = rtn(params, sites=sites, **settings)
        dense = model(jc.materialize(packed), x)
        np.testing.assert_allclose(jc.lift(model)(packed, x), dense, rtol=1e-3, atol=1e-3 * np.abs(dense).max())
    assert rtn(params, format="nf4", sites=sites)["layers"].unstack()[2].shape == (6, 6)


def test_blocks_are_of_32_unless_asked_otherwise():
    w = normal(64, 6)
    assert rtn({"w": w}, format="mxfp4")["w"].scale.shape == (2, 6)
    assert rtn({"w": w}, format="mxfp8_e4m3", group_size=16)["w"].scale.shape == (4, 6)
    assert rtn({"w": w}, format="mxfp4", granularity="tensor")["w"].scale.shape == (1, 1)
    with pytest.raises(ValueError, match="group_size=32 does not divide"):
        rtn({"w": normal(48, 6)}, format="mxfp4")


def test_scales_heed_what_is_kept_and_pruned_entries_stay_zero():
    mask = jnp.asarray(RNG.random((8, 6)) < 0.5).at[0].set(True)
    w = jnp.where(mask, normal(8, 6) + 4, 100.0)
    leaf = rtn({"w": Masked.create(w, mask)}, bits=4, symmetric=False)["w"]
    kept = np.where(np.asarray(mask), np.asarray(w), 0)
    np.testing.assert_allclose(leaf.values.scale, kept.max(0, keepdims=True) / 15, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(leaf.materialize())[~np.asarray(mask)], 0)
    assert np.all(np.asarray(leaf.values.materialize())[~np.asarray(mask)] == 0)  # so that files need not store them


@pytest.mark.parametrize("settings", [{"bits": 4}, {"format": "nf4"}, {"bits": 3, "symmetric": False}], ids=str)
def test_narrow_weights_have_scales_in_float32(settings):
    w = normal(8, 6)
    leaf = rtn({"w": w.astype(jnp.bfloat16)}, **settings)["w"]
    assert (leaf.scale.dtype, leaf.dtype, leaf.materialize().dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    wide = rtn({"w": w.astype(jnp.bfloat16).astype(jnp.float32)}, **settings)["w"]
    np.testing.assert_array_equal(leaf.scale, wide.scale)
    np.testing.assert_array_equal(leaf.materialize(), wide.materialize().astype(jnp.bfloat16))


@pytest.mark.slow
def test_on_trained_weights_the_clever_beats_the_naive(data_folder):
    """Output errors of the tied embedding of the trained Llama, whose channels are far from normal."""
    w = jnp.asarray(trained()[1]["emb"], jnp.float32)
    x = normal(256, w.shape[0])

    def error(**settings):
        return float(jnp.linalg.norm(x @ (rtn({"w": w}, **settings)["w"].materialize() - w)) / jnp.linalg.norm(x @ w))

    plain = error(bits=4)
    assert error(bits=8) < 0.1 * plain
    assert error(bits=4, ranges="mse") < plain
    assert error(bits=4, symmetric=False) < plain
    assert error(bits=4, group_size=32) < 0.8 * plain
    assert plain < error(bits=4, granularity="tensor")
    assert error(format="nf4") < plain
    assert error(format="levels", bits=4, ranges="kmeans") < error(format="nf4")
    assert error(format="fp8_e4m3") < error(format="fp8_e5m2") < plain  # a bit more of mantissa
    assert error(format="fp4", group_size=32) < error(format="mxfp4")  # scales are not powers of two


def test_what_cannot_be_quantized_is_named():
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 8, got 9"):
        rtn({"w": normal(4, 4)}, bits=9)
    with pytest.raises(ValueError, match=r"'k' \(shape \(3, 3, 2, 4\)\).*pass sites="):
        rtn({"k": normal(3, 3, 2, 4)}, bits=8)
    with pytest.raises(ValueError, match="group_size=3 does not divide"):
        rtn({"w": normal(4, 4)}, bits=8, group_size=3)
    with pytest.raises(ValueError, match="group_size=8 is more than the 4 weights"):
        rtn({"w": normal(4, 4)}, bits=8, group_size=8)
    with pytest.raises(ValueError, match=r"format='mxfp4' has blocks: group_size=32 is more .* where="):
        rtn({"w": normal(8, 4)}, format="mxfp4")
    with pytest.raises(ValueError, match=r"'w' is a fake_learned_step leaf, .*convert it first"):
        rtn(jc.quantize.prepare({"w": normal(4, 4)}), bits=8)
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        rtn({"w": jnp.array([[1.0, np.inf]])}, bits=8)
    params = {"w": normal(4, 4), "bias": jnp.ones(4)}
    sites = jc.sites(lambda p, x: x @ p["w"] + p["bias"][None], params, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="'bias' meets no contraction"):
        rtn(params, bits=8, where="bias", sites=sites)


@pytest.mark.parametrize("format", ["int", "nf4", "fp8_e4m3", "levels"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_weights_without_entries(format, shape):
    assert rtn({"w": jnp.zeros(shape)}, format=format)["w"].materialize().shape == shape


def test_what_is_not_finite_is_not_hidden_under_jit():
    packed = jax.jit(lambda w: rtn({"w": w}, bits=8)["w"].materialize())(jnp.array([[1.0, np.nan], [2.0, 3.0]]))
    np.testing.assert_array_equal(np.isnan(packed), [[False, True], [False, True]])
