"""Small convolutional networks for MNIST as a space: a masked one that is every candidate, and each on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxcompress as jc
from benchmarks.lenets import LeNet5
from benchmarks.mnist import CLASSES

LENET5_PARAMETERS = 431_080
MOST_PARAMETERS = LENET5_PARAMETERS // 10
WIDTHS = ((8, 12, 16), (16, 24, 32), (24, 32, 40, 48), (24, 32, 40, 48), (24, 32, 40, 48))  # of the five layers
KERNELS = (5, 5, 3, 3, 3)  # the largest
POOLED = (0, 1)  # behind these layers
_EPSILON = 1e-3

Layers = list[dict[str, jax.Array]]


class Moments(NamedTuple):
    """Mean and variance of every channel of a layer."""

    mean: jax.Array
    variance: jax.Array


def space(most_parameters: int = MOST_PARAMETERS) -> Any:
    """Two layers of 3 x 3 or 5 x 5 windows with pooling behind, one to three of 3 x 3, and how they are trained."""
    search = jc.search
    first, second = ({"width": search.Choice(WIDTHS[i]), "kernel": search.Choice((3, KERNELS[i]))} for i in range(2))
    return search.Space(
        {
            "first": first,
            "second": second,
            "last": search.Repeated({"width": search.Choice(WIDTHS[2])}, times=search.IntRange(1, 3)),
            "pool": search.Choice(("max", "mean")),
            "norm": search.Choice(("none", "batch")),
            "learning_rate": search.LogFloat(1e-3, 2e-2),
            "weight_decay": search.LogFloat(1e-3, 1e-1),
            "label_smoothing": search.Float(0.0, 0.15),
        },
        constraints=(search.Constraint("parameters", parameters, at_most=most_parameters),),
    )


def parameters(genome: Any) -> jax.Array:
    """Weights, biases and scales of a decoded candidate; the scales of a batch normalization count."""
    total, before = jnp.float32(0), jnp.float32(1)
    for width, kernel, there in _shapes(genome):
        width, kernel = jnp.float32(width), jnp.float32(kernel)
        norm = jnp.where(jnp.asarray(genome["norm"]) == 1, 2.0, 1.0).astype(jnp.float32)
        total = total + jnp.where(there, kernel**2 * before * width + norm * width, 0.0)
        before = jnp.where(there, width, before)
    return total + before * CLASSES + CLASSES


def init(genome: Any, key: jax.Array) -> dict[str, Any]:
    """Parameters of the masked network, each layer drawn for the candidate's own number of inputs (He et al. 2015)."""
    layers: Layers = []
    fan_in, channels = jnp.float32(1), 1
    keys = jax.random.split(key, len(WIDTHS) + 1)
    for i, (width, kernel, there) in enumerate(_shapes(genome)):
        shape = (KERNELS[i], KERNELS[i], channels, WIDTHS[i][-1])
        spread = jnp.sqrt(2.0 / (fan_in * jnp.float32(kernel) ** 2))
        layers.append(_layer(jax.random.normal(keys[i], shape) * spread))
        fan_in, channels = jnp.where(there, jnp.float32(width), fan_in), shape[-1]
    head = jax.random.normal(keys[-1], (channels, CLASSES)) * jnp.sqrt(1.0 / fan_in)
    return {"layers": layers, "head": {"kernel": head, "bias": jnp.zeros(CLASSES)}}


def apply(params: Any, genome: Any, images: jax.Array, given: Sequence[Moments] | None = None) -> tuple[Any, Any]:
    """Logits of the masked network, and the moments that its normalizations saw; ``given`` ones are used instead.

    One program for every candidate: kernels and layers that it has not do not run.
    """
    x, seen = images[..., None], []
    for i, (width, kernel, there) in enumerate(_shapes(genome)):
        layer, moments = params["layers"][i], None if given is None else given[i]
        mask = (jnp.arange(WIDTHS[i][-1]) < width).astype(x.dtype)

        def own(
            x: jax.Array, layer: Any = layer, moments: Any = moments, mask: Any = mask, kernel: Any = kernel
        ) -> Any:
            y = _convolved(x, layer["kernel"], kernel)
            found = _moments(y) if moments is None else moments
            normalized = _normalized(layer, y, found)
            y = jnp.where(jnp.asarray(genome["norm"]) == 1, normalized, y) + layer["bias"][None, None, None, :]
            return jax.nn.relu(y) * mask[None, None, None, :], found

        def others(x: jax.Array, like: Any = mask) -> Any:
            return x, Moments(jnp.zeros_like(like), jnp.zeros_like(like))

        x, found = own(x) if i < 3 else lax.cond(there, own, others, x)
        seen.append(found)
        if i in POOLED:
            x = lax.cond(jnp.asarray(genome["pool"]) == 1, _mean_pooled, _max_pooled, x)
    return _head(params, x), seen


def cut(params: Any, config: Any) -> dict[str, Any]:
    """The parameters of one candidate, out of those of the masked network."""
    layers: Layers = []
    channels = 1
    for i, (width, kernel) in enumerate(_sizes(config)):
        layer, edge = params["layers"][i], (KERNELS[i] - kernel) // 2
        window = slice(edge, edge + kernel)
        small = layer["kernel"][window, window, :channels, :width]
        layers.append({"kernel": small, "scale": layer["scale"][:width], "bias": layer["bias"][:width]})
        channels = width
    head = params["head"]
    return {"layers": layers, "head": {"kernel": head["kernel"][:channels], "bias": head["bias"]}}


