"""BatchNorm folding: the same function, kernels that hold the slope, and refusal where that cannot be."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from benchmarks.resnet import ResNet20
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.quantize import find_batchnorms, fold_batchnorm
from tests.zoo import ZOO
from tests.zoo.model import data, fill

D, C, EPS = 5, 4, 1e-3
NHWC = ("NHWC", "HWIO", "NHWC")


def wide(p, y):
    """Every parameter with the number of axes of ``y``, which strict promotion asks for."""
    return {name: v.reshape((1,) * (y.ndim - v.ndim) + v.shape) for name, v in p.items() if name != "w"}


def norm(p, y):
    p = wide(p, y)
    return (y - p["mean"]) * lax.rsqrt(p["var"] + EPS) * p["gain"] + p["bias"]


def dense(step):
    return lambda p, x: step(wide(p, y := x @ p["w"]), y)


def params(*, layers=(), kernel=(D, C), channels=(C,)):
    """A kernel and a normalization, with gains of either sign."""
    random = np.random.RandomState(0)
    draw = {name: random.standard_normal((*layers, *channels)).astype(np.float32) for name in ("gain", "bias", "mean")}
    draw["var"] = 0.1 + random.rand(*layers, *channels).astype(np.float32)
    draw["w"] = random.standard_normal((*layers, *kernel)).astype(np.float32)
    return jax.tree.map(jnp.asarray, draw)


def conv(x, w, **options):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC, **options)


def scanned(p, x):
    def layer(h, q):
        return jax.nn.relu(norm(q, h @ q["w"])), None

    return lax.scan(layer, x, p)[0]


IMAGE = data(2, 3, 3, D)
SQUARE = {"layers": (3,), "kernel": (D, D), "channels": (D,)}

# Ways to write it: name -> (function, parameters, input)
FORMS = {
    "rsqrt": (lambda p, x: norm(p, x @ p["w"]), params(), data(3, D)),
    "scale_first": (
        dense(lambda p, y: (y - p["mean"]) * (p["gain"] * lax.rsqrt(p["var"] + EPS)) + p["bias"]),
        params(),
        data(3, D),
    ),
    "sqrt": (
        dense(lambda p, y: p["gain"] * (y - p["mean"]) / jnp.sqrt(EPS + p["var"]) + p["bias"]),
        params(),
        data(3, D),
    ),
    "power": (
        dense(lambda p, y: p["gain"] * (y - p["mean"]) * (p["var"] + EPS) ** -0.5 + p["bias"]),
        params(),
        data(3, D),
    ),
    "slope_and_offset": (
        dense(lambda p, y: y * (s := p["gain"] * lax.rsqrt(p["var"] + EPS)) + (p["bias"] - p["mean"] * s)),
        params(),
        data(3, D),
    ),
    "negated": (
        dense(lambda p, y: (p["mean"] - y) * lax.rsqrt(p["var"] + EPS) * -p["gain"] + p["bias"]),
        params(),
        data(3, D),
    ),
    "own_bias": (dense(lambda p, y: norm(p, y + p["b"])), params() | {"b": jnp.arange(1.0, C + 1)}, data(3, D)),
    "no_gain": (
        dense(lambda p, y: (y - p["mean"]) * lax.rsqrt(p["var"] + EPS) + p["bias"]),
        params(),
        data(3, D),
    ),
    "no_bias": (dense(lambda p, y: (y - p["mean"]) * lax.rsqrt(p["var"] + EPS) * p["gain"]), params(), data(3, D)),
    "transposed": (lambda p, x: norm(p, x @ p["w"].T), params(kernel=(C, D)), data(3, D)),
    "kernel_first": (
        lambda p, x: norm({k: v[:, None] for k, v in p.items()}, p["w"] @ x.T),
        params(kernel=(C, D)),
        data(3, D),
    ),
    "two_axes": (
        lambda p, x: norm(p, jnp.einsum("bi,hid->bhd", x, p["w"])),
        params(kernel=(2, D, C), channels=(2, C)),
        data(3, D),
    ),
    "channels_first": (
        lambda p, x: norm(
            {k: v[:, None, None] for k, v in p.items()},
            lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")),
        ),
        params(kernel=(C, 3, 2, 2)),
        data(2, 3, D, D),
    ),
    "convolution": (lambda p, x: norm(p, conv(x, p["w"])), params(kernel=(3, 3, D, C)), IMAGE),
    "reversed": (lambda p, x: norm(p, conv(x, jnp.flip(p["w"], (0, 1)))), params(kernel=(3, 3, D, C)), IMAGE),
    "depthwise": (
        lambda p, x: norm(p, conv(x, p["w"], feature_group_count=D)),
        params(kernel=(3, 3, 1, D), channels=(D,)),
        IMAGE,
    ),
    "remat": (lambda p, x: jax.checkpoint(lambda p, x: norm(p, x @ p["w"]))(p, x), params(), data(3, D)),
    "layers": (scanned, params(**SQUARE), data(3, D)),
    "mapped": (
        lambda p, x: jax.vmap(lambda q: norm(q, x @ q["w"]))(p),
        params(layers=(3,)),
        data(3, D),
    ),
}


def output(fn, p, x):
    return np.asarray(jax.jit(fn)(p, x), np.float64)


def close(a, b):
    """Equal to float32 rounding of sums of some tens of terms."""
    np.testing.assert_allclose(a, b, rtol=0, atol=4e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", FORMS)
def test_however_it_is_written(name):
    fn, p, x = FORMS[name]
    (found,) = find_batchnorms(fn, p, x)
    assert (found.reason, found.kernel, found.variance) == ("", "w", "var")
    assert found.epsilon == pytest.approx(EPS)
    folded = fold_batchnorm(fn, p, x)
    close(output(fn, folded, x), output(fn, p, x))
    np.testing.assert_allclose(folded["var"] + np.float32(EPS), 1, rtol=1e-6)
    if found.gain:
        assert found.gain == ("gain",)
        np.testing.assert_array_equal(folded["gain"], 1)
    for path in ("mean", "b"):
        if path in p and path != found.holder:
            np.testing.assert_array_equal(folded[path], 0)
    again = fold_batchnorm(fn, folded, x)  # nothing is left to fold
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), again, folded)


def test_numbers_by_hand():
    """y = 2 * (3 x - 1) / sqrt(4) + 5: slope 3, offset 4."""
    p = {name: jnp.full((1,), value) for name, value in (("gain", 2.0), ("mean", 1.0), ("bias", 5.0))}
    p |= {"var": jnp.full((1,), 4.0 - EPS), "w": jnp.full((2, 1), 3.0)}
    folded = fold_batchnorm(lambda p, x: norm(p, x @ p["w"]), p, jnp.ones((1, 2)))
    wanted = {"gain": 1.0, "mean": 0.0, "bias": 4.0, "var": 1 - EPS, "w": 3.0}
    for name, value in wanted.items():
        np.testing.assert_allclose(folded[name], np.full(p[name].shape, value), rtol=1e-6)


def test_a_dead_channel_stays_dead():
    """A gain of zero makes the kernel's channel zero, and the output its bias."""
    fn, p, x = FORMS["rsqrt"]
    p = p | {"gain": p["gain"].at[1].set(0)}
    folded = fold_batchnorm(fn, p, x)
    assert (np.asarray(folded["w"])[:, 1] == 0).all()
    close(output(fn, folded, x), output(fn, p, x))


