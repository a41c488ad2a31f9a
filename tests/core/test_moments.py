"""Observed statistics laid out like the weight they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.moments import Matrices, matrices_of, observed_paths, statistic_of
from jaxcompress.core.observe import Observed, observe
from jaxcompress.core.parts import Roles
from jaxcompress.core.paths import flatten_with_paths
from tests.zoo import ZOO


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def moment(x):
    x = np.asarray(x, np.float64)
    return np.swapaxes(x, -1, -2) @ x / x.shape[-2]


def of(path, shape, stats, name="second_moment"):
    layout = matrices_of(path, shape, stats, method="test")
    return layout, np.asarray(statistic_of(path, layout, stats, name, method="test"))


def entry(count, value, *, stack=(), picked=None, contracting=(2,)):
    return Observed(
        "w", "dot_general", "here.py:1", contracting, np.asarray(count), {"mean": value}, stack, picked or {}
    )


@pytest.mark.parametrize(
    ("shape", "roles", "groups", "want"),
    [
        ((4, 3), Roles((), (0,), (1,)), 1, (1, 4, 3)),
        ((2, 5, 3), Roles((0,), (2,), (1,)), 1, (2, 3, 5)),
        ((3, 3, 4, 6), Roles((), (0, 1, 2), (3,), (0, 1)), 2, (2, 36, 3)),
        ((6, 4, 3, 3), Roles((), (1, 2, 3), (0,), (2, 3)), 1, (1, 36, 6)),
        ((2, 4, 3, 2, 5), Roles((0,), (1, 2), (3, 4)), 1, (2, 12, 10)),
    ],
)
def test_split_and_join_are_inverse(shape, roles, groups, want):
    layout, array = Matrices(shape, roles, groups), np.arange(np.prod(shape)).reshape(shape)
    split = np.asarray(layout.split(jnp.asarray(array)))
    assert split.shape == want == (layout.batch, layout.features, layout.outputs)
    np.testing.assert_array_equal(layout.join(jnp.asarray(split)), array)


def test_a_layout_by_hand():
    """Output channels 0-1 belong to the first group; a kernel (out, in, width) has its width before its inputs."""
    grouped = Matrices((2, 1, 4), Roles((), (0, 1), (2,), (0,)), groups=2)
    np.testing.assert_array_equal(grouped.split(jnp.arange(8).reshape(2, 1, 4))[1], [[2, 3], [6, 7]])
    outer = Matrices((1, 2, 3), Roles((), (1, 2), (0,), (2,)))
    np.testing.assert_array_equal(outer.split(jnp.arange(6).reshape(1, 2, 3))[0, :, 0], [0, 3, 1, 4, 2, 5])
    assert outer.feature_sizes == (3, 2)


def test_layers_by_scan_and_by_index_are_the_same():
    """Also where they are called in another order, and one of them twice."""
    w, x = normal(0, 3, 4, 4) / 2, normal(1, 5, 4)

    def unrolled(p, x):
        for layer in (2, 0, 1, 2):
            x = jnp.tanh(x @ p["w"][layer])
        return x

    inputs = {}
    for layer in (2, 0, 1, 2):
        inputs.setdefault(layer, []).append(x)
        x = jnp.tanh(x @ w[layer])
    layout, found = of("w", w.shape, observe(unrolled, {"w": w}, [normal(1, 5, 4)]))
    assert layout.roles == Roles((0,), (1,), (2,))
    want = np.stack([moment(np.concatenate(inputs[layer])) for layer in range(3)])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)

    scanned = lambda p, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"][jnp.array([2, 0, 1])])[0]  # noqa: E731
    with pytest.raises(ValueError, match="which index along axis 0 of 'w'"):
        of("w", w.shape, observe(scanned, {"w": w}, [normal(1, 5, 4)]))


def test_an_unknown_layer_is_an_error():
    fn = lambda p, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["w"][i]), x)  # noqa: E731
    stats = observe(fn, {"w": normal(0, 3, 4, 4)}, [normal(1, 5, 4)])
    with pytest.raises(ValueError, match="which index along axis 0 of 'w'"):
        of("w", (3, 4, 4), stats)
    sliced = observe(lambda p, x: x @ p["w"][1:][1], {"w": normal(0, 3, 4, 4)}, [normal(1, 5, 4)])
    with pytest.raises(ValueError, match="constant indices"):
        of("w", (3, 4, 4), sliced)


def test_a_layer_without_data_and_a_part_of_the_features_are_errors():
    one = observe(lambda p, x: x @ p["w"][1], {"w": normal(0, 3, 4, 4)}, [normal(1, 5, 4)])
    with pytest.raises(ValueError, match=r"no data met layer \[0\] of 'w'"):
        of("w", (3, 4, 4), one)
    part = observe(lambda p, x: x @ p["w"][:4], {"w": normal(0, 6, 3)}, [normal(1, 5, 4)])
    with pytest.raises(ValueError, match=r"only a part of 'w' .* \(4 of 6 features\)"):
        of("w", (6, 3), part)


@pytest.mark.parametrize("kernel_first", [False, True], ids=["HWIO", "OIHW"])
def test_a_grouped_convolution(kernel_first):
    """The product of every matrix with its patches is the convolution."""
    x, kernel = normal(0, 2, 5, 5, 4), normal(1, 2, 3, 2, 6)
    shape = (6, 2, 2, 3) if kernel_first else kernel.shape
    w = jnp.transpose(kernel, (3, 2, 0, 1)) if kernel_first else kernel
    numbers = ("NHWC", "OIHW" if kernel_first else "HWIO", "NHWC")

    def fn(p, x):
        return lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=2)

    stats = observe(fn, {"w": w}, [x], what=("second_moment", "output_second_moment"))
    layout, found = of("w", shape, stats)
    assert (layout.batch, layout.features, layout.outputs) == (2, 12, 3)
    assert layout.feature_sizes[-1] == 2
    matrices = np.float64(layout.split(w))
    outputs = np.asarray(fn({"w": w}, x), np.float64).reshape(-1, 2, 3).swapaxes(0, 1)
    np.testing.assert_allclose(matrices.swapaxes(1, 2) @ found @ matrices, moment(outputs), rtol=1e-3, atol=1e-4)


def test_a_tied_weight_is_averaged_by_rows():
    w, x, y = normal(0, 4, 4), normal(1, 6, 4), normal(2, 3, 4)
    stats = observe(
        lambda p, x, y: (x @ p["w"], y @ p["w"]), {"w": w}, [(x, y)], what=("mean", "second_moment", "absmax", "min")
    )
    np.testing.assert_allclose(of("w", (4, 4), stats)[1][0], moment(np.concatenate([x, y])), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of("w", (4, 4), stats, "mean")[1][0], np.concatenate([x, y]).mean(0), atol=1e-6)
    np.testing.assert_array_equal(of("w", (4, 4), stats, "absmax")[1][0], np.abs(np.concatenate([x, y])).max(0))
    np.testing.assert_array_equal(of("w", (4, 4), stats, "min")[1][0], np.concatenate([x, y]).min(0))
    assert observed_paths(stats, "mean") == ("w",)
    assert observed_paths(stats, "histogram") == ()
    transposed = observe(lambda p, x: x @ p["w"] @ p["w"].T, {"w": w}, [x])
    with pytest.raises(ValueError, match="contracted along different axes"):
        of("w", (4, 4), transposed)


def test_stack_axes_in_another_order():
    """A scan over axis 1 of a kernel whose axis 0 is a batch of products: statistics lead with the scanned one."""
    w, x = normal(0, 2, 3, 4, 4), normal(1, 2, 5, 4)

    def fn(p, x):
        step = lambda x, w: (jnp.tanh(jnp.einsum("bnf,bfo->bno", x, w)), None)  # noqa: E731
        return lax.scan(step, x, jnp.moveaxis(p["w"], 1, 0))[0]

    want = np.zeros((2, 3, 4, 4))
    for layer in range(3):
        want[:, layer] = moment(x)
        x = jnp.tanh(jnp.einsum("bnf,bfo->bno", x, w[:, layer]))
    layout, found = of("w", w.shape, observe(fn, {"w": w}, [normal(1, 2, 5, 4)]))
    assert layout.roles.stack == (0, 1)
    np.testing.assert_allclose(found, want.reshape(6, 4, 4), rtol=1e-4, atol=1e-5)


def test_what_was_not_observed_is_named():
    stats = observe(lambda p, i: p["w"][i], {"w": normal(0, 4, 4)}, [jnp.arange(3)])
    with pytest.raises(ValueError, match="'w' was not observed in a contraction"):
        of("w", (4, 4), stats)
    stats = {"w": (entry(5, jnp.ones(4), contracting=(0,)),)}
    with pytest.raises(ValueError, match=r"needs what='second_moment', and at 'w' \['mean'\] were observed"):
        of("w", (4, 4), stats)


def test_jit_splits_as_eager():
    layout = Matrices((2, 5, 3), Roles((0,), (2,), (1,)))
    array = normal(0, 2, 5, 3)
    np.testing.assert_array_equal(jax.jit(layout.split)(array), layout.split(array))


@pytest.mark.parametrize(
    "name", ["transform_nn_scan", "conv_same", "conv_depthwise", "attention_self", "plain_batched_einsum", "nnx_lstm"]
)
def test_models_of_the_zoo(name):
    """Second moments go with the matrices: those of the outputs are ``W^T S W``, whatever the kernel looks like."""
    model = ZOO[name].model
    what = ("second_moment", "output_second_moment")
    stats = observe(model.fn, model.params, [model.inputs], what=what, **model.kwargs)
    leaves = dict(zip(*flatten_with_paths(model.params)[:2], strict=True))
    assert observed_paths(stats, "second_moment")
    for path in observed_paths(stats, "second_moment"):
        layout, found = of(path, leaves[path].shape, stats)
        roles = layout.roles
        read = ["s" if i in roles.stack else "i" if i in roles.contracting else "o" for i in range(leaves[path].ndim)]
        assert "".join(read) in model.weights[path].split("/")
        if len(stats[path]) > 1:
            continue
        w = np.float64(layout.split(leaves[path]))
        (seen,) = stats[path]
        want = np.float64(seen["output_second_moment"]).reshape(layout.batch, layout.outputs, layout.outputs)
        np.testing.assert_allclose(w.swapaxes(1, 2) @ found @ w, want, rtol=2e-3, atol=1e-4)
