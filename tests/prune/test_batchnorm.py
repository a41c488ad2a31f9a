"""Batch statistics computed anew, against those of all data at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.prune import reestimate_batchnorm


class Net(nn.Module):
    """Two normalizations, of different momenta."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.99)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(3)(x))


MODEL = Net()


def update(variables, x):
    return MODEL.apply(variables, x, train=True, mutable=["batch_stats"])[1]


def batches(*sizes):
    random = np.random.default_rng(0)
    return [jnp.asarray(i + (1 + i) * random.normal(size=(size, 4)), jnp.float32) for i, size in enumerate(sizes)]


def variables():
    return MODEL.init(jax.random.key(0), jnp.ones((2, 4)), train=False)


def test_first_layer_has_the_statistics_of_all_data():
    """Batches of different sizes and means: the law of total variance. Whatever the statistics were before."""
    params, data = variables(), batches(6, 10, 8)
    params["batch_stats"]["BatchNorm_0"]["mean"] += 7.0
    found = reestimate_batchnorm(update, params, data)
    rows = np.concatenate([np.float64(x) for x in data])
    stats = found["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], rows.mean(0), rtol=1e-4, atol=1e-5)  # 1 - 0.99 in float32 has 5 digits
    np.testing.assert_allclose(stats["var"], rows.var(0), rtol=1e-4)
    assert found["params"]["Dense_0"]["kernel"] is params["params"]["Dense_0"]["kernel"]
    assert float(params["batch_stats"]["BatchNorm_0"]["mean"][0]) == 7.0  # the input is as it was


def test_deeper_layers_average_over_batches():
    params, data = variables(), batches(6, 6)
    stats = reestimate_batchnorm(update, params, data)["batch_stats"]["BatchNorm_1"]
    seen = []
    for x in map(np.float64, data):
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        seen.append(x @ np.float64(params["params"]["Dense_0"]["kernel"]))
    rows = np.concatenate(seen)
    np.testing.assert_allclose(stats["mean"], rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], rows.var(0), rtol=1e-4)


def test_errors_say_what_update_must_do():
    params = variables()
    frozen = lambda v, x: MODEL.apply(v, x, train=False, mutable=["batch_stats"])[1]  # noqa: E731
    with pytest.raises(ValueError, match="as it was: it must run in training mode"):
        reestimate_batchnorm(lambda v, x: {"batch_stats": v["batch_stats"], **frozen(v, x)}, params, batches(6))
    with pytest.raises(ValueError, match="update returned no 'batch_stats/BatchNorm_0/mean'"):
        reestimate_batchnorm(lambda v, x: {"other": x}, params, batches(6))
    with pytest.raises(ValueError, match="gave no batch"):
        reestimate_batchnorm(update, params, [])
    with pytest.raises(ValueError, match="matches no leaf"):
        reestimate_batchnorm(update, params, batches(6), means="**/average")
    with pytest.raises(ValueError, match="no variance stands beside the mean 'batch_stats/BatchNorm_0/mean'"):
        reestimate_batchnorm(update, params, batches(6), variances="**/BatchNorm_1/var")
