"""Small convolutional networks for MNIST as a space: a masked one that is every candidate, and each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxcompress as jc
from benchmarks.lenets import LeNet5
from benchmarks.mnist import CLASSES
from benchmarks.nas_training import Moments

LENET5_PARAMETERS = 431_080
MOST_PARAMETERS = LENET5_PARAMETERS // 10
CELLS = 9  # of the 3 x 3 grid that the head may see
_EPSILON = 1e-3


class Stage(NamedTuple):
    """One or two layers of one image size; the second has windows of 3 x 3. Behind all but the last one is pooling."""

    name: str
    widths: tuple[int, ...]
    kernels: tuple[int, ...]  # of the first layer


STAGES = (
    Stage("first", (8, 12, 16), (3, 5)),
    Stage("second", (16, 24, 32), (3, 5)),
    Stage("third", (24, 32, 40, 48), (3,)),
)
LAYERS = 2  # of a stage at most


class Place(NamedTuple):
    """One layer of a decoded candidate."""

    stage: int
    position: int
    width: Any
    kernel: Any
    there: Any  # True, or an array for the second layer of a stage


def space(most_parameters: int = MOST_PARAMETERS) -> Any:
    """Widths, windows and depth of three stages, what stands between and behind them, and how all is trained."""
    search = jc.search

    def variables(stage: Stage) -> dict[str, Any]:
        layers = search.Repeated({"width": search.Choice(stage.widths)}, times=search.IntRange(1, LAYERS))
        return {"kernel": search.Choice(stage.kernels), "layers": layers}

    return search.Space(
        {
            **{stage.name: variables(stage) for stage in STAGES},
            "pool": search.Choice(("max", "mean")),
            "norm": search.Choice(("none", "batch")),
            "head": search.Choice(("mean", "grid")),
            "learning_rate": search.LogFloat(1e-3, 2e-2),
            "weight_decay": search.LogFloat(1e-3, 1e-1),
            "label_smoothing": search.Float(0.0, 0.15),
        },
        constraints=(search.Constraint("parameters", parameters, at_most=most_parameters),),
    )


def parameters(genome: Any) -> jax.Array:
    """Weights, biases and scales of a decoded candidate; the scales of a batch normalization count."""
    total, before = jnp.float32(0), jnp.float32(1)
    for place in _places(genome):
        width, kernel = jnp.float32(place.width), jnp.float32(place.kernel)
        per_channel = jnp.where(_is(genome, "norm"), 2.0, 1.0).astype(jnp.float32)
        total = total + jnp.where(place.there, kernel**2 * before * width + per_channel * width, 0.0)
        before = jnp.where(place.there, width, before)
    return total + before * CLASSES * jnp.where(_is(genome, "head"), float(CELLS), 1.0) + CLASSES


def init(genome: Any, key: jax.Array) -> dict[str, Any]:
    """Parameters of the masked network, each layer drawn for the candidate's own number of inputs (He et al. 2015)."""
    layers, fan_in, channels = [], jnp.float32(1), 1
    keys = iter(jax.random.split(key, len(STAGES) * LAYERS + 1))
    for place in _places(genome):
        stage = STAGES[place.stage]
        size = 3 if place.position else stage.kernels[-1]
        spread = jnp.sqrt(2.0 / (fan_in * jnp.float32(place.kernel) ** 2))
        layers.append(_layer(spread * jax.random.normal(next(keys), (size, size, channels, stage.widths[-1]))))
        fan_in, channels = jnp.where(place.there, jnp.float32(place.width), fan_in), stage.widths[-1]
    cells = jnp.where(_is(genome, "head"), float(CELLS), 1.0)
    kernel = jax.random.normal(next(keys), (CELLS, channels, CLASSES)) / jnp.sqrt(fan_in * cells)
    return {"layers": layers, "head": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}}


def apply(params: Any, genome: Any, images: jax.Array, given: Sequence[Moments] | None = None) -> tuple[Any, Any]:
    """Logits of the masked network, and the moments that its normalizations saw; ``given`` ones are used instead.

    One program for every candidate: kernels and layers that it has not do not run.
    """
    x, seen = images[..., None], []
    for number, place in enumerate(_places(genome)):
        layer, moments = params["layers"][number], None if given is None else given[number]
        widest = STAGES[place.stage].widths[-1]
        mask = (jnp.arange(widest) < place.width).astype(x.dtype)

        def own(x: Any, layer: Any = layer, moments: Any = moments, mask: Any = mask, place: Place = place) -> Any:
            y = _convolved(x, layer["kernel"], place)
            found = _moments(y) if moments is None else moments
            y = jnp.where(_is(genome, "norm"), _normalized(layer, y, found), y) + layer["bias"][None, None, None, :]
            return jax.nn.relu(y) * mask[None, None, None, :], found

        def passed(x: Any, like: Any = mask) -> Any:
            return x, Moments(jnp.zeros_like(like), jnp.zeros_like(like))

        if place.stage and not place.position:
            x = jnp.where(_is(genome, "pool"), _mean_pooled(x), _max_pooled(x))
        x, found = lax.cond(place.there, own, passed, x) if place.position else own(x)
        seen.append(found)
    grid = _grid(x)
    alone = jnp.concatenate([x.mean((1, 2))[:, None], jnp.zeros_like(grid[:, 1:])], 1)
    return _head(params, jnp.where(_is(genome, "head"), grid, alone)), seen


