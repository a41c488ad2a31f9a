"""A perceptron of maximal width and depth, of which a candidate uses a part: one program for all architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.checks import whole
from jaxcompress.search.population.masks import checked_widths, drawn, units

Layers = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class MaskedMLP:
    """A multilayer perceptron whose widths and depth are runtime arrays.

    ``layers`` is what a space decodes to for ``Repeated({"width": ...}, times=IntRange(1, depth))``: ``{"width": int32
    [depth], "count": int32}``; without ``count`` all layers are there. Units beyond a layer's width give zero, layers
    beyond the count hand on what they get: computing and training it is computing and training the smaller network
    (`extract`), and what the padding holds is zero and stays zero.

    Where candidates are computed one after another (``"map"``, ``"sharded"``), layers that are not there cost nothing.

    Attributes:
        inputs: features of the data.
        outputs: logits.
        width: the widest hidden layer.
        depth: the most hidden layers.
        drawn_at: the ``(width, depth)`` that initial weights are drawn at, if larger: so a candidate begins with the
            same weights in a network that is padded less.
        activation: after each hidden layer.

    Example:
        >>> mlp = MaskedMLP(inputs=4, outputs=2, width=8, depth=3)
        >>> layers = {"width": jnp.array([5, 3, 8]), "count": jnp.array(2)}
        >>> params = jax.jit(mlp.init)(layers, jax.random.key(0))
        >>> small = mlp.extract(params, layers)
        >>> jax.tree.map(jnp.shape, small["layer1"])
        {'bias': (3,), 'kernel': (5, 3)}
        >>> x = jnp.ones((1, 4))
        >>> bool(jnp.allclose(jax.jit(mlp.apply)(params, layers, x), jax.jit(mlp.dense)(small, x), atol=1e-6))
        True
    """

    inputs: int
    outputs: int
    width: int
    depth: int
    drawn_at: tuple[int, int] | None = None
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu

    def __post_init__(self) -> None:
        """Raises ValueError for a network that cannot be."""
        whole(self, inputs=self.inputs, outputs=self.outputs, width=self.width, depth=self.depth)

    def init(self, layers: Layers, key: jax.Array) -> dict[str, Any]:
        """Parameters: He et al.'s for the hidden layers by the candidate's own fan-in, zeros in the padding."""
        full_width, full_depth = self.drawn_at or (self.width, self.depth)
        keys = jax.random.split(key, full_depth + 1)
        params, fan_in, before = {}, jnp.int32(self.inputs), jnp.ones(self.inputs)
        for i in range(self.depth):
            full = (self.inputs if i == 0 else full_width, full_width)
            mask = units(layers["width"][i], self.width)
            kernel = drawn(keys[i], before[:, None] * mask[None, :], fan_in, full=full, gain=2.0)
            there = self._there(layers, i)
            params[f"layer{i}"] = {"kernel": jnp.where(there, kernel, 0.0), "bias": jnp.zeros(self.width)}
            fan_in = jnp.where(there, layers["width"][i], fan_in).astype(jnp.int32)
            before = mask if i == 0 else jnp.where(there, mask, before)
        mask = before[:, None] * jnp.ones((1, self.outputs))
        kernel = drawn(keys[-1], mask, fan_in, full=(full_width, self.outputs), gain=1.0)
        return params | {"output": {"kernel": kernel, "bias": jnp.zeros(self.outputs)}}

    def apply(self, params: Any, layers: Layers, x: jax.Array) -> jax.Array:
        """Logits ``[batch, outputs]`` of ``x`` ``[batch, inputs]``."""
        for i in range(self.depth):
            new = partial(self._layer, params[f"layer{i}"], layers["width"][i])
            x = new(x) if i == 0 else lax.cond(self._there(layers, i), new, lambda x: x, x)
        return _affine(params["output"], x)

    def dense(self, params: Any, x: jax.Array) -> jax.Array:
        """Logits of the standalone network of `extract`: no masks, layers as wide as they are."""
        for i in range(self.depth):
            if f"layer{i}" in params:
                x = self.activation(_affine(params[f"layer{i}"], x))
        return _affine(params["output"], x)

    def extract(self, params: Any, layers: Layers) -> dict[str, Any]:
        """The candidate's own parameters, cut out of the padded ones; ``layers`` must be concrete.

        Raises:
            ValueError: if the candidate does not fit the network.
        """
        widths, count = checked_widths(layers, width=self.width, depth=self.depth)
        small, before = {}, self.inputs
        for i in range(count):
            layer = params[f"layer{i}"]
            small[f"layer{i}"] = {"kernel": layer["kernel"][:before, : widths[i]], "bias": layer["bias"][: widths[i]]}
            before = widths[i]
        output = params["output"]
        return small | {"output": {"kernel": output["kernel"][:before], "bias": output["bias"]}}

    def parameters(self, layers: Layers) -> jax.Array:
        """How many parameters the candidate has: float32, may be traced."""
        return self._sum(layers, bias=1.0)

    def flops(self, layers: Layers) -> jax.Array:
        """Floating-point operations (2 x MACs) of one example forward: float32, may be traced."""
        return 2.0 * self._sum(layers, bias=0.0)

    def shape(self, layers: Layers) -> jax.Array:
        """What must be padded: int32 ``(widest layer, layers)``; see `group_by_shape`."""
        count = jnp.asarray(layers.get("count", self.depth), jnp.int32)
        width = jnp.max(jnp.where(jnp.arange(self.depth) < count, layers["width"], 0))
        return jnp.stack([width.astype(jnp.int32), count])

    def padded_to(self, shape: tuple[int, ...]) -> MaskedMLP:
        """The same network padded to a smaller ``(width, depth)`` only; it begins with the same weights."""
        width, depth = shape
        return dataclasses.replace(self, width=width, depth=depth, drawn_at=self.drawn_at or (self.width, self.depth))

    def _layer(self, layer: Mapping[str, jax.Array], width: Any, x: jax.Array) -> jax.Array:
        return self.activation(_affine(layer, x)) * units(width, self.width)[None, :]

    def _sum(self, layers: Layers, *, bias: float) -> jax.Array:
        total, before = jnp.float32(0), jnp.float32(self.inputs)
        for i in range(self.depth):
            width = jnp.asarray(layers["width"][i], jnp.float32)
            there = self._there(layers, i)
            total = total + jnp.where(there, (before + bias) * width, 0.0)
            before = jnp.where(there, width, before)
        return total + (before + bias) * self.outputs

    def _there(self, layers: Layers, i: int) -> jax.Array:
        return jnp.asarray(i, jnp.int32) < jnp.asarray(layers.get("count", self.depth), jnp.int32)


def _affine(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"][None, :]
