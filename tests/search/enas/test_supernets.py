"""ENAS's alternation on supernets: any model, and elastic modules with batch normalization."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxcompress as jc
from jaxcompress.search import ENAS, Choice, Space, alternate
from jaxcompress.search.supernet import Supernet, recalibrated
from jaxcompress.search.supernet.elastic import ElasticBatchNorm, ElasticDense, ElasticNetwork

pytestmark = pytest.mark.standard_promotion  # optax.adam


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    return jc.search.split((np.float32(x / 16), np.int32(y)), (0.5, 0.3, 0.2), jax.random.key(0))


def loss(outputs, targets):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def error(outputs, targets):
    return jnp.mean((outputs.argmax(-1) != targets).astype(jnp.float32))


def searched(space, apply, params, **options):
    train, validation, _ = digits()
    return alternate(
        space, apply, params, loss=loss, error=error, train=train, validation=validation, key=jax.random.key(2),
        strategy=ENAS(batch=4, hidden=16, learning_rate=0.02), controller_steps=20, **options,
    )  # fmt: skip


def first(genes):
    return jax.tree.map(lambda row: row[0], genes)


def test_any_model():
    """A residual network: the search tells the wide from the narrow, and what it finds is really smaller."""

    def fn(params, x):
        hidden = jax.nn.relu(x @ params["in"])
        return (hidden + jax.nn.relu(hidden @ params["up"]) @ params["down"]) @ params["out"]

    shapes = {"in": (64, 16), "up": (16, 32), "down": (32, 16), "out": (16, 10)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), 4), strict=True))
    params = {name: jax.random.normal(keys[name], shape) / shape[0] ** 0.5 for name, shape in shapes.items()}
    report = digits()[2]
    supernet = Supernet.from_model(fn, params, report[0][:1], widths=(1 / 16, 1.0), round_to=1)
    found = searched(supernet.space, supernet.apply, params, rounds=12)
    genes, errors = found.derive(jax.random.key(3), report, samples=8)
    best = first(genes)
    assert errors[0] < 0.15
    assert supernet.space.config(best)["width"]["down"] == 16  # of the stream, whose narrow form has one unit
    assert found.course.error[-1] < 0.3 * found.course.error[0]
    small = supernet.extract(found.params, best)
    np.testing.assert_allclose(error(small.fn(small.params, report[0]), report[1]), errors[0], atol=1e-6)


class Network(nn.Module):
    """A hidden layer of elastic width with batch normalization."""

    train: bool = False

    @nn.compact
    def __call__(self, x, genome):
        hidden = ElasticDense(32, use_bias=False)(x, genome["width"])
        hidden = ElasticBatchNorm(use_running_average=not self.train)(hidden, genome["width"])
        return ElasticDense(10)(nn.relu(hidden))


def test_elastic_modules_with_batch_normalization():
    """Subnets normalize by their batch; running statistics are no weights, and are set for the one that is derived."""
    space = Space({"width": Choice((1, 4, 32))})
    training, network = ElasticNetwork(Network(train=True), space), ElasticNetwork(Network(), space)
    train, _, report = digits()

    def apply(variables, genome, x):
        return training.apply(variables, genome, x, mutable=["batch_stats"])[0]

    variables = network.init(jax.random.key(0), train[0][:1])
    found = searched(space, apply, variables, rounds=6, optimizer=optax.adam(0.01))
    before, after = (tree["batch_stats"]["ElasticBatchNorm_0"] for tree in (variables, found.params))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    genes, errors = found.derive(jax.random.key(3), report, samples=8)
    best = first(genes)
    assert space.config(best) == {"width": 32}
    assert errors[0] < 0.15
    ready = recalibrated(lambda variables, x: network.apply(variables, best, x), found.params, train[0][None])
    small = network.extract(ready, best, report[0][:1])
    assert error(small.fn(small.params, report[0]), report[1]) < errors[0] + 0.05
