"""The network that a candidate of `Text` stands for, as large as the space allows and masked: one program for all."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.population.masks import drawn, units
from jaxcompress.search.spaces.recurrence import Recurrence
from jaxcompress.search.spaces.text import Text

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TextNetwork:
    """Classifies texts with the embedding, body and depth that a decoded genome of ``text.space()`` says.

    Kind, widths, windows and depths are runtime arrays. What is beyond a width is zero and stays zero in training
    with elementwise optimizers: the candidate computes and learns what the small network would. Word 0 is padding: its
    embedding is zero, and recurrent states pass over it.

    ``init`` and the loss of ``apply`` fit `jaxcompress.search.population.Training`.

    Args:
        text: the space.

    Example:
        >>> text = Text(vocabulary=100, classes=3, embeddings=(8, 16), filters=(4, 8), units=(4, 8), layers=1)
        >>> network, space = TextNetwork(text), text.space()
        >>> config = {"embedding": 8, "dropout": 0.5, "kind": "gru",
        ...           "recurrent": {"units": 4, "layers": 1, "both": True}}
        >>> genome = space.decode(space.encode(config))
        >>> params = jax.jit(network.init)(genome, jax.random.key(1))
        >>> jax.jit(network.apply)(params, genome, jnp.array([[5, 7, 2, 0], [4, 3, 2, 1]])).shape
        (2, 3)
    """

    text: Text

    def init(self, genome: Any, key: jax.Array) -> Params:
        """Parameters of all kinds of bodies, zeros beyond the widths of the candidate.

        Embedding: normal of deviation 0.1. Convolutions: He et al.'s. Recurrences: see `Recurrence.init`.
        """
        keys = jax.random.split(key, 4)
        words = (self.text.vocabulary, max(self.text.embeddings))
        mask = jnp.broadcast_to(units(genome["embedding"], words[1])[None, :], words)
        table = drawn(keys[0], mask, 1.0, full=words, gain=0.01).at[0].set(0.0)
        recurrent = genome["recurrent"]
        return {
            "embedding": table,
            "cnn": self._init_branches(genome, keys[1]),
            "lstm": self._recurrence(4).init(recurrent, genome["embedding"], keys[2]),
            "gru": self._recurrence(3).init(recurrent, genome["embedding"], keys[3]),
        }

    def apply(self, params: Params, genome: Any, words: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Logits ``[batch, classes]``.

        Args:
            params: as `init` gives them.
            genome: decoded.
            words: int ``[batch, length]``, 0 behind the end of a text.
            key: of dropout before the classifier; None for no dropout.
        """
        real = words > 0
        x = jnp.where(real[:, :, None], params["embedding"][words], 0.0)
        x = x * units(genome["embedding"], x.shape[-1])[None, None, :]
        bodies = (
            lambda x: self._branches(params["cnn"], genome["convolutional"], x, key, genome["dropout"]),
            lambda x: self._recurrent(params["lstm"], 4, genome, x, real, key),
            lambda x: self._recurrent(params["gru"], 3, genome, x, real, key),
        )
        return lax.switch(genome["kind"], bodies, x)

    def _recurrence(self, gates: int) -> Recurrence:
        text = self.text
        return Recurrence(gates, max(text.embeddings), max(text.units), text.layers, text.classes)

    def _recurrent(
        self, params: Params, gates: int, genome: Any, x: Any, real: Any, key: jax.Array | None
    ) -> jax.Array:
        features = self._recurrence(gates).states(params, genome["recurrent"], x, real)
        return features_to_logits(params, features, key, genome["dropout"])

    def _init_branches(self, genome: Any, key: jax.Array) -> Params:
        """Kernels ``[branches, window, inputs, filters]`` per layer; the classifier takes the branches side by side."""
        own, text = genome["convolutional"], self.text
        keys = jax.random.split(key, text.layers + 1)
        widest, outputs = max(text.embeddings), max(text.filters)
        filters = units(own["filters"], outputs)
        there = units(own["windows"]["count"], text.branches)
        layers = []
        for i in range(text.layers):
            inputs, count = (
                (filters, own["filters"]) if i else (units(genome["embedding"], widest), genome["embedding"])
            )
            matrix = inputs[:, None] * filters[None, :]
            taps = there[:, None] * jax.vmap(self._taps)(own["windows"]["values"])
            mask = taps[:, :, None, None] * matrix[None, None] * (i < own["layers"]).astype(jnp.float32)
            fan_in = (own["windows"]["values"] * count)[:, None, None, None]
            kernel = drawn(keys[i], mask, fan_in, full=mask.shape, gain=2.0)
            layers.append({"kernel": kernel, "bias": jnp.zeros((text.branches, outputs))})
        rows = (there[:, None] * filters[None, :]).reshape(-1)
        mask = jnp.broadcast_to(rows[:, None], (rows.size, text.classes))
        head = drawn(keys[-1], mask, own["filters"] * own["windows"]["count"], full=mask.shape, gain=1.0)
        return {"layers": layers, "kernel": head, "bias": jnp.zeros(text.classes)}

    def _taps(self, window: jax.Array) -> jax.Array:
        """Which words of the largest window a smaller one sees: "SAME" padding, the odd word on the right."""
        most = self.text.windows[1]
        offset = jnp.arange(most) - (most - 1) // 2
        return ((offset >= -((window - 1) // 2)) & (offset <= window // 2)).astype(jnp.float32)

    def _branches(self, params: Params, own: Any, x: jax.Array, key: jax.Array | None, dropout: jax.Array) -> jax.Array:
        filters = units(own["filters"], max(self.text.filters))

        def branch(layers: list[Params], window: jax.Array) -> jax.Array:
            taps = self._taps(window)[:, None, None]

            def layer(i: int, x: jax.Array) -> jax.Array:
                kernel, bias = layers[i]["kernel"] * taps, layers[i]["bias"]
                seen = jnp.einsum("ntwi,wio->nto", self._windows(x), kernel) + bias[None, None, :]
                return jax.nn.relu(seen) * filters[None, None, :]

            y = layer(0, x)
            for i in range(1, self.text.layers):
                y = lax.cond(i < own["layers"], lambda y, i=i: layer(i, y), lambda y: y, y)
            return jnp.max(y, axis=1)

        features = jax.vmap(branch)(params["layers"], own["windows"]["values"])  # [branches, batch, filters]
        features = features * units(own["windows"]["count"], self.text.branches)[:, None, None]
        flat = jnp.moveaxis(features, 0, 1).reshape(x.shape[0], -1)
        return features_to_logits(params, flat, key, dropout)

    def _windows(self, x: jax.Array) -> jax.Array:
        """``[batch, length, window, inputs]``: the words around each, zeros beyond the ends."""
        most = self.text.windows[1]
        padded = jnp.pad(x, ((0, 0), ((most - 1) // 2, most // 2), (0, 0)))
        return jnp.stack([padded[:, k : k + x.shape[1]] for k in range(most)], axis=2)


def features_to_logits(params: Params, features: jax.Array, key: jax.Array | None, rate: jax.Array) -> jax.Array:
    """Dropout where there is a key, then the classifier."""
    if key is not None:
        kept = jax.random.bernoulli(key, 1.0 - rate, features.shape)
        features = jnp.where(kept, features / (1.0 - rate), 0.0)
    return features @ params["kernel"] + params["bias"][None, :]