def cut(params: Any, config: Any) -> dict[str, Any]:
    """The parameters of one candidate, out of those of the masked network."""
    layers, channels = [], 1
    for stage, position, width, kernel, _ in _own_places(config):
        layer = params["layers"][stage * LAYERS + position]
        edge = (len(layer["kernel"]) - kernel) // 2
        window = slice(edge, edge + kernel)
        small = layer["kernel"][window, window, :channels, :width]
        layers.append({"kernel": small, "scale": layer["scale"][:width], "bias": layer["bias"][:width]})
        channels = width
    head = params["head"]
    return {"layers": layers, "head": {"kernel": head["kernel"][: _cells(config), :channels], "bias": head["bias"]}}


def own_init(config: Any, key: jax.Array) -> dict[str, Any]:
    """New parameters of a candidate on its own, given by its plain config."""
    layers, channels = [], 1
    keys = iter(jax.random.split(key, len(STAGES) * LAYERS + 1))
    for _, _, width, kernel, _ in _own_places(config):
        drawn = jax.random.normal(next(keys), (kernel, kernel, channels, width))
        layers.append(_layer(drawn * (2.0 / (kernel**2 * channels)) ** 0.5))
        channels = width
    cells = _cells(config)
    kernel = jax.random.normal(next(keys), (cells, channels, CLASSES)) * (cells * channels) ** -0.5
    return {"layers": layers, "head": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}}


def own_apply(params: Any, config: Any, images: jax.Array, given: Sequence[Moments] | None = None) -> tuple[Any, Any]:
    """Logits of a candidate on its own, and the moments that its normalizations saw."""
    x, seen = images[..., None], []
    for number, place in enumerate(_own_places(config)):
        layer = params["layers"][number]
        if place.stage and not place.position:
            x = _mean_pooled(x) if config["pool"] == "mean" else _max_pooled(x)
        y = conv(x, layer["kernel"])
        seen.append(_moments(y) if given is None else given[number])
        y = _normalized(layer, y, seen[-1]) if config["norm"] == "batch" else y
        x = jax.nn.relu(y + layer["bias"][None, None, None, :])
    return _head(params, _grid(x) if config["head"] == "grid" else x.mean((1, 2))[:, None]), seen


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
    patches = jnp.concatenate([x[:, :, j : j + columns] for j in range(size)], -1)  # [n, rows + 2 half, columns, ...]
    if channels == 1:
        patches = jnp.concatenate([patches[:, i : i + rows] for i in range(size)], -1)
        y = patches.reshape(-1, size * size) @ kernel.reshape(-1, width)
    else:
        by_row = kernel.reshape(size, size * channels, width)
        y = sum(patches[:, i : i + rows].reshape(-1, size * channels) @ by_row[i] for i in range(size))
    return y.reshape(n, rows, columns, width)


def _places(genome: Any) -> Iterator[Place]:
    """The layers of a decoded genome, those that are not there too."""
    for number, stage in enumerate(STAGES):
        layers = genome[stage.name]["layers"]
        for position in range(LAYERS):
            kernel = 3 if position else genome[stage.name]["kernel"]
            there = layers["count"] > position if position else True
            yield Place(number, position, layers["width"][position], kernel, there)


def _own_places(config: Any) -> Iterator[Place]:
    """The layers of a plain config."""
    for number, stage in enumerate(STAGES):
        for position, layer in enumerate(config[stage.name]["layers"]):
            yield Place(number, position, layer["width"], 3 if position else config[stage.name]["kernel"], True)


def _is(genome: Any, name: str) -> jax.Array:
    """Whether a variable of two choices has the second."""
    return jnp.asarray(genome[name]) == 1


def _cells(config: Any) -> int:
    return CELLS if config["head"] == "grid" else 1


def _layer(kernel: jax.Array) -> dict[str, jax.Array]:
    return {"kernel": kernel, "scale": jnp.ones(kernel.shape[-1]), "bias": jnp.zeros(kernel.shape[-1])}


def _convolved(x: jax.Array, weights: jax.Array, place: Place) -> jax.Array:
    """With the whole window, or the 3 x 3 in the middle of it."""
    if len(weights) == 3:
        return conv(x, weights)
    small = jnp.asarray(place.kernel) == 3
    return lax.cond(small, lambda w: conv(x, w[1:-1, 1:-1]), lambda w: conv(x, w), weights)


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


def _grid(x: jax.Array) -> jax.Array:
    """Maxima over the 3 x 3 overlapping windows of 3 x 3 in an image of 7 x 7: ``[batch, 9, channels]``."""
    rows = jnp.stack([x[:, i : i + 3].max(1) for i in (0, 2, 4)], 1)
    cells = jnp.stack([rows[:, :, j : j + 3].max(2) for j in (0, 2, 4)], 2)
    return cells.reshape(len(x), CELLS, x.shape[-1])


def _head(params: Any, features: jax.Array) -> jax.Array:
    """Logits of features ``[batch, cells, channels]``."""
    kernel = params["head"]["kernel"]
    return features.reshape(len(features), -1) @ kernel.reshape(-1, CLASSES) + params["head"]["bias"][None, :]
