"""Fits after channels or weights are gone, against NumPy's least squares on the data themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.observe import observe
from jaxcompress.core.shrink import masked, shrink
from jaxcompress.prune import compensate_bias, magnitude, nm_mask, reconstruct
from jaxcompress.prune.masked import Masked
from tests.zoo.model import arrays


def correlated(seed, rows, features):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, features)) @ (np.eye(features) + 0.5 * random.normal(size=(features, features)))


def mlp(p, x):
    hidden = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return hidden @ p["b"]["kernel"] + p["b"]["bias"][None]


def network():
    return {"a": arrays(kernel=(6, 10), bias=(10,)), "b": arrays(seed=1, kernel=(10, 4), bias=(4,))}


X = jnp.asarray(correlated(0, 80, 6), jnp.float32)
KEPT = np.array([0, 2, 3, 5, 8, 9])
KEEP = {("a/kernel", 1): KEPT, ("a/bias", 0): KEPT, ("b/kernel", 0): KEPT}


def hidden(params):
    return np.float64(jax.nn.relu(X @ params["a"]["kernel"] + params["a"]["bias"][None]))


def test_a_dense_consumer_is_least_squares():
    params = network()
    stats = observe(mlp, params, [X])
    fitted = reconstruct(params, stats, KEEP, damping=0.0)
    features = hidden(params)
    kernel = np.float64(params["b"]["kernel"])
    want = np.linalg.lstsq(features[:, KEPT], features @ kernel, rcond=None)[0]
    np.testing.assert_allclose(fitted["b"]["kernel"][KEPT], want, rtol=1e-3, atol=1e-3)  # moments are float32
    assert not np.delete(np.asarray(fitted["b"]["kernel"]), KEPT, 0).any()
    assert fitted["a"]["kernel"] is params["a"]["kernel"]
    small = shrink(mlp, fitted, KEEP)
    fit, plain, dense = small.fn(small.params, X), mlp(masked(params, KEEP), X), mlp(params, X)
    assert float(jnp.sum((fit - dense) ** 2)) < 0.5 * float(jnp.sum((plain - dense) ** 2))
    np.testing.assert_allclose(fit, mlp(masked(fitted, KEEP), X), rtol=1e-4, atol=1e-5)


def test_a_convolution_is_fitted_over_patches():
    params = {"w": arrays(w=(2, 2, 5, 3))["w"]}
    x = jnp.asarray(correlated(1, 3 * 6 * 6, 5).reshape(3, 6, 6, 5), jnp.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    fn = lambda p, x: lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", dimension_numbers=numbers)  # noqa: E731
    kept = np.array([1, 2, 4])
    fitted = reconstruct(params, observe(fn, params, [x], what="second_moment"), {("w", 2): kept}, damping=1e-6)["w"]
    patches = np.stack([np.float64(x[:, i : i + 5, j : j + 5]) for i in range(2) for j in range(2)], -2)
    rows = patches.reshape(-1, 4, 5)
    outputs = rows.reshape(-1, 20) @ np.float64(params["w"]).reshape(20, 3)
    want = np.linalg.lstsq(rows[:, :, kept].reshape(-1, 12), outputs, rcond=None)[0]
    np.testing.assert_allclose(fitted[:, :, kept].reshape(12, 3), want, rtol=1e-3, atol=1e-3)
    assert not np.asarray(fitted)[:, :, [0, 3]].any()


def test_bias_takes_up_the_mean_of_masked_weights():
    """With the mean restored, the outputs of the last layer have the mean that they had."""
    params = network()
    stats = observe(mlp, params, [X], what="mean")
    pruned = magnitude(params, sparsity=0.5, where="b/kernel")
    better = compensate_bias(params, pruned, stats)
    lost = hidden(params).mean(0) @ np.float64(params["b"]["kernel"] - pruned["b"]["kernel"].materialize())
    np.testing.assert_allclose(better["b"]["bias"], np.float64(params["b"]["bias"]) + lost, rtol=1e-4, atol=1e-5)
    assert better["b"]["kernel"] is pruned["b"]["kernel"]
    assert better["a"]["bias"] is params["a"]["bias"]
    after = mlp(params | {"b": {"kernel": better["b"]["kernel"].materialize(), "bias": better["b"]["bias"]}}, X)
    np.testing.assert_allclose(after.mean(0), mlp(params, X).mean(0), atol=1e-5)


def test_bias_after_channels_are_gone():
    """Outputs that are gone themselves get none, so that masked stays shrunk."""
    params = network()
    stats = observe(mlp, params, [X], what="mean")
    better = compensate_bias(params, masked(params, KEEP), stats, keep=KEEP)
    assert not np.delete(np.asarray(better["a"]["bias"]), KEPT).any()
    np.testing.assert_allclose(mlp(better, X).mean(0), mlp(params, X).mean(0), atol=1e-5)


def test_errors_say_the_way_out():
    params = network()
    stats = observe(mlp, params, [X])
    with pytest.raises(ValueError, match="no observed weight reads what keep= drops"):
        reconstruct(params, stats, {("a/kernel", 1): KEPT})
    with pytest.raises(ValueError, match="'c/kernel', and params has no such leaf"):
        reconstruct(params, stats, {("c/kernel", 0): KEPT})
    with pytest.raises(ValueError, match="outside of axis 0 of 'b/kernel', which has 10"):
        reconstruct(params, stats, {("b/kernel", 0): [0, 10]})
    mask = nm_mask(jnp.abs(params["b"]["kernel"]), n=1, m=2, axis=0)
    both = params | {"b": params["b"] | {"kernel": Masked.create(params["b"]["kernel"], mask)}}
    with pytest.raises(ValueError, match="'b/kernel' is masked"):
        reconstruct(both, stats, KEEP)
    with pytest.raises(ValueError, match="no observed weight that differs"):
        compensate_bias(params, params, stats)
    bare = {"a": params["a"], "b": {"kernel": params["b"]["kernel"]}, "shift": params["b"]["bias"]}
    fn = lambda p, x: mlp({"a": p["a"], "b": {"kernel": p["b"]["kernel"], "bias": p["shift"]}}, x)  # noqa: E731
    stats = observe(fn, bare, [X], what="mean")
    pruned = magnitude(bare, sparsity=0.5, where="b/kernel")
    with pytest.raises(ValueError, match=r"no bias of shape \(4,\) for 'b/kernel' .* name it in biases="):
        compensate_bias(bare, pruned, stats)
    named = compensate_bias(bare, pruned, stats, biases={"b/kernel": "shift"})
    assert not np.array_equal(named["shift"], bare["shift"])
