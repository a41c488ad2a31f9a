"""A convolutional network of maximal width, depth and kernel, of which a candidate uses a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.checks import whole
from jaxcompress.search.population.masks import checked_widths, drawn, units, window

Layers = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class MaskedCNN:
    """Convolutions of stride 1 with pooling between them, a mean over the image, one dense layer; sizes are arrays.

    ``layers`` is what a space decodes to for ``Repeated({"width": ..., "kernel": Choice((1, 3, 5))}, times=IntRange(1,
    depth))``: ``{"width": int32 [depth], "kernel": int32 [depth], "count": int32}``. Without ``kernel`` all are of the
    largest size, without ``count`` all layers are there. Pooling stays where it is when its layer is not there.

    Where candidates are computed one after another (``"map"``, ``"sharded"``), layers that are not there and the parts
    of windows beyond their size cost nothing. Convolutions are written as products of gathered patches: inside of a
    loop XLA runs a convolution on a CPU without its fast kernels, several times slower, and side by side they become
    grouped ones, slower still.

    Attributes:
        image: ``(height, width, channels)`` of the data.
        outputs: logits.
        width: the most channels of a layer.
        depth: the most layers.
        kernel: the largest window, odd.
        pools: the layers behind which maxima of 2 x 2 are taken.
        drawn_at: the ``(width, depth, kernel)`` that initial weights are drawn at, if larger; see `MaskedMLP`.
        activation: after each convolution.

    Example:
        >>> cnn = MaskedCNN(image=(4, 4, 1), outputs=2, width=4, depth=2, pools=(0,))
        >>> layers = {"width": jnp.array([3, 2]), "kernel": jnp.array([1, 3]), "count": jnp.array(2)}
        >>> params = jax.jit(cnn.init)(layers, jax.random.key(0))
        >>> small = cnn.extract(params, layers)
        >>> small["layer0"]["kernel"].shape, small["layer1"]["kernel"].shape
        ((1, 1, 1, 3), (3, 3, 3, 2))
        >>> x = jnp.ones((1, 4, 4, 1))
        >>> bool(jnp.allclose(jax.jit(cnn.apply)(params, layers, x), jax.jit(cnn.dense)(small, x), atol=1e-6))
        True
    """

    image: tuple[int, int, int]
    outputs: int
    width: int
    depth: int
    kernel: int = 3
    pools: tuple[int, ...] = ()
    drawn_at: tuple[int, int, int] | None = None
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu

    def __post_init__(self) -> None:
        """Raises ValueError for a network that cannot be."""
        whole(self, outputs=self.outputs, width=self.width, depth=self.depth, kernel=self.kernel)
        whole(self, **dict(zip(("image height", "image width", "image channels"), self.image, strict=True)))
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if min(self.image[:2]) >> len(self.pools) < 1:
            raise ValueError(f"pools={self.pools} leave nothing of an image of {self.image[:2]}")

    def init(self, layers: Layers, key: jax.Array) -> dict[str, Any]:
        """Parameters: He et al.'s by the candidate's own fan-in, zeros in the padding."""
        full_width, full_depth, full_kernel = self.drawn_at or (self.width, self.depth, self.kernel)
        keys = jax.random.split(key, full_depth + 1)
        channels = self.image[2]
        params, fan_in, before = {}, jnp.int32(channels), jnp.ones(channels)
        for i in range(self.depth):
            size, mask = self._size(layers, i), units(layers["width"][i], self.width)
            inside = window(size, self.kernel)[:, :, None, None] * (before[:, None] * mask[None, :])[None, None]
            full = (full_kernel, full_kernel, channels if i == 0 else full_width, full_width)
            kernel = drawn(keys[i], inside, fan_in * size**2, full=full, gain=2.0)
            there = self._there(layers, i)
            params[f"layer{i}"] = {"kernel": jnp.where(there, kernel, 0.0), "bias": jnp.zeros(self.width)}
            fan_in = jnp.where(there, layers["width"][i], fan_in).astype(jnp.int32)
            before = mask if i == 0 else jnp.where(there, mask, before)
        mask = before[:, None] * jnp.ones((1, self.outputs))
        kernel = drawn(keys[-1], mask, fan_in, full=(full_width, self.outputs), gain=1.0)
        return params | {"output": {"kernel": kernel, "bias": jnp.zeros(self.outputs)}}

    def apply(self, params: Any, layers: Layers, x: jax.Array) -> jax.Array:
        """Logits ``[batch, outputs]`` of images ``[batch, height, width, channels]``."""
        for i in self._places():
            if i < self.depth:
                new = partial(self._layer, params[f"layer{i}"], layers["width"][i], self._size(layers, i))
                x = new(x) if i == 0 else lax.cond(self._there(layers, i), new, lambda x: x, x)
            x = _pooled(x) if i in self.pools else x
        return _head(params["output"], x)

    def dense(self, params: Any, x: jax.Array) -> jax.Array:
        """Logits of the standalone network of `extract`, with convolutions of JAX."""
        for i in self._places():
            if layer := params.get(f"layer{i}"):
                dimensions = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=dimensions)
                x = self.activation(x + layer["bias"][None, None, None, :])
            x = _pooled(x) if i in self.pools else x
        return _head(params["output"], x)

    def extract(self, params: Any, layers: Layers) -> dict[str, Any]:
        """The candidate's own parameters, cut out of the padded ones; ``layers`` must be concrete.

        Raises:
            ValueError: if the candidate does not fit the network.
        """
        widths, count = checked_widths(layers, width=self.width, depth=self.depth)
        small, before = {}, self.image[2]
        for i in range(count):
            size = int(np.asarray(self._size(layers, i)))
            if size % 2 == 0 or not 1 <= size <= self.kernel:
                raise ValueError(f"layer {i} has a kernel of {size}: it must be odd and at most {self.kernel}")
            rows = slice((self.kernel - size) // 2, (self.kernel + size) // 2)
            layer = params[f"layer{i}"]
            kernel = layer["kernel"][rows, rows, :before, : widths[i]]
            small[f"layer{i}"] = {"kernel": kernel, "bias": layer["bias"][: widths[i]]}
            before = widths[i]
        output = params["output"]
        return small | {"output": {"kernel": output["kernel"][:before], "bias": output["bias"]}}

    def parameters(self, layers: Layers) -> jax.Array:
        """How many parameters the candidate has: float32, may be traced."""
        return self._sum(layers, pixels=False)

    def flops(self, layers: Layers) -> jax.Array:
        """Floating-point operations (2 x MACs) of one image forward: float32, may be traced."""
        return 2.0 * self._sum(layers, pixels=True)

    def shape(self, layers: Layers) -> jax.Array:
        """What must be padded: int32 ``(widest layer, layers, largest kernel)``; see `group_by_shape`."""
        count = jnp.asarray(layers.get("count", self.depth), jnp.int32)
        there = jnp.arange(self.depth) < count
        kernels = jnp.stack([self._size(layers, i) for i in range(self.depth)])
        largest = [jnp.max(jnp.where(there, sizes, 0)).astype(jnp.int32) for sizes in (layers["width"], kernels)]
        return jnp.stack([largest[0], count, largest[1]])

    def padded_to(self, shape: tuple[int, ...]) -> MaskedCNN:
        """The same network padded to a smaller ``(width, depth, kernel)`` only; it begins with the same weights."""
        width, depth, kernel = shape
        full = self.drawn_at or (self.width, self.depth, self.kernel)
        return dataclasses.replace(self, width=width, depth=depth, kernel=kernel, drawn_at=full)

    def _sum(self, layers: Layers, *, pixels: bool) -> jax.Array:
        """Parameters, or with ``pixels`` MACs."""
        total, before = jnp.float32(0), jnp.float32(self.image[2])
        height, wide, _ = self.image
        for i in range(self.depth):
            width, size = jnp.asarray(layers["width"][i], jnp.float32), self._size(layers, i).astype(jnp.float32)
            there = self._there(layers, i)
            own = before * size**2 * width * (height * wide) if pixels else (before * size**2 + 1.0) * width
            total = total + jnp.where(there, own, 0.0)
            before = jnp.where(there, width, before)
            height, wide = (height // 2, wide // 2) if i in self.pools else (height, wide)
        return total + (before if pixels else before + 1.0) * self.outputs

    def _layer(self, layer: Mapping[str, jax.Array], width: Any, size: jax.Array, x: jax.Array) -> jax.Array:
        """One layer; of the window only what its size needs is computed."""

        def sized(size: int, x: jax.Array) -> jax.Array:
            rows = slice((self.kernel - size) // 2, (self.kernel + size) // 2)
            return _convolved(layer["kernel"][rows, rows], layer["bias"], x)

        branches = [partial(sized, size) for size in range(1, self.kernel + 1, 2)]
        new = lax.switch((size - 1) // 2, branches, x) if len(branches) > 1 else branches[0](x)
        return self.activation(new) * units(width, self.width)[None, None, None, :]

    def _places(self) -> range:
        """Layers there may be, and those behind which there is only the pooling."""
        return range(max(self.depth, *(place + 1 for place in self.pools), 0))

    def _size(self, layers: Layers, i: int) -> jax.Array:
        return jnp.asarray(layers["kernel"][i] if "kernel" in layers else self.kernel, jnp.int32)

    def _there(self, layers: Layers, i: int) -> jax.Array:
        return jnp.asarray(i, jnp.int32) < jnp.asarray(layers.get("count", self.depth), jnp.int32)


def _convolved(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """A convolution of stride 1 with zero padding, as one product of patches."""
    size, _, inputs, outputs = kernel.shape
    batch, height, width, _ = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    patches = jnp.concatenate(shifts, axis=-1).reshape(-1, size * size * inputs)
    product = patches @ kernel.reshape(-1, outputs) + bias[None, :]
    return product.reshape(batch, height, width, outputs)


def _pooled(x: jax.Array) -> jax.Array:
    """Maxima of 2 x 2; an odd last row or column is dropped."""
    batch, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _head(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    return x.mean(axis=(1, 2)) @ layer["kernel"] + layer["bias"][None, :]
