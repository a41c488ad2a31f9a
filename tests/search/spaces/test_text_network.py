"""The masked text network computes what the small one does (NumPy, float64), and its padding never learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.spaces import Text, TextNetwork

TEXT = Text(
    vocabulary=20, classes=3, embeddings=(3, 5), filters=(2, 4), windows=(2, 5), branches=2, units=(3, 6), layers=2
)
NETWORK, SPACE = TextNetwork(TEXT), TEXT.space()
CONFIGS = {
    "cnn": {"kind": "cnn", "convolutional": {"filters": 2, "layers": 1, "windows": [3]}},
    "deep cnn": {"kind": "cnn", "convolutional": {"filters": 4, "layers": 2, "windows": [2, 5]}},
    "lstm": {"kind": "lstm", "recurrent": {"units": 3, "layers": 1, "both": False}},
    "lstms": {"kind": "lstm", "recurrent": {"units": 6, "layers": 2, "both": True}},
    "gru": {"kind": "gru", "recurrent": {"units": 6, "layers": 1, "both": True}},
    "grus": {"kind": "gru", "recurrent": {"units": 3, "layers": 2, "both": False}},
}
WORDS = jnp.array([[5, 7, 2, 9, 0, 0], [4, 3, 2, 1, 8, 19]])


def genome(name):
    return SPACE.decode(SPACE.encode({"embedding": 3, "dropout": 0.0, **CONFIGS[name]}))


INIT = jax.jit(NETWORK.init)


@jax.jit
def learning(params, genome):
    """Gradients of some loss, and the logits."""

    def loss(params):
        logits = NETWORK.apply(params, genome, WORDS)
        return jnp.sum(logits[:, 0] ** 2 + logits[:, 1]), logits

    return jax.grad(loss, has_aux=True)(params)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def small(name, params):
    """The logits of the small network, word by word."""
    config, params = CONFIGS[name], jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    body, features = params[config["kind"]], []
    for words in np.asarray(WORDS):
        x = params["embedding"][words, :3] * (words > 0)[:, None]
        if config["kind"] == "cnn":
            features.append(convolved(x, body, **config["convolutional"]))
        else:
            features.append(recurred(x[words > 0], body, **config["recurrent"]))
    return np.stack(features) @ body["kernel"][rows_of(config)] + body["bias"]


def rows_of(config):
    """Which rows of the classifier the candidate has."""
    if config["kind"] == "cnn":
        own = config["convolutional"]
        return np.array([f < own["filters"] and b < len(own["windows"]) for b in range(2) for f in range(4)])
    own = config["recurrent"]
    return np.array([u < own["units"] and d <= own["both"] for d in range(2) for u in range(6)])


def convolved(x, params, filters, layers, windows):
    features = []
    for b, window in enumerate(windows):
        y = x
        for layer in params["layers"][:layers]:
            start = 2 - (window - 1) // 2  # the largest window is 5, two words to the left
            kernel = layer["kernel"][b, start : start + window, : y.shape[1], :filters]
            padded = np.pad(y, [((window - 1) // 2, window // 2), (0, 0)])
            seen = [np.einsum("wi,wio->o", padded[t : t + window], kernel) for t in range(len(y))]
            y = np.maximum(np.stack(seen) + layer["bias"][b, :filters], 0)
        features.append(y.max(0))
    return np.concatenate(features)


def recurred(x, params, units, layers, both):
    rows = list(range(3))
    for layer in params["layers"][:layers]:
        ways = [one_way(x, layer, 0, units, rows)]
        if both:
            ways.append(one_way(x[::-1], layer, 1, units, rows)[::-1])
        x = np.concatenate(ways, axis=-1)
        rows = [6 * way + unit for way in range(1 + both) for unit in range(units)]
    return np.concatenate([ways[0][-1], *(way[0] for way in ways[1:])])


def one_way(x, layer, way, units, rows):
    kernel = layer["input"][way][rows][..., :units]
    state, bias = layer["state"][way, :units, :, :units], layer["bias"][way, :, :units]
    h, c, outputs = np.zeros(units), np.zeros(units), []
    for word in x:
        seen, told = np.einsum("i,igu->gu", word, kernel) + bias, np.einsum("u,ugv->gv", h, state)
        if len(seen) == 4:
            write, forget, new, read = seen + told
            c = sigmoid(forget) * c + sigmoid(write) * np.tanh(new)
            h = sigmoid(read) * np.tanh(c)
        else:
            reset, keep = sigmoid(seen[:2] + told[:2])
            h = (1 - keep) * np.tanh(seen[2] + reset * (told[2] + layer["state_bias"][way, :units])) + keep * h
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("name", CONFIGS)
def test_as_the_small_network(name):
    """Logits after a step of training; weights that begin as zeros are padding and stay it, as many as costs say."""
    own = genome(name)
    params = INIT(own, jax.random.key(2))
    moved = jax.tree.map(lambda p, g: p - 0.3 * g, params, learning(params, own)[0])
    grads, logits = learning(moved, own)
    np.testing.assert_allclose(logits, small(name, moved), rtol=2e-5, atol=2e-6)
    for before, gradient in zip(*map(jax.tree.leaves, (weights(params), weights(grads))), strict=True):
        assert (np.asarray(gradient)[np.asarray(before) == 0] == 0).all()
    assert (np.asarray(grads["embedding"]) != 0).any()
    body = weights(params)[CONFIGS[name]["kind"]]
    per_word, head = (sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(part)) for part in body)
    assert 2 * (TEXT.length * per_word + head) == int(TEXT.costs(own).flops)


def weights(tree):
    """What is not a bias: of each kind of body the layers, then the classifier; the embedding."""

    def of(body):
        layers = [{name: leaf for name, leaf in layer.items() if "bias" not in name} for layer in body["layers"]]
        return layers, body["kernel"]

    return {kind: of(tree[kind]) for kind in ("cnn", "lstm", "gru")} | {"embedding": tree["embedding"]}


def test_one_program(compilations):
    """Kinds, widths, windows and depths are data."""
    learning(INIT(genome("cnn"), jax.random.key(0)), genome("cnn"))
    before = compilations("learning"), compilations("init")
    genes = jax.jit(lambda key: SPACE.decode(SPACE.sample(key, 8)))(jax.random.key(0))
    for i in range(8):
        own = jax.tree.map(lambda a, i=i: a[i], genes)
        assert np.isfinite(learning(INIT(own, jax.random.key(i)), own)[1]).all()
    assert (compilations("learning"), compilations("init")) == before


def test_dropout():
    own = genome("lstms") | {"dropout": jnp.float32(0.5)}

    params = INIT(own, jax.random.key(0))
    _, plain = learning(params, own)
    dropped = jax.jit(jax.vmap(lambda key: NETWORK.apply(params, own, WORDS, key=key)))
    many = dropped(jax.random.split(jax.random.key(1), 1000))
    np.testing.assert_allclose(many.mean(0), plain, atol=6 * float(many.std()) / np.sqrt(1000))
    assert float(jnp.abs(many[0] - many[1]).max()) > 0
