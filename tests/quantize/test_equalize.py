"""Cross-layer equalization: the same function, equal ranges, and a smaller error of int8 with one scale per layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.rescaling import apply, symmetries
from jaxcompress.quantize import equalize, equalizing_scales, fold_batchnorm, rtn
from tests.zoo import ZOO
from tests.zoo.model import arrays, data, fill


def mlp(p, x):
    h = jax.nn.relu(x @ p["a"] + p["a_bias"][None])
    return jax.nn.relu(h @ p["b"] + p["b_bias"][None]) @ p["c"]


def network():
    return arrays(a=(5, 8), a_bias=(8,), b=(8, 12), b_bias=(12,), c=(12, 3)), data(64, 5)


def by_hand(p, rounds):
    """Equation 11, pair by pair, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in p.items()}
    for _ in range(rounds):
        for before, behind in (("a", "b"), ("b", "c")):
            r1, r2 = np.abs(p[before]).max(0), np.abs(p[behind]).max(1)
            s = np.sqrt(r1 * r2) / r2  # of the paper: the first layer is divided by it
            p[before], p[f"{before}_bias"], p[behind] = p[before] / s, p[f"{before}_bias"] / s, p[behind] * s[:, None]
    return p


@pytest.mark.parametrize("rounds", [1, 100])
def test_equation_11(rounds):
    p, x = network()
    even = equalize(mlp, p, x, iterations=rounds, tolerance=1e-6)
    wanted = by_hand(p, rounds)
    for name, value in even.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(mlp(even, x), mlp(p, x), rtol=0, atol=1e-5)


def test_ranges_are_equal_in_the_end():
    p, x = network()
    even = {name: np.abs(np.asarray(value)) for name, value in equalize(mlp, p, x, iterations=200).items()}
    np.testing.assert_allclose(even["a"].max(0), even["b"].max(1), rtol=3e-3)
    np.testing.assert_allclose(even["b"].max(0), even["c"].max(1), rtol=3e-3)


def test_scales_of_channels():
    """sqrt(2 * 8) = 4 on both sides; a channel that is zero on one side is left alone."""
    scales = equalizing_scales(jnp.array([8.0, 2.0, 0.0, 3.0]), jnp.array([2.0, 8.0, 3.0, 0.0]))
    np.testing.assert_allclose(scales, [0.5, 2, 1, 1])
    tiny = equalizing_scales(jnp.array([1e-30]), jnp.array([1e30]))  # the product of the ranges is what it should be,
    np.testing.assert_allclose(tiny, 1e30, rtol=1e-5)  # and the quotient is not computed


def spoiled(fn, params, *inputs, seed=0):
    """The same function with channels whose scales lie a factor of a thousand apart."""
    found = symmetries(fn, params, *inputs)
    random = np.random.RandomState(seed)
    for pair in found.pairs:
        params = apply(params, pair, np.exp(random.uniform(-3.5, 3.5, pair.size)).astype(np.float32))
    return params


def int8_error(fn, params, x):
    """Relative output error of rounding every weight to int8, one scale for each layer."""
    packed = rtn(params, bits=8, granularity="tensor", sites=jc.sites(fn, params, x))
    wanted = np.asarray(jax.jit(fn)(params, x))
    return np.linalg.norm(np.asarray(jc.lift(fn)(packed, x)) - wanted) / np.linalg.norm(wanted)


class Separable(nn.Module):
    """A MobileNet with ReLU: depthwise and pointwise convolutions, each normalized."""

    @nn.compact
    def __call__(self, x):
        def layer(x, features, size, groups=1):
            x = nn.Conv(features, (size, size), feature_group_count=groups, use_bias=False)(x)
            return nn.relu(nn.BatchNorm(use_running_average=True)(x))

        x = layer(x, 16, 3)
        for features in (24, 16):
            x = layer(layer(x, x.shape[-1], 3, x.shape[-1]), features, 1)
        return nn.Dense(5)(x.mean((1, 2)))


