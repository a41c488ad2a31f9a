"""Small residual networks for CIFAR-10 as a space, each in plain JAX, and their multiply-adds as a traced function.

Blocks stand on images of 32, 16, 8 and 4 pixels, so how many there are of each says where a network shrinks its images:
one without blocks on 32 pixels begins with a stride of 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxcompress as jc
from benchmarks.nas_training import CLASSES, Moments
from jaxcompress.search.cells.operations import convolve

EXPANSIONS = {"plain": 0, "inverted 2": 2, "inverted 4": 4}
KINDS = tuple(EXPANSIONS)
_EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks on images of one size. No stage is narrower than the one before: shortcuts are filled with zeros."""

    name: str
    pixels: int
    widths: tuple[int, ...]
    counts: tuple[int, int]


STAGES = (
    Stage("pixels 32", 32, (4, 6, 8), (0, 1)),
    Stage("pixels 16", 16, (8, 12, 16, 24), (1, 2)),
    Stage("pixels 8", 8, (24, 32, 48), (1, 2)),
    Stage("pixels 4", 4, (48, 64, 96, 128), (0, 2)),
)
_PLAIN = [{"kind": "plain"}]
RESNET8 = {  # He et al. (2016), section 4.2: one block a stage, half of their width
    "stem kernel": 3,
    "pixels 32": {"width": 8, "blocks": _PLAIN},
    "pixels 16": {"width": 16, "blocks": _PLAIN},
    "pixels 8": {"width": 32, "blocks": _PLAIN},
    "pixels 4": {"width": 48, "blocks": []},
}


class Block(NamedTuple):
    """One block of a config."""

    name: str
    kind: str
    before: int  # width of what it sees
    width: int
    stride: int


def space(most: float, least: float) -> Any:
    """Networks of ``least`` to ``most`` multiply-adds, and how they are trained."""
    search = jc.search

    def variables(stage: Stage) -> dict[str, Any]:
        blocks = search.Repeated({"kind": search.Choice(KINDS)}, times=search.IntRange(*stage.counts))
        return {"width": search.Choice(stage.widths), "blocks": blocks}

    return search.Space(
        {
            "stem kernel": search.Choice((3, 5)),
            **{stage.name: variables(stage) for stage in STAGES},
            **recipes(),
        },
        constraints=(search.Constraint("multiply-adds", multiply_adds, at_most=most, at_least=least),),
    )


def recipes() -> dict[str, Any]:
    """How a network is trained."""
    search = jc.search
    return {
        "learning_rate": search.LogFloat(2e-3, 3e-2),
        "weight_decay": search.LogFloat(1e-3, 1e-1),
        "label_smoothing": search.Float(0.0, 0.1),
    }


def multiply_adds(genome: Any) -> jax.Array:
    """Of the convolutions and the last layer for one image, of a decoded genome.

    As in the papers, normalization, activations and sums are not counted.
    """
    early = genome["pixels 32"]["blocks"]["count"] > 0
    width = jnp.where(early, *(jnp.float32(genome[stage.name]["width"]) for stage in STAGES[:2]))
    area = jnp.where(early, 32.0**2, 16.0**2)
    total = 3 * jnp.float32(genome["stem kernel"]) ** 2 * width * area
    for stage in STAGES:
        here = genome[stage.name]
        for position in range(stage.counts[1]):
            there = here["blocks"]["count"] > position
            before, after, pixels = width, jnp.float32(here["width"]), float(stage.pixels**2)
            expansion = jnp.asarray(tuple(EXPANSIONS.values()), jnp.float32)[here["blocks"]["kind"][position]]
            plain = 9 * (before + after) * after * pixels
            inverted = expansion * before * (before * area + (9 + after) * pixels)
            total = total + jnp.where(there, jnp.where(expansion == 0, plain, inverted), 0.0)
            width, area = jnp.where(there, after, width), jnp.where(there, pixels, area)
    return total + width * CLASSES


