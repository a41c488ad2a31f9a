"""AWQ: scales and clips as NumPy finds them, never worse than rounding to nearest, on any kernel, absorbed or not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.core.moments import matrices_of, statistic_of
from jaxcompress.core.observe import observe
from jaxcompress.core.rescaling import symmetries
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize
from jaxcompress.prune import Masked, magnitude
from jaxcompress.quantize import Quantized, Rescaled, awq, awq_scales, format_of, rtn
from jaxcompress.quantize.clips import search_clips
from jaxcompress.quantize.formats import Scaling
from tests.laws.leaf_battery import assert_same_bits

WHAT = ("second_moment", "mean_abs")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def fn(p, x):
    return jnp.tanh(x @ p["first"]) @ p["second"]


def network():
    return {"first": normal(0, 16, 16) / 4, "second": normal(1, 16, 16) / 4}


@functools.cache
def data():
    """Correlated, some channels far larger than others."""
    return normal(2, 64, 16) @ (jnp.eye(16) + 0.4 * normal(3, 16, 16)) * jnp.exp(1.5 * normal(4, 1, 16))


@functools.cache
def statistics():
    return observe(fn, network(), [data()], what=WHAT)


def output_error(path, weight, leaf, stats):
    """``tr(D^T S D)`` of one weight in float64, per matrix of a stack."""
    layout = matrices_of(path, weight.shape, stats, method="test")
    moment = np.float64(statistic_of(path, layout, stats, "second_moment", method="test"))
    lost = np.float64(layout.split(weight)) - np.float64(layout.split(materialize({"w": leaf})["w"]))
    return np.einsum("bfo,bfg,bgo->b", lost, moment, lost)


def test_scales_by_hand():
    """``[1, 16, 4] ** 0.5`` is ``[1, 4, 2]``, over the root of the product of its ends."""
    np.testing.assert_allclose(awq_scales(jnp.array([1.0, 16.0, 4.0]), 0.5), [0.5, 2.0, 1.0])
    assert awq_scales(jnp.array([3.0, 0.0]), 0.0).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(awq_scales(jnp.array([3.0, 0.0]), 1.0), [100.0, 0.01], rtol=1e-5)  # clamped at 1e-4
    assert awq_scales(jnp.zeros((2, 2)), 0.7).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_exponent_is_the_best_of_the_grid():
    """The whole search in NumPy float64, four bits in groups of four."""
    out = awq(network(), statistics(), bits=4, group_size=4, clips=())
    for path, weight in network().items():
        (seen,) = statistics()[path]
        w, moment, inputs = np.float64(weight), np.float64(seen["second_moment"]), np.float64(seen["mean_abs"])
        errors, tried = [], []
        for alpha in np.arange(21) / 20:
            scales = np.maximum(inputs / inputs.max(), 1e-4) ** alpha
            scales /= np.sqrt(scales.max() * scales.min())
            groups = (w * scales[:, None]).reshape(4, 4, 16)
            step = np.abs(groups).max(1, keepdims=True) / 7
            lost = (np.round(groups / step) * step).reshape(16, 16) / scales[:, None] - w
            errors.append(np.trace(lost.T @ moment @ lost))
            tried.append(scales)
        assert min(errors) < 0.9 * errors[0]  # it does help
        np.testing.assert_allclose(1 / out[path].factor[:, 0], tried[int(np.argmin(errors))], rtol=1e-4)
        np.testing.assert_allclose(output_error(path, weight, out[path], statistics()), min(errors), rtol=1e-3)


def test_clips_are_the_best_of_the_ratios_group_after_group():
    """Coordinate descent in NumPy: each group against the rounding errors of all others as they are by then."""
    weight, ratios, int3 = normal(0, 12, 5), (0.8, 0.6, 0.4), format_of("int", 3)
    moment = np.float64(np.cov(np.asarray(normal(1, 12, 40))))
    divisor = np.exp(np.float64(normal(2, 12)))
    top = np.abs(np.float64(weight)).reshape(3, 4, 5).max(1)

    def lost(best):
        step = np.repeat(best * top / 3, 4, 0)
        return (np.clip(np.round(np.float64(weight) / step), -3, 3) * step - np.float64(weight)) / divisor[:, None]

    def error(best):
        return np.einsum("fo,fg,go->o", lost(best), moment, lost(best))

    best = np.ones((3, 5))
    for group in range(3):
        trials = [np.where(np.arange(3)[:, None] == group, ratio, best) for ratio in (1, *ratios)]
        best[group] = np.array([1, *ratios])[np.argmin([error(trial) for trial in trials], 0)]
    arguments = (weight[None], jnp.asarray(moment, jnp.float32)[None], jnp.asarray(divisor, jnp.float32))
    start = Scaling(jnp.asarray(top / 3, jnp.float32)[None])
    found = search_clips(*arguments, start, int3, ratios=ratios)
    np.testing.assert_allclose(found.scale[0], best * top / 3, rtol=1e-5)
    assert (best < 1).any()
    shared = search_clips(*arguments, Scaling(jnp.full((1, 1, 1), top.max() / 3, jnp.float32)), int3, ratios=ratios)
    steps = top.max() / 3 * np.array([1, *ratios])
    totals = []
    for step in steps:
        left = (np.clip(np.round(np.float64(weight) / step), -3, 3) * step - np.float64(weight)) / divisor[:, None]
        totals.append(np.trace(left.T @ moment @ left))
    np.testing.assert_allclose(shared.scale.item(), steps[np.argmin(totals)], rtol=1e-6)


SETTINGS = {
    "int2_groups": {"bits": 2, "group_size": 4},
    "int3_asymmetric": {"bits": 3, "symmetric": False},
    "int4_tensor": {"bits": 4, "granularity": "tensor"},
    "nf4_mse": {"bits": None, "format": "nf4", "ranges": "mse"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_layer_is_worse_than_rounded_to_nearest(settings):
    ours, plain = awq(network(), statistics(), **settings), rtn(network(), **settings)
    for path, weight in network().items():
        better, rounded = (output_error(path, weight, tree[path], statistics()) for tree in (ours, plain))
        assert better < 0.95 * rounded
        assert isinstance(ours[path], Rescaled)
        assert jax.tree.structure(ours[path].values) == jax.tree.structure(plain[path])


def test_input_compilations_and_jit(compilations):
    params = network()
    before = jax.tree.map(np.array, params)
    out = awq(params, statistics(), bits=4)
    assert_same_bits(jax.tree.map(np.asarray, params), before)
    count = compilations()
    assert_same_bits(awq(network(), statistics(), bits=4), out)
    assert compilations() == count
    traced = jax.jit(lambda p: awq(p, statistics(), bits=4))(params)
    np.testing.assert_allclose(traced["first"].materialize(), out["first"].materialize(), rtol=1e-5, atol=1e-6)


def mixed(p, x):
    """A grouped convolution with two groups, then a scanned stack whose input axis is the last."""
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, p["conv"], (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=2)
    step = lambda x, w: (jnp.tanh(x @ w.T), None)  # noqa: E731
    return lax.scan(step, x.reshape(-1, 6) * jnp.arange(1.0, 7)[None], p["stack"])[0]


def test_a_grouped_convolution_and_a_stack():
    """The groups of a kernel share their factor, the layers of a stack have one each, and are as good as apart."""
    params = {"conv": normal(0, 2, 2, 2, 6), "stack": normal(1, 3, 6, 6)}
    x = normal(2, 4, 5, 5, 4) * jnp.array([1.0, 5.0, 0.2, 3.0])[None, None, None]
    stats = observe(mixed, params, [x], what=WHAT)
    ours = awq(params, stats, bits=3)
    plain = rtn(params, bits=3, sites=sites(mixed, params, x))
    assert ours["conv"].factor.shape == (1, 1, 2, 1)
    assert ours["stack"].factor.shape == (3, 1, 6)
    for path in params:
        better, rounded = (output_error(path, params[path], tree[path], stats) for tree in (ours, plain))
        assert better.sum() < 0.97 * rounded.sum()
        assert (better <= rounded * (1 + 1e-5)).all() or path == "conv"
    apart = []
    for index, layer in enumerate(params["stack"]):
        (alone,) = observe(lambda w, x: x @ w.T, layer, [jnp.ones((1, 6))], what=WHAT)[""]
        values = {name: stats["stack"][0][name][index] for name in WHAT}
        apart.append(awq(layer, {"": (dataclasses.replace(alone, values=values),)}, bits=3).materialize())
    np.testing.assert_allclose(ours["stack"].materialize(), jnp.stack(apart), rtol=1e-5, atol=1e-6)


def test_of_a_masked_leaf_the_values_are_quantized():
    pruned = magnitude(network(), sparsity=0.5)
    out = awq(pruned, statistics(), bits=3, where="first")["first"]
    assert isinstance(out.values, Masked)
    assert isinstance(out.values.values, Quantized)
    assert (np.asarray(out.materialize())[~np.asarray(pruned["first"].mask)] == 0).all()
    plain = rtn(pruned, bits=3)["first"]
    weight = pruned["first"].materialize()
    assert output_error("first", weight, out, statistics()) < output_error("first", weight, plain, statistics())


def normed(p, x):
    """Two kernels that meet one normalized input, and one that meets a ReLU's output."""
    h = x / jnp.sqrt(1e-3 + jnp.mean(x**2, -1, keepdims=True)) * p["gain"][None]
    return jax.nn.relu(h @ p["up"]) @ p["down"] + h @ p["other"]