def separable():
    model, x = Separable(), data(8, 8, 8, 3)
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), x))
    return model.apply, fold_batchnorm(model.apply, variables, x), x


@pytest.mark.parametrize("case", ["mlp", "separable"])
def test_int8_of_badly_scaled_channels(case):
    fn, params, x = (mlp, *network()) if case == "mlp" else separable()
    bad = spoiled(fn, params, x)
    even = equalize(fn, bad, x)
    wanted = np.asarray(jax.jit(fn)(params, x))
    np.testing.assert_allclose(jax.jit(fn)(even, x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    before, after = (int8_error(fn, tree, x) for tree in (bad, even))
    assert after < before / 10, (before, after)
    again = equalize(fn, params, x)  # however it was spoiled, the same comes out
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-2, atol=1e-4), even, again)


@pytest.mark.parametrize(
    "name", ["llama_plain", "equinox_mlp", pytest.param("vision_resnet_a", marks=pytest.mark.slow)]
)
def test_zoo_computes_the_same(name):
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        even = equalize(model.fn, model.params, *model.inputs, **model.kwargs)
        run = jax.jit(model.fn)
        before, after = run(model.params, *model.inputs, **model.kwargs), run(even, *model.inputs, **model.kwargs)
    # float32 rounding of a few layers, outputs of order 1
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(np.asarray(before)).max())
    changed = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (even, model.params)), strict=True)]
    assert any(changed)


def test_where_leaves_other_pairs_alone():
    p, x = network()
    even = equalize(mlp, p, x, where=["b", "c"])
    np.testing.assert_array_equal(even["a"], p["a"])
    assert (even["b"] != p["b"]).any()
    with pytest.raises(ValueError, match=r"where='a' holds no weights that can be .* \['a', 'b', 'c'\]"):
        equalize(mlp, p, x, where="a")
    with pytest.raises(ValueError, match="where='d' matches no leaf"):
        equalize(mlp, p, x, where="d")


def test_says_what_is_in_the_way():
    fn = functools.partial(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])
    with pytest.raises(ValueError, match=r"In the way of others:\n  a axes \(0,\).*\n  a axes \(1,\): tanh"):
        equalize(fn, arrays(a=(5, 8), b=(8, 3)), data(2, 5))


def test_clips_pass_on_request():
    """Through a ReLU6, as the paper does: exact where no activation is beyond its bound."""
    fn = lambda p, x: jax.nn.relu6(x @ p["a"]) @ p["b"]  # noqa: E731
    p, x = arrays(a=(5, 8), b=(8, 3)), 0.1 * data(64, 5)
    with pytest.raises(ValueError, match="min with a bound"):
        equalize(fn, p, x)
    even = equalize(fn, p, x, clips="pass")
    np.testing.assert_allclose(fn(even, x), fn(p, x), rtol=0, atol=1e-6)


def test_input_dtype_and_compilations(compilations):
    p, x = network()
    half = p | {"b": p["b"].astype(jnp.float16).astype(jnp.float32), "c": p["c"]}
    kept = jax.tree.map(jnp.copy, half)
    first = equalize(mlp, half, x)
    jax.tree.map(np.testing.assert_array_equal, half, kept)
    count = compilations()
    again = equalize(mlp, half, x, tolerance=1e-2)
    assert compilations() == count  # another tolerance is no other program
    assert jax.tree.structure(first) == jax.tree.structure(again)
    assert all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(half), strict=True))


def test_bad_input():
    p, x = network()
    with pytest.raises(ValueError, match="equalize: 'b' holds NaN or infinity"):
        equalize(mlp, p | {"b": p["b"].at[0, 0].set(jnp.nan)}, x)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        equalize(mlp, p, x, iterations=0)
    packed = rtn({"a": p["a"]}, bits=8)["a"]
    with pytest.raises(ValueError, match="rescaled against each other"):
        equalize(jc.lift(mlp), p | {"a": packed, "b": rtn({"b": p["b"]}, bits=8)["b"]}, x)
