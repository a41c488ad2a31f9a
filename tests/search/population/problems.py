"""Small classification problems for populations: two networks, their candidates, data."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxcompress.search import population

MLP = population.MaskedMLP(inputs=4, outputs=3, width=6, depth=2)
CNN = population.MaskedCNN(image=(6, 6, 1), outputs=3, width=4, depth=2, kernel=3, pools=(0, 1))
SGD = partial(optax.sgd, momentum=0.9)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss(network, params, batch, candidate, key):
    del key
    return cross_entropy(network.apply(params, candidate["layers"], batch["x"]), batch["y"])


def init(network, candidate, key):
    return network.init(candidate["layers"], key)


def error(network, params, candidate, data):
    logits = network.apply(params, candidate["layers"], data["x"])
    return {"loss": cross_entropy(logits, data["y"]), "error": (logits.argmax(-1) != data["y"]).mean(dtype=jnp.float32)}


OPTIMIZER = population.from_candidate(SGD, learning_rate="rate")


def training(network, *, optimizer=OPTIMIZER, steps=12):
    return population.Training(
        init=partial(init, network), loss=partial(loss, network), optimizer=optimizer, steps=steps, batch_size=4
    )


def data_for(network, rows=20):
    shape = (network.inputs,) if network is MLP else network.image
    x = jax.random.normal(jax.random.key(7), (rows, *shape))
    return {"x": x, "y": jnp.arange(rows) % network.outputs}


def candidates_for(network):
    """Three of different widths, depths and rates."""
    layers = {"width": jnp.array([[3, 2], [4, 1], [network.width, network.width]]), "count": jnp.array([2, 1, 2])}
    if network is CNN:
        layers["kernel"] = jnp.array([[1, 3], [3, 1], [3, 3]])
    return {"layers": layers, "rate": jnp.array([0.1, 0.2, 0.05])}


def nth(tree, i):
    return jax.tree.map(lambda x: x[i], tree)
