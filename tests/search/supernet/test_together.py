"""From a model to a small network: shared weights trained, searched, extracted, their statistics set anew."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxcompress as jc
from benchmarks.resnet import ResNet20
from jaxcompress.search.supernet import Supernet, recalibrated, sandwich
from tests.zoo.model import data, fill

pytestmark = pytest.mark.slow


class Network(nn.Module):
    """Digits of 8 x 8: a strided convolution, two residual blocks."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm()(nn.Conv(16, (3, 3), 2, use_bias=False)(x[..., None])))
        for _ in range(2):
            y = nn.relu(norm()(nn.Conv(16, (3, 3), use_bias=False)(x)))
            x = x + norm(scale_init=nn.initializers.zeros)(nn.Conv(16, (3, 3), use_bias=False)(y))
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


@functools.cache
def trained():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = jnp.asarray(images[order].reshape(-1, 8, 8) / 16, jnp.float32)
    labels = jnp.asarray(labels[order], jnp.int32)
    module = Network()
    variables = module.init(jax.random.key(0), images[:1])
    supernet = Supernet.from_model(module.apply, variables, images[:1], round_to=4)

    def apply(variables, genome, batch, key):
        return supernet.apply(variables, genome, batch[0], train=True, mutable=["batch_stats"])

    def loss(logits, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    training = sandwich(supernet.space, apply, loss, optax.adam(3e-3), updates=True)
    step = jax.jit(training.step)
    state = training.init(variables, jax.random.key(1))
    for rows in np.random.default_rng(1).integers(0, 1200, (250, 64)):
        state, _ = step(state, (images[rows], labels[rows]))
    return supernet, state.params, (images, labels)


@pytest.mark.standard_promotion
def test_statistics_of_a_subnet_matter():
    """Recalibrated subnets are far better than with the statistics of the whole network; the whole one is as good."""
    supernet, variables, (images, labels) = trained()
    batches = images[:1024].reshape(4, 256, 8, 8)

    def errors(width, calibrate):
        genes = supernet.uniform(width)
        own = recalibrated(supernet.fn, supernet.mask(variables, genes), batches) if calibrate else variables
        logits = jax.jit(lambda v, x: supernet.apply(v, genes, x))(own, images[1200:])
        return float(jnp.mean(jnp.argmax(logits, -1) != labels[1200:]))

    whole = errors(1.0, True)
    assert whole < 0.06
    assert abs(errors(1.0, False) - whole) < 0.06
    before, after = errors(0.5, False), errors(0.5, True)
    assert after < 0.3
    assert after < 0.5 * before


@pytest.mark.standard_promotion
def test_a_search_over_subnets():
    """Errors against FLOPs, all in one program; what is found is extracted and is what was measured."""
    supernet, variables, (images, labels) = trained()
    found = {"calibration": images[:512].reshape(2, 256, 8, 8), "images": images[900:1200], "labels": labels[900:1200]}

    def evaluate(genome, key, data):
        own = recalibrated(supernet.fn, supernet.mask(variables, genome), data["calibration"])
        logits = supernet.apply(own, genome, data["images"])
        return {"error": jnp.mean(jnp.argmax(logits, -1) != data["labels"]), "flops": supernet.flops(genome)}

    run = jc.search.run(
        supernet.space,
        evaluate,
        jc.search.NSGA2(population=16),
        key=jax.random.key(0),
        budget=64,
        objectives=("error", "flops"),
        data=found,
        seeds=jax.tree.map(lambda *g: jnp.stack(g), *(supernet.uniform(w) for w in (0.25, 0.5, 1.0))),
        executor="map",
        progress=False,
    )
    best = run.best()
    genes = supernet.space.encode(best.config)
    small = supernet.extract(variables, genes)
    own = recalibrated(small.fn, small.params, found["calibration"])
    error = float(jnp.mean(jnp.argmax(small.fn(own, found["images"]), -1) != found["labels"]))
    assert abs(error - best.metrics["error"]) < 0.01
    assert len(run.pareto) > 2


def test_resnet_20():
    """He's network for CIFAR: nine branches, ten widths and more; a subnet of it is a smaller network."""
    module, x = ResNet20(width=8), data(1, 32, 32, 3)
    variables = fill(jax.eval_shape(module.init, jax.random.key(0), x))
    supernet = Supernet.from_model(module.apply, variables, x, round_to=4)
    depth = [name for name in supernet.space.names if name.startswith("depth/")]
    assert depth == [f"depth/Block_{i}" for i in range(9)]
    config = supernet.space.config(supernet.uniform(0.5))
    genes = supernet.space.encode(
        {
            "depth": {**config["depth"], "Block_4": 0},
            "width": {name: kept for name, kept in config["width"].items() if not name.startswith("Block_4.Conv_0")},
        }
    )
    small = supernet.extract(variables, genes)
    dense = jax.jit(module.apply).lower(variables, x).compile().cost_analysis()["flops"]
    compiled = jax.jit(small.fn).lower(small.params, x).compile()
    masked = jax.jit(lambda v, g, x: supernet.apply(v, g, x))(variables, genes, x)
    np.testing.assert_allclose(compiled(small.params, x), masked, rtol=1e-4, atol=1e-5)
    assert compiled.cost_analysis()["flops"] < 0.35 * dense
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (small.params, variables)]
    assert sizes[0] == int(supernet.parameters(genes)) < 0.35 * sizes[1]