def own_init(config: Any, key: jax.Array) -> dict[str, Any]:
    """New parameters of a candidate on its own, given by its plain config."""
    layers: Layers = []
    channels = 1
    keys = jax.random.split(key, len(WIDTHS) + 1)
    for i, (width, kernel) in enumerate(_sizes(config)):
        drawn = jax.random.normal(keys[i], (kernel, kernel, channels, width))
        layers.append(_layer(drawn * (2.0 / (kernel**2 * channels)) ** 0.5))
        channels = width
    head = jax.random.normal(keys[-1], (channels, CLASSES)) * channels**-0.5
    return {"layers": layers, "head": {"kernel": head, "bias": jnp.zeros(CLASSES)}}


def own_apply(params: Any, config: Any, images: jax.Array, given: Sequence[Moments] | None = None) -> tuple[Any, Any]:
    """Logits of a candidate on its own, and the moments that its normalizations saw."""
    x, seen = images[..., None], []
    for i, layer in enumerate(params["layers"]):
        y = conv(x, layer["kernel"])
        found = _moments(y) if given is None else given[i]
        seen.append(found)
        y = _normalized(layer, y, found) if config["norm"] == "batch" else y
        x = jax.nn.relu(y + layer["bias"][None, None, None, :])
        if i in POOLED:
            x = _mean_pooled(x) if config["pool"] == "mean" else _max_pooled(x)
    return _head(params, x), seen


def own_parameters(config: Any) -> int:
    """Entries of the arrays that the candidate keeps; without normalization its scales are not among them."""
    shapes = jax.eval_shape(lambda key: own_init(config, key), jax.random.key(0))
    scales = 0 if config["norm"] == "batch" else sum(layer["scale"].size for layer in shapes["layers"])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) - scales


def lenet5_parameters() -> int:
    """Those of the network to beat, counted."""
    shapes = jax.eval_shape(LeNet5().init, jax.random.key(0), jnp.zeros((1, 28, 28)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1, padded with zeros to the same size, as matrix products over shifted views.

    Within loops XLA trains `conv_general_dilated` twenty times slower on a CPU; outside of them no faster than this.
    """
    size, _, channels, width = kernel.shape
    n, rows, columns, _ = x.shape
    half = size // 2
    x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    patches = jnp.concatenate(
        [x[:, :, j : j + columns] for j in range(size)], -1
    )  # [n, rows + 2 half, columns, size C]
    if channels == 1:
        patches = jnp.concatenate([patches[:, i : i + rows] for i in range(size)], -1)
        y = patches.reshape(-1, size * size) @ kernel.reshape(-1, width)
    else:
        by_row = kernel.reshape(size, size * channels, width)
        y = sum(patches[:, i : i + rows].reshape(-1, size * channels) @ by_row[i] for i in range(size))
    return y.reshape(n, rows, columns, width)


def _shapes(genome: Any) -> list[tuple[Any, Any, Any]]:
    """Width, kernel and presence of the five layers of a decoded genome."""
    first, second, last = genome["first"], genome["second"], genome["last"]
    fixed = [(layer["width"], layer["kernel"], True) for layer in (first, second)]
    return fixed + [(last["width"][i], KERNELS[2 + i], i < last["count"]) for i in range(3)]


def _sizes(config: Any) -> list[tuple[int, int]]:
    """Width and kernel of the layers of a plain config."""
    fixed = [(config[name]["width"], config[name]["kernel"]) for name in ("first", "second")]
    return fixed + [(layer["width"], KERNELS[2 + i]) for i, layer in enumerate(config["last"])]


def _layer(kernel: jax.Array) -> dict[str, jax.Array]:
    return {"kernel": kernel, "scale": jnp.ones(kernel.shape[-1]), "bias": jnp.zeros(kernel.shape[-1])}


def _convolved(x: jax.Array, weights: jax.Array, kernel: Any) -> jax.Array:
    """With the whole window, or the 3 x 3 in the middle of it."""
    if len(weights) == 3:
        return conv(x, weights)
    return lax.cond(jnp.asarray(kernel) == 3, lambda w: conv(x, w[1:-1, 1:-1]), lambda w: conv(x, w), weights)


def _moments(x: jax.Array) -> Moments:
    mean = x.mean((0, 1, 2))
    return Moments(mean, jnp.square(x - mean[None, None, None, :]).mean((0, 1, 2)))


def _normalized(layer: Mapping[str, jax.Array], x: jax.Array, moments: Moments) -> jax.Array:
    factor = layer["scale"] * lax.rsqrt(moments.variance + _EPSILON)
    return (x - moments.mean[None, None, None, :]) * factor[None, None, None, :]


def _max_pooled(x: jax.Array) -> jax.Array:
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def _mean_pooled(x: jax.Array) -> jax.Array:
    x = x[:, ::2] + x[:, 1::2]
    return (x[:, :, ::2] + x[:, :, 1::2]) / 4


def _head(params: Any, x: jax.Array) -> jax.Array:
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None, :]