def test_absorbed_scales():
    """Plain leaves; weights that share an input share its scales, and the gain is divided by them."""
    params = {"up": normal(0, 16, 16), "other": normal(1, 16, 16), "down": normal(3, 16, 16)}
    params |= {"gain": jnp.exp(normal(2, 16))}
    x = data()
    stats = observe(normed, params, [x], what=WHAT)
    found = symmetries(normed, params, x)
    fine = awq(params, stats, bits=8, symmetries=found, clips=())
    assert {type(fine[path]) for path in ("up", "other", "down")} == {Quantized}
    by = params["gain"] / fine["gain"]
    assert float(jnp.max(by) / jnp.min(by)) > 1.5
    np.testing.assert_allclose(fine["other"].materialize(), params["other"] * by[:, None], atol=0.02 * float(by.max()))
    exact = normed(params, x)
    relative = lambda tree: float(jnp.linalg.norm(normed(materialize(tree), x) - exact) / jnp.linalg.norm(exact))  # noqa: E731
    assert relative(fine) < 0.02
    coarse, plain = awq(params, stats, bits=4, symmetries=found), rtn(params, bits=4, where=["up", "other", "down"])
    assert relative(coarse) < 0.9 * relative(plain)
    shared = awq(params, stats, bits=4, symmetries=found, where=["up", "other"])
    by = (params["gain"] / shared["gain"])[:, None]
    ours = sum(output_error(path, params[path], shared[path].materialize() / by, stats) for path in ("up", "other"))
    assert ours < sum(output_error(path, params[path], plain[path], stats) for path in ("up", "other"))