def blocks(config: Any) -> Iterator[Block]:
    """The blocks of a config."""
    before, pixels = stem_width(config), 32 if config["pixels 32"]["blocks"] else 16
    for stage in STAGES:
        width = config[stage.name]["width"]
        for position, block in enumerate(config[stage.name]["blocks"]):
            yield Block(f"{stage.name} {position}", block["kind"], before, width, pixels // stage.pixels)
            before, pixels = width, stage.pixels


def stem_width(config: Any) -> int:
    """That of the first stage there is."""
    return config["pixels 32" if config["pixels 32"]["blocks"] else "pixels 16"]["width"]


def init(config: Any, key: jax.Array) -> dict[str, Any]:
    """Parameters; kernels as by He et al. (2015)."""
    keys = iter(jax.random.split(key, 64))

    def layer(*shape: int) -> dict[str, jax.Array]:
        kernel = jax.random.normal(next(keys), shape) * (2.0 * shape[-1] / math.prod(shape)) ** 0.5
        return {"kernel": kernel, "scale": jnp.ones(shape[-1]), "bias": jnp.zeros(shape[-1])}

    size, width = config["stem kernel"], stem_width(config)
    params: dict[str, Any] = {"stem": layer(size, size, 3, width)}
    for block in blocks(config):
        before, hidden, width = block.before, EXPANSIONS[block.kind] * block.before, block.width
        if not hidden:
            params[block.name] = {"first": layer(3, 3, before, width), "second": layer(3, 3, width, width)}
        else:
            shapes = {"expand": (1, 1, before, hidden), "depthwise": (3, 3, hidden), "project": (1, 1, hidden, width)}
            params[block.name] = {name: layer(*shape) for name, shape in shapes.items()}
    head = jax.random.normal(next(keys), (width, CLASSES)) / width**0.5
    return params | {"head": {"kernel": head, "bias": jnp.zeros(CLASSES)}}


def apply(params: Any, config: Any, images: jax.Array, given: Any = None) -> tuple[jax.Array, dict[str, Any]]:
    """Logits of prepared images, and the moments that normalizations saw; ``given`` ones are used instead."""
    seen: dict[str, Any] = {}

    def layer(block: str, name: str, x: jax.Array, convolution: Callable[..., jax.Array], stride: int = 1) -> jax.Array:
        own = params[block][name] if name else params[block]
        moments = None if given is None else given[f"{block} {name}"]
        y, seen[f"{block} {name}"] = _normalized(own, convolution(x, own["kernel"], stride), moments)
        return y

    x = jax.nn.relu(layer("stem", "", images, convolve, 1 if config["pixels 32"]["blocks"] else 2))
    for name, kind, _, width, stride in blocks(config):
        shortcut = x[:, ::stride, ::stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
        if kind == "plain":
            y = jax.nn.relu(layer(name, "first", x, convolve, stride))
            x = jax.nn.relu(layer(name, "second", y, convolve) + shortcut)
        else:
            y = jax.nn.relu(layer(name, "expand", x, convolve))
            y = jax.nn.relu(layer(name, "depthwise", y, depthwise, stride))
            x = layer(name, "project", y, convolve) + shortcut
    features = jax.nn.relu(x).mean((1, 2))
    return features @ params["head"]["kernel"] + params["head"]["bias"][None, :], seen


def parameters(config: Any) -> int:
    """Entries of all arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda k: init(config, k), jax.random.key(0))))


def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Each channel with a window ``[3, 3, channels]`` of its own."""
    rows, columns = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [
        padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j][None, None, None, :]
        for i in range(3)
        for j in range(3)
    ]
    return sum(parts[1:], parts[0])


def _normalized(layer: Any, x: jax.Array, given: Moments | None) -> tuple[jax.Array, Moments]:
    """Batch normalization, with moments of the batch or given ones."""
    if given is None:
        mean = x.mean((0, 1, 2))
        given = Moments(mean, jnp.square(x - mean[None, None, None, :]).mean((0, 1, 2)))
    factor = layer["scale"] * lax.rsqrt(given.variance + _EPSILON)
    x = (x - given.mean[None, None, None, :]) * factor[None, None, None, :]
    return x + layer["bias"][None, None, None, :], given