MODELS = ("linen_batch_norm", "nnx_cnn", "vision_resnet_a", "vision_mobilenet", "vision_shufflenet", "vision_video")
OTHERS = ("vision_vgg", "vision_resnet_b", "vision_inception", "vision_mobilenet_v2", "vision_shufflenet_v2")


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_zoo(name):
    model = ZOO[name].model
    fn = functools.partial(model.fn, **model.kwargs)
    variances = [path for path in flatten_with_paths(model.params)[0] if path.endswith("/var")]
    found = find_batchnorms(fn, model.params, *model.inputs)
    assert sorted(f.variance for f in found) == sorted(variances)
    assert not any(f.reason for f in found)
    assert all(f.holder is not None and f.holder.endswith("bias") for f in found)
    folded = fold_batchnorm(fn, model.params, *model.inputs)
    close(output(fn, folded, *model.inputs), output(fn, model.params, *model.inputs))


def test_resnet20():
    """All 19 normalizations of the network that the benchmarks train, at numbers as training leaves them."""
    model, x = ResNet20(), data(2, 32, 32, 3)
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), x))
    folded = fold_batchnorm(model.apply, variables, x)
    assert len(find_batchnorms(model.apply, variables, x)) == 19
    run = jax.jit(model.apply)
    close(np.asarray(run(folded, x), np.float64), np.asarray(run(variables, x), np.float64))
    scales = [leaf for path, leaf in zip(*flatten_with_paths(folded)[:2], strict=True) if path.endswith("scale")]
    assert all((np.asarray(scale) == 1).all() for scale in scales)


def test_only_some_can_be_folded():
    """In a DenseNet most normalizations come before the convolution, some read what others read too."""
    entry = ZOO["vision_densenet"]
    model = entry.model
    with entry.context():
        reasons = [f.reason for f in find_batchnorms(model.fn, model.params, *model.inputs)]
        folded = fold_batchnorm(model.fn, model.params, *model.inputs)
        run = jax.jit(model.fn)
        close(np.asarray(run(folded, *model.inputs)), np.asarray(run(model.params, *model.inputs)))
    assert reasons.count("") == 2
    assert reasons.count("what it normalizes is used elsewhere too") == 1
    assert sum(reason.startswith("its input is not the result of a product") for reason in reasons) == 3


