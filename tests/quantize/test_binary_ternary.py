import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked
from jaxcompress.quantize import binarize, binary, rtn, ternarize, ternary
from jaxcompress.quantize.binary import signs

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(24, 10)) * RNG.uniform(0.2, 3, (1, 10)), jnp.float32)


def squared_error(leaf, w=W):
    return float(jnp.sum(jnp.square(leaf.materialize() - w)))


def test_xnor_takes_signs_and_the_mean_magnitude_of_a_filter():
    leaf = binary({"w": W})["w"]
    np.testing.assert_allclose(leaf.scale, np.abs(np.asarray(W)).mean(0, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(leaf.materialize()), np.where(np.asarray(W) >= 0, 1, -1))
    assert leaf.stored_bits == 24 * 16 * 1 + 10 * 32  # rows of whole bytes
    # Equation 6: no other scale errs less.
    for factor in (0.99, 1.01):
        assert squared_error(leaf) < squared_error(leaf.replace(scale=leaf.scale * factor))
    grouped = binary({"w": W}, group_size=8)["w"]
    assert (grouped.scale.shape, binary({"w": W}, granularity="tensor")["w"].scale.shape) == ((3, 10), (1, 1))
    assert squared_error(grouped) < squared_error(leaf) < squared_error(binary({"w": W}, scale="one")["w"])


def test_binaryconnect_has_signs_alone_or_draws_them():
    leaf = binary({"w": jnp.array([[0.3, -0.2], [0.0, -9.0]])}, scale="one")["w"]
    assert leaf.materialize().tolist() == [[1.0, -1.0], [1.0, -1.0]]
    w = jnp.broadcast_to(jnp.array([-2.0, -1.0, -0.5, 0.0, 0.8, 1.0, 3.0])[None], (4000, 7))
    drawn = binary({"w": w}, scale="one", key=jax.random.key(0))["w"]
    mean = np.asarray(drawn.materialize()).mean(0)
    # P(+1) = clip((w + 1) / 2, 0, 1), so the mean is w clipped; four standard errors of 1 / sqrt(4000).
    np.testing.assert_allclose(mean, [-1, -1, -0.5, 0, 0.8, 1, 1], atol=0.064)
    assert np.all(mean[[0, 1, 5, 6]] == [-1, -1, 1, 1])
    again = binary({"w": w}, scale="one", key=jax.random.key(0))["w"]
    np.testing.assert_array_equal(again.qvalue.words, drawn.qvalue.words)
    both = binary({"a": w, "b": w}, scale="one", key=jax.random.key(0))
    assert not np.array_equal(both["a"].qvalue.words, both["b"].qvalue.words)
    assert signs(jnp.zeros(3)).dtype == jnp.int8


def test_twn_by_hand_and_against_every_other_ternary_code():
    codes, scale = ternarize(jnp.array([[1.0, -3.0, 0.5, 0.0]]), (1, 1))  # threshold 0.7 * 4.5 / 4 = 0.7875
    assert (codes.tolist(), scale.tolist()) == ([[1, -1, 0, 0]], [[2.0]])
    w = np.asarray(RNG.normal(size=9))
    codes, scale = ternarize(jnp.asarray(w, jnp.float32), (1,))
    assert np.all(np.sign(w)[np.asarray(codes) != 0] == np.asarray(codes)[np.asarray(codes) != 0])
    kept = np.abs(w) > 0.7 * np.abs(w).mean()
    np.testing.assert_array_equal(np.asarray(codes) != 0, kept)
    np.testing.assert_allclose(scale, np.abs(w)[kept].mean(), rtol=1e-6)
    # The best code keeps the k largest for some k, scaled by their mean; the threshold comes near it (section 2.2).
    order = np.sort(np.abs(w))[::-1]
    errors = [np.sum(w**2) - order[:k].sum() ** 2 / k for k in range(1, 10)]
    ours = np.sum((w - np.asarray(codes) * float(scale[0])) ** 2)
    assert min(errors) - 1e-6 <= ours <= 1.3 * min(errors)
    leaf = ternary({"w": W})["w"]
    assert leaf.stored_bits == 24 * 16 * 2 + 10 * 32
    assert squared_error(leaf) < squared_error(binary({"w": W})["w"])
    assert squared_error(leaf) < squared_error(rtn({"w": W}, bits=2)["w"])


def test_absmean_is_bitnets():
    w = np.asarray(W, np.float64)
    leaf = ternary({"w": W}, rule="absmean", granularity="tensor")["w"]
    gamma = np.abs(w).mean()
    assert leaf.scale.shape == (1, 1)
    np.testing.assert_allclose(leaf.scale, gamma, rtol=1e-6)
    np.testing.assert_allclose(leaf.materialize(), np.clip(np.round(w / gamma), -1, 1) * gamma, rtol=1e-6)
    assert ternary({"w": jnp.zeros((4, 2))}, rule="absmean")["w"].materialize().tolist() == np.zeros((4, 2)).tolist()


def test_pruned_entries_count_for_no_mean_and_stay_zero():
    mask = jnp.asarray(RNG.random(W.shape) < 0.5)
    pruned = {"w": Masked.create(W, mask)}
    kept = np.where(np.asarray(mask), np.abs(np.asarray(W)), np.nan)
    leaf = binary(pruned)["w"]
    np.testing.assert_allclose(leaf.values.scale, np.nanmean(kept, 0, keepdims=True), rtol=1e-6)
    assert np.all(np.asarray(leaf.materialize())[~np.asarray(mask)] == 0)
    thirds = ternary(pruned)["w"]
    large = kept > 0.7 * np.nanmean(kept, 0, keepdims=True)
    np.testing.assert_array_equal(np.asarray(thirds.materialize()) != 0, large)
    codes, scale = binarize(W, (1, 10), support=jnp.zeros_like(mask))
    assert scale.tolist() == [[1.0] * 10]
    assert codes.dtype == jnp.int8


def test_stacks_keep_scales_of_their_own_and_bfloat16_is_measured_in_float32():
    layers = jnp.asarray(RNG.normal(size=(3, 8, 6)) * [[[1]], [[10]], [[100]]], jnp.bfloat16)

    def fn(params, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, params["layers"])[0]

    sites = jc.sites(fn, {"layers": layers[:, :6]}, jnp.ones((2, 6), jnp.bfloat16))
    for method, shape in ((binary, (3, 1, 6)), (ternary, (3, 1, 6))):
        leaf = method({"layers": layers[:, :6]}, sites=sites)["layers"]
        assert (leaf.scale.shape, leaf.scale.dtype, leaf.dtype) == (shape, jnp.float32, jnp.bfloat16)
        whole = method({"layers": layers[:, :6]}, sites=sites, granularity="tensor")["layers"]
        assert whole.scale.shape == (3, 1, 1)
        assert float(whole.scale[2, 0, 0]) > 20 * float(whole.scale[0, 0, 0])


def test_a_key_needs_signs_alone():
    with pytest.raises(ValueError, match="needs scale='one'"):
        binary({"w": W}, key=jax.random.key(0))
