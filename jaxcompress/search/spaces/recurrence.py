"""LSTM and GRU layers of maximal width and depth, of which a candidate uses a part."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.population.masks import drawn, units

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """Layers of an LSTM (four gates) or a GRU (three), in one direction or both; sizes are arrays.

    Attributes:
        gates: 4 for an LSTM, 3 for a GRU.
        inputs: the most features of a word.
        width: the most units of a layer.
        layers: the most layers.
        classes: of the classifier behind them.

    References:
        Hochreiter & Schmidhuber, 1997 (LSTM). https://doi.org/10.1162/neco.1997.9.8.1735
        Cho et al., 2014 (GRU), section 2.3; with the reset gate behind the product, as in cuDNN and Flax.
        https://arxiv.org/abs/1406.1078
        Jozefowicz et al., 2015, section 2.2 (a forget bias of one). https://proceedings.mlr.press/v37/jozefowicz15.html
    """

    gates: int
    inputs: int
    width: int
    layers: int
    classes: int

    def init(self, own: Any, embedding: jax.Array, key: jax.Array) -> Params:
        """Normal weights by the candidate's fan-in, a forget bias of one, zeros beyond its widths.

        Args:
            own: decoded ``{"units", "layers", "both"}``.
            embedding: int32, features of a word.
            key: consumed.
        """
        keys = jax.random.split(key, 2 * self.layers + 1)
        there = jnp.stack([jnp.float32(1.0), own["both"].astype(jnp.float32)])  # [directions]
        mine = units(own["units"], self.width)
        both = (there[:, None] * mine[None, :]).reshape(-1)
        layers = []
        for i in range(self.layers):
            inputs, count = (both, own["units"] * (1 + own["both"].astype(jnp.int32)))
            if i == 0:
                inputs, count = units(embedding, self.inputs), embedding
            exists = there * (i < own["layers"]).astype(jnp.float32)
            layers.append(
                {
                    "input": self._drawn(keys[2 * i], exists, inputs, mine, count),
                    "state": self._drawn(keys[2 * i + 1], exists, mine, mine, own["units"]),
                    "bias": self._bias(exists, mine),
                    "state_bias": jnp.zeros((2, self.width)),
                }
            )
        mask = jnp.broadcast_to(both[:, None], (both.size, self.classes))
        head = drawn(keys[-1], mask, jnp.sum(both), full=mask.shape, gain=1.0)
        return {"layers": layers, "kernel": head, "bias": jnp.zeros(self.classes)}

    def _drawn(self, key: Any, exists: Any, inputs: jax.Array, outputs: jax.Array, fan_in: Any) -> jax.Array:
        """``[directions, inputs, gates, width]``."""
        matrix = inputs[:, None, None] * outputs[None, None, :]
        shape = (2, inputs.size, self.gates, self.width)
        mask = jnp.broadcast_to(exists[:, None, None, None] * matrix[None], shape)
        return drawn(key, mask, fan_in, full=shape, gain=1.0)

    def _bias(self, exists: jax.Array, mine: jax.Array) -> jax.Array:
        """``[directions, gates, width]``: ones for the forget gate of an LSTM."""
        forget = (jnp.arange(self.gates) == 1) & (self.gates == 4)
        return exists[:, None, None] * forget.astype(jnp.float32)[None, :, None] * mine[None, None, :]

    def states(self, params: Params, own: Any, x: jax.Array, real: jax.Array) -> jax.Array:
        """The last states of the last layer, ``[batch, 2 * width]``: of the way forth, then of the way back.

        Args:
            params: as `init` gives them.
            own: decoded ``{"units", "layers", "both"}``.
            x: ``[batch, length, inputs]``.
            real: bool ``[batch, length]``: the words that there are; states pass over the others.
        """
        mine = units(own["units"], self.width)
        there = jnp.stack([jnp.float32(1.0), own["both"].astype(jnp.float32)])
        mask = there[:, None, None] * mine[None, None, :]  # [directions, 1, width]
        sequence, last = self._layer(params["layers"][0], mask, x, real)
        for i in range(1, self.layers):
            sequence, last = lax.cond(
                i < own["layers"],
                lambda both, i=i: self._layer(params["layers"][i], mask, both[0], real),
                lambda both: both,
                (sequence, last),
            )
        return last

    def _layer(self, layer: Params, mask: jax.Array, x: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What a layer puts out at every word ``[batch, length, 2 * width]``, and its last states."""
        ways = jnp.stack([x, x[:, ::-1]])  # [directions, batch, length, inputs]
        seen = jnp.einsum("dnti,digu->tdngu", ways, layer["input"]) + layer["bias"][None, :, None]
        is_real = jnp.moveaxis(jnp.stack([real, real[:, ::-1]]), 2, 0)[..., None]  # [length, directions, batch, 1]

        def step(state: Any, word: Any) -> Any:
            seen, is_real = word
            told = jnp.einsum("dnu,dugv->dngv", state[0], layer["state"])
            new = self._cell(seen, told, layer["state_bias"][:, None, :], *state)
            state = tuple(jnp.where(is_real, fresh * mask, old) for fresh, old in zip(new, state, strict=True))
            return state, state[0]

        start = jnp.zeros((2, x.shape[0], self.width))
        (last, _), outputs = lax.scan(step, (start, start), (seen, is_real))
        forth, back = outputs[:, 0], outputs[::-1, 1]
        sequence = jnp.moveaxis(jnp.concatenate([forth, back], axis=-1), 0, 1)
        return sequence, jnp.concatenate([last[0], last[1]], axis=-1)

    def _cell(self, seen: jax.Array, told: jax.Array, bias: jax.Array, h: jax.Array, c: jax.Array) -> Any:
        """The next hidden state and cell from the parts of the gates ``[directions, batch, gates, width]``."""
        if self.gates == 4:
            write, forget, new, read = (seen[:, :, gate] + told[:, :, gate] for gate in range(4))
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(write) * jnp.tanh(new)
            return jax.nn.sigmoid(read) * jnp.tanh(c), c
        reset = jax.nn.sigmoid(seen[:, :, 0] + told[:, :, 0])
        keep = jax.nn.sigmoid(seen[:, :, 1] + told[:, :, 1])
        new = jnp.tanh(seen[:, :, 2] + reset * (told[:, :, 2] + bias))
        return (1.0 - keep) * new + keep * h, c
