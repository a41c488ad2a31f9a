"""Statistics of batch normalizations of any function in evaluation mode, against a pass in training mode and NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.search.supernet import Supernet, batch_statistics, find_normalizations, recalibrated
from tests.zoo import ZOO
from tests.zoo.model import arrays, data, fill

TOLERANCE = 1e-4  # Linen computes variances as E[x^2] - E[x]^2 in float32


class Network(nn.Module):
    """A biased convolution, its norm, a residual block, a norm of two stacked layers at the end."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm()(nn.Conv(6, (3, 3))(x)))
        y = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + norm(use_scale=False)(nn.Conv(6, (1, 1))(y)))
        return nn.Dense(3)(norm(use_bias=False)(x.mean((1, 2))))


@functools.cache
def network():
    module = Network()
    params = fill(jax.eval_shape(module.init, jax.random.key(0), data(2, 5, 5, 2)))
    return module, params, 2.0 * data(3, 8, 5, 5, 2) + 1.0


def test_agrees_with_a_pass_in_training_mode():
    module, params, batches = network()
    found = find_normalizations(module.apply, params, batches[0])
    assert [one.mean[0] for one in found] == [f"batch_stats/BatchNorm_{i}/mean" for i in range(4)]
    assert {one.channels for one in found} == {(3,), (1,)}
    ours = jax.jit(lambda p, b: recalibrated(module.apply, p, b))(params, batches)
    update = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    theirs = jc.prune.reestimate_batchnorm(lambda p, x: update(p, x)[1], params, list(batches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE), ours, theirs)


def folded(p, x):
    """Multiplied before the mean is subtracted, the variance a standard deviation under a division."""
    h = x @ p["w"]
    gain = p["gain"] / jnp.sqrt(p["var"] + 1e-3)
    return jnp.tanh(h * gain[None] + (p["bias"] - p["mean"] * gain)[None]) @ p["v"]


def test_the_order_of_operations_does_not_matter():
    params = arrays(w=(4, 5), v=(5, 2), gain=(5,), bias=(5,), mean=(5,)) | {"var": jnp.full(5, 2.0)}
    batches = data(2, 16, 4)
    found = recalibrated(folded, params, batches)
    h = (np.asarray(batches, np.float64) @ np.asarray(params["w"], np.float64)).reshape(-1, 5)
    np.testing.assert_allclose(found["mean"], h.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["var"], h.var(0), rtol=1e-5, atol=1e-5)
    assert found["w"] is params["w"]


def layers(p, x):
    """Normalized layers in a rematerialized scan: each layer's statistics depend on the layer before."""

    def layer(h, p):
        h = h @ p["w"]
        return jax.nn.relu((h - p["mean"][None]) * jax.lax.rsqrt(p["var"] + 1e-5)[None]), None

    return jax.lax.scan(jax.checkpoint(layer), x, p["layers"])[0]


def test_layers_of_a_scan():
    stack = arrays(w=(3, 4, 4), mean=(3, 4)) | {"var": jnp.full((3, 4), 2.0)}
    x = data(16, 4)
    found = batch_statistics(layers, {"layers": stack}, x)
    h = np.asarray(x, np.float64)
    for i in range(3):
        h = h @ np.asarray(stack["w"][i], np.float64)
        np.testing.assert_allclose(found["layers/mean"][i], h.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["layers/var"][i], h.var(0), rtol=1e-4, atol=1e-4)
        h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0)


def test_subnets_side_by_side_are_normalized():
    """The recalibrated subnet, masked and extracted, gives the same; each subnet has statistics of its own."""
    module, params, batches = network()
    supernet = Supernet.from_model(module.apply, params, batches[0], round_to=1, widths=(0.5, 1.0), depth=False)
    space = supernet.space

    def evaluate(genes):
        own = recalibrated(module.apply, supernet.mask(params, genes), batches)
        return own, supernet.apply(own, genes, batches[0])

    genes = space.enumerate()
    own, outs = jax.jit(jax.vmap(evaluate))(genes)
    for i in range(space.size):
        one, variables = (jax.tree.map(lambda rows, i=i: rows[i], tree) for tree in (genes, own))
        small = supernet.extract(variables, one)
        np.testing.assert_allclose(small.fn(small.params, batches[0]), outs[i], rtol=1e-4, atol=1e-4)
    means = np.asarray(own["batch_stats"]["BatchNorm_2"]["mean"])
    assert np.abs(means[0] - means[-1]).max() > 0.01  # subnets differ in their statistics


def test_what_is_not_supported_is_refused():
    params = arrays(w=(4, 4), mean=(4,)) | {"var": jnp.ones(4)}

    def norm(p, x):
        return (x - p["mean"][None]) * jax.lax.rsqrt(p["var"] + 1e-5)[None]

    with pytest.raises(ValueError, match="found no batch normalization"):
        recalibrated(lambda p, x: x @ p["w"], params, data(2, 3, 4))
    with pytest.raises(ValueError, match="'mean' normalizes in more than one place"):
        recalibrated(lambda p, x: jnp.tanh(norm(p, x)) @ p["w"] + norm(p, x), params, data(2, 3, 4))
    with pytest.raises(ValueError, match="first axis over batches"):
        recalibrated(norm, params, jnp.zeros((0, 3, 4)))
    with pytest.raises(ValueError, match="batches= holds NaN"):
        recalibrated(norm, params, jnp.full((2, 3, 4), jnp.nan))


def test_a_layer_norm_is_none():
    model = ZOO["linen_layer_norm"].model
    assert find_normalizations(model.fn, model.params, *model.inputs) == ()


def test_dtypes_stay():
    params = {"mean": jnp.zeros(3, jnp.bfloat16), "var": jnp.ones(3, jnp.bfloat16)}

    def norm(p, x):
        return (x - p["mean"][None]) * jax.lax.rsqrt(p["var"] + jnp.bfloat16(1e-3))[None]

    found = recalibrated(norm, params, data(2, 8, 3, dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    with jax.enable_x64(True):
        wide = {"mean": jnp.zeros(3, jnp.float64), "var": jnp.ones(3, jnp.float64)}
        x = np.random.default_rng(0).standard_normal((2, 8, 3))
        found = recalibrated(lambda p, x: (x - p["mean"][None]) * jax.lax.rsqrt(p["var"] + 1e-3)[None], wide, x)
        np.testing.assert_allclose(found["mean"], x.mean((0, 1)), rtol=1e-12)
        np.testing.assert_allclose(found["var"], x.var((0, 1)), rtol=1e-12)
