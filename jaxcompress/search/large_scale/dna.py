"""An architecture as arrays of fixed shape: a chain of layers with skips, from nothing at all up to given bounds."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far networks may grow. The paper knows no bounds; programs of fixed shape need them.

    Where a mutation would leave them it is not drawn (a layer more than ``layers``) or stops at them (channels, window,
    stride). Memory and the time of one layer grow with ``channels`` and ``kernel``, whatever a network uses of them.

    Attributes:
        image: ``(height, width, channels)`` of the data.
        outputs: logits.
        layers: the most layers of a network.
        channels: the most channels of a layer; at least those of the image.
        kernel: the largest window of a convolution, odd.
        stride: the largest stride of a convolution, as a power of two: 1 means 2, 2 means 4.
    """

    image: tuple[int, int, int]
    outputs: int
    layers: int = 8
    channels: int = 32
    kernel: int = 5
    stride: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for bounds that no network keeps."""
        if len(self.image) != 3 or min(self.image) < 1:
            raise ValueError(f"image must be (height, width, channels), each 1 or more, got {self.image}")
        if self.layers < 1 or self.outputs < 1 or self.stride < 0:
            raise ValueError(f"layers and outputs must be 1 or more and stride 0 or more, got {self}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.channels < self.image[2]:
            raise ValueError(f"channels={self.channels} cannot hold the {self.image[2]} channels of the image")


class DNA(NamedTuple):
    """A network: ``count`` layers in a row, vertices between them, skips from vertex to later vertex.

    Vertex 0 is the image, vertex ``i + 1`` the result of layer ``i``; behind the last one are a mean over the image and
    a dense layer. Slots beyond the count hold zeros.

    Attributes:
        count: int32, layers.
        convolution: bool ``[layers]``: a convolution, or a one-to-one layer, which hands on what it gets.
        channels: int32 ``[layers]``, of a convolution.
        window: int32 ``[layers, 2]``, height and width of a convolution, odd.
        stride: int32 ``[layers]``, the power of two.
        relu: bool ``[layers]``: whether the vertex behind the layer has a ReLU.
        skips: bool ``[layers + 1, layers + 1]``: ``skips[a, b]`` adds vertex ``a`` to vertex ``b > a``.
        rate: float32, the learning rate.
    """

    count: jax.Array
    convolution: jax.Array
    channels: jax.Array
    window: jax.Array
    stride: jax.Array
    relu: jax.Array
    skips: jax.Array
    rate: jax.Array


class Vertices(NamedTuple):
    """The real sizes of all vertices; those behind the last layer repeat it.

    Attributes:
        height: int32 ``[layers + 1]``.
        width: int32 ``[layers + 1]``.
        channels: int32 ``[layers + 1]``.
    """

    height: jax.Array
    width: jax.Array
    channels: jax.Array


def trivial(bounds: Bounds, *, rate: float = 0.1) -> DNA:
    """The network that evolution begins with: no layers at all, only the mean over the image and the dense layer."""
    n = bounds.layers
    return DNA(
        count=jnp.int32(0),
        convolution=jnp.zeros(n, bool),
        channels=jnp.zeros(n, jnp.int32),
        window=jnp.zeros((n, 2), jnp.int32),
        stride=jnp.zeros(n, jnp.int32),
        relu=jnp.zeros(n, bool),
        skips=jnp.zeros((n + 1, n + 1), bool),
        rate=jnp.float32(rate),
    )


def vertices(bounds: Bounds, dna: DNA) -> Vertices:
    """The real sizes of one network's vertices."""
    height, width, channels = ([jnp.int32(size)] for size in bounds.image)
    for i in range(bounds.layers):
        convolution = dna.convolution[i]
        step = jnp.where(convolution, jnp.left_shift(1, dna.stride[i]), 1)
        height.append((height[-1] + step - 1) // step)
        width.append((width[-1] + step - 1) // step)
        channels.append(jnp.where(convolution, dna.channels[i], channels[-1]))
    return Vertices(jnp.stack(height), jnp.stack(width), jnp.stack(channels))


def parameters(bounds: Bounds, dna: DNA) -> jax.Array:
    """How many parameters one network has. int32."""
    channels = vertices(bounds, dna).channels
    own = jnp.where(dna.convolution, (dna.window.prod(-1) * channels[:-1] + 1) * channels[1:], 0)
    return own.sum(dtype=jnp.int32) + (channels[-1] + 1) * bounds.outputs


def without_rest(dna: DNA) -> DNA:
    """The same network with zeros beyond its count: equal networks have equal arrays."""
    n = len(dna.convolution)
    there, reached = jnp.arange(n) < dna.count, jnp.arange(n + 1) <= dna.count
    later = jnp.arange(n + 1)[:, None] < jnp.arange(n + 1)[None, :]
    convolution = dna.convolution & there
    return dna._replace(
        convolution=convolution,
        channels=jnp.where(convolution, dna.channels, 0),
        window=jnp.where(convolution[:, None], dna.window, 0),
        stride=jnp.where(convolution, dna.stride, 0),
        relu=dna.relu & there,
        skips=dna.skips & later & reached[None, :],
    )