def shared_kernel(p, x):
    return norm(p, x @ p["w"]) + x @ p["w"]


def shared_norm(p, x):
    return norm(p, jax.nn.relu(norm(p, x @ p["w"])) @ p["w"])


def two_branches(p, x):
    y = x @ p["w"]
    return norm(p, y) + jax.nn.relu(y)


def statistics_returned(p, x):
    return norm(p, x @ p["w"]), p["mean"]


def nonlinear_between(p, x):
    return norm(p, jax.nn.relu(x @ p["w"]))


def standardized(p, x):
    return norm(p, x @ (p["w"] - p["w"].mean(0, keepdims=True)))


def same_each_step(p, x):
    return lax.scan(lambda h, _: (norm(p, h @ p["w"]), None), x, None, length=2)[0]


def exponential_gain(p, x):
    q = wide(p, x)
    return (x @ p["w"] - q["mean"]) * lax.rsqrt(q["var"] + EPS) * jnp.exp(q["gain"]) + q["bias"]


def one_layer_taken(p, x):
    return lax.scan(lambda h, q: (norm(q, h @ q["w"]), q["var"].sum()), x, p)


REFUSED = {
    "shared_kernel": (shared_kernel, params(), "'w' is used elsewhere too"),
    "shared_norm": (shared_norm, params(kernel=(D, D), channels=(D,)), "used elsewhere too"),
    "two_branches": (two_branches, params(), "what it normalizes is used elsewhere too"),
    "statistics_returned": (statistics_returned, params(), "'mean' is used elsewhere too"),
    "nonlinear_between": (nonlinear_between, params(), "not the result of a product"),
    "standardized": (standardized, params(), "computed from its parameter"),
    "exponential_gain": (exponential_gain, params(), "not that of a batch normalization"),
    "one_layer_taken": (one_layer_taken, params(**SQUARE), "'var' is used elsewhere too"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    fn, p, reason = REFUSED[name]
    found = find_batchnorms(fn, p, data(3, D))
    assert found
    assert all(reason in f.reason for f in found), found
    with pytest.raises(ValueError, match="no batch normalization can be folded:\n  var: "):
        fold_batchnorm(fn, p, data(3, D))


def test_steps_over_data_are_left_alone():
    """The same parameters in every step of a scan over time: not followed, not folded."""
    with pytest.raises(ValueError, match="found no batch normalization"):
        fold_batchnorm(same_each_step, params(kernel=(D, D), channels=(D,)), data(3, D))


def test_training_mode_and_layer_norm_are_none():
    model = ZOO["linen_batch_norm_train"].model
    with pytest.raises(ValueError, match=r"found no batch normalization .*evaluation mode"):
        fold_batchnorm(model.fn, model.params, *model.inputs, **model.kwargs)
    x = data(3, D)
    layer = nn.Sequential([nn.Dense(C), nn.LayerNorm()])
    assert find_batchnorms(layer.apply, layer.init(jax.random.key(0), x), x) == ()


def test_compressed_leaves_and_bad_numbers():
    fn, p, x = FORMS["rsqrt"]
    masked = p | {"w": jc.prune.magnitude({"w": p["w"]}, sparsity=0.5)["w"]}
    (found,) = find_batchnorms(jc.lift(fn), masked, x)
    assert found.reason == "'w' is a compressed leaf: fold before compressing"
    with pytest.raises(ValueError, match="fold_batchnorm: 'mean' holds NaN or infinity"):
        fold_batchnorm(fn, p | {"mean": p["mean"].at[0].set(jnp.nan)}, x)
    (found,) = find_batchnorms(fn, p | {"var": -p["var"]}, x)
    assert found.reason == "its factors are not finite: is the variance negative?"


def test_half_precision_keeps_its_dtype():
    _, p, x = FORMS["convolution"]
    half = p | {"w": p["w"].astype(jnp.bfloat16)}

    def mixed(p, x):
        return norm(p, conv(x.astype(jnp.bfloat16), p["w"]).astype(jnp.float32))

    folded = fold_batchnorm(mixed, half, x)
    assert folded["w"].dtype == jnp.bfloat16
    # The kernel is rounded to 8 bits once more.
    wanted = output(mixed, half, x)
    np.testing.assert_allclose(output(mixed, folded, x), wanted, rtol=0, atol=0.02 * np.abs(wanted).max())


def test_input_is_not_changed():
    fn, p, x = FORMS["rsqrt"]
    kept = jax.tree.map(jnp.copy, p)
    fold_batchnorm(fn, p, x)
    jax.tree.map(np.testing.assert_array_equal, p, kept)