def test_a_weight_that_keeps_its_scales_absorbs_those_of_the_next():
    params, relu = network(), lambda p, x: jax.nn.relu(x @ p["first"]) @ p["second"]
    stats = observe(relu, params, [data()], what=WHAT)
    out = awq(params, stats, bits=8, symmetries=symmetries(relu, params, data()), clips=())
    assert isinstance(out["first"], Rescaled)
    assert isinstance(out["second"], Quantized)
    assert not np.allclose(out["second"].materialize(), params["second"], rtol=0.1)
    np.testing.assert_allclose(relu(materialize(out), data()), relu(params, data()), atol=0.3)  # of values up to 40


def test_errors_name_what_is_wrong():
    params, stats = network(), statistics()
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        awq(params, stats, steps=0)
    with pytest.raises(ValueError, match=r"clips must lie between 0 and 1, got 1\.0"):
        awq(params, stats, clips=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"group_size=5 .* 'first'"):
        awq(params, stats, group_size=5)
    with pytest.raises(ValueError, match="ranges='widest' is not known"):
        awq(params, stats, ranges="widest")
    with pytest.raises(ValueError, match="needs what='mean_abs', and at 'first'"):
        awq(params, observe(fn, params, [data()], what="second_moment"))
    with pytest.raises(ValueError, match="stats hold no 'second_moment'"):
        awq(params, observe(fn, params, [data()], what="mean_abs"))
    with pytest.raises(ValueError, match="coded already"):
        awq(rtn(params, bits=8), stats)
    some = awq(params, stats, bits={"sec*": 4})
    assert some["first"] is params["first"]
    params["second"] = params["second"].at[3, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="'second' holds NaN"):
        awq(params, stats)


def test_lowers_for_every_platform():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), network())
    program = jax.jit(lambda params: awq(params, statistics(), bits=4, group_size=4))
    exported = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    served = jc.lift(fn)(program(network()), data())
    assert served.shape == (64, 16)
