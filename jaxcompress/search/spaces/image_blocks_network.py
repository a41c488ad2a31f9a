"""The network that a candidate of `ImageBlocks` stands for, as large as the space allows and masked: one for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.population.masks import drawn, units, window
from jaxcompress.search.spaces.image_blocks import KINDS, ImageBlocks
from jaxcompress.search.spaces.image_blocks_layers import alone, beside, classified, unit

Params = dict[str, Any]


class Place(NamedTuple):
    """Where a block stands: its stage, its number there, and the stride of its first layer."""

    stage: int
    number: int
    stride: int


class Layer(NamedTuple):
    """What a candidate has of one convolution: its window, which channels come in and go out, how many come in."""

    size: Any
    inputs: jax.Array
    outputs: jax.Array
    fan_in: Any
    there: Any


@dataclasses.dataclass(frozen=True)
class ImageBlocksNetwork:
    """Classifies images with the blocks that a decoded genome of ``blocks.space()`` says.

    Kinds, kernels, dilations, splits, widths and depths are runtime arrays. What is beyond them is zero and stays zero
    in training with elementwise optimizers: the candidate computes and learns what the small network would, which
    `extract` cuts out. One after another (``executor="map"``) only the kind that a block is runs. Convolutions pad by
    half of their kernel on both sides.

    Normalization is that of the batch (`jaxcompress.search.cells.batch_norm`), with a scale and an offset that train:
    outputs depend on which images are in a batch.

    ``init`` and the loss of ``apply`` fit `jaxcompress.search.population.Training`.

    Args:
        blocks: the space.

    Example:
        >>> blocks = ImageBlocks(classes=3, channels=1, size=8, widths=(16,), stages=2, depth=(1, 1), kernels=(3,))
        >>> network, space = ImageBlocksNetwork(blocks), blocks.space()
        >>> config = {"stages": [
        ...     {"width": 16, "blocks": [{"kind": "residual", "kernel": 3}]},
        ...     {"width": 16, "blocks": [{"kind": "inception", "split": (2, 2, 2, 2)}]},
        ... ]}
        >>> genome, images = space.decode(space.encode(config)), jnp.ones((2, 8, 8, 1))
        >>> params = jax.jit(network.init)(genome, jax.random.key(0))
        >>> jax.jit(network.apply)(params, genome, images).shape
        (2, 3)
        >>> fn, small = network.extract(params, config)
        >>> sum(leaf.size for leaf in jax.tree.leaves(small)) == int(blocks.costs(genome).parameters)
        True
    """

    blocks: ImageBlocks

    def init(self, genome: Any, key: jax.Array) -> Params:
        """Parameters of the largest network: He et al.'s by the candidate's fan-in, zeros at what it does not have."""
        widths, blocks = genome["stages"]["width"], self.blocks
        first, last = units(widths[0], self._width), units(widths[-1], self._width)
        stem, head, key = jax.random.split(key, 3)
        image = Layer(3, jnp.ones(blocks.channels), first, blocks.channels, True)
        mask = jnp.broadcast_to(last[:, None], (self._width, blocks.classes))
        stages: list[list[Params]] = [[] for _ in range(blocks.stages)]
        for place in self._places():
            key, own = jax.random.split(key)
            layers = self._layers(genome, place)
            keys = jax.random.split(own, len(layers))
            made = {name: _drawn(one, k, self._size(name)) for (name, one), k in zip(layers.items(), keys, strict=True)}
            stages[place.stage].append(made)
        return {
            "stem": _drawn(image, stem, 3),
            "stages": stages,
            "head": {
                "kernel": drawn(head, mask, widths[-1], full=mask.shape, gain=1.0),
                "bias": jnp.zeros(blocks.classes),
            },
        }

    def apply(self, params: Params, genome: Any, images: jax.Array) -> jax.Array:
        """Logits ``[batch, classes]``.

        Args:
            params: as `init` gives them.
            genome: decoded.
            images: ``[batch, height, width, channels]``; any height and width.
        """
        stages = genome["stages"]
        x = unit(params["stem"], images, mask=units(stages["width"][0], self._width))
        for place in self._places():
            own = jax.tree.map(lambda leaf, place=place: leaf[place.stage, place.number], _blocks_of(genome))
            block = partial(self._block, params["stages"][place.stage][place.number], genome, own, place)
            there = place.number < stages["blocks"]["count"][place.stage]
            x = block(x) if place.number == 0 else lax.cond(there, block, lambda x: x, x)
        return classified(params["head"], x)

    def extract(self, params: Params, config: Mapping[str, Any]) -> tuple[Callable[[Params, jax.Array], Any], Params]:
        """The candidate on its own: ``fn(params, images)`` without masks, and its parameters.

        Args:
            params: of the largest network.
            config: plain, as ``space.config`` gives it.

        Raises:
            ValueError: if the space does not have the config.
        """
        space = self.blocks.space()
        genome = space.decode(space.encode(config))
        stages: list[list[Params]] = []
        for number, stage in enumerate(config["stages"]):
            stages.append([])
            for place in (place for place in self._places() if place.stage == number):
                if place.number < len(stage["blocks"]):
                    layers, full = self._layers(genome, place), params["stages"][number][place.number]
                    there = {name: one for name, one in layers.items() if bool(one.there) and bool(one.outputs.any())}
                    stages[-1].append({name: _cut(full[name], one) for name, one in there.items()})
        widths = genome["stages"]["width"]
        stem = Layer(3, jnp.ones(self.blocks.channels), units(widths[0], self._width), 1, True)
        rows = int(widths[-1])
        head = {"kernel": params["head"]["kernel"][:rows], "bias": params["head"]["bias"]}
        kinds = [[dict(block) for block in stage["blocks"]] for stage in config["stages"]]
        return partial(alone, kinds), {"stem": _cut(params["stem"], stem), "stages": stages, "head": head}

    @property
    def _width(self) -> int:
        return max(self.blocks.widths)

    def _places(self) -> Iterator[Place]:
        for stage in range(self.blocks.stages):
            for number in range(self.blocks.depth[1]):
                yield Place(stage, number, 2 if stage and not number else 1)

    def _size(self, name: str) -> int:
        """Of the largest window of a layer."""
        return {"first": max(3, *self.blocks.kernels), "second": max(self.blocks.kernels), "three": 3, "five": 5}.get(
            name, 1
        )

    def _layers(self, genome: Any, place: Place) -> dict[str, Layer]:
        """What the candidate has of every convolution that a block may have; three kinds share ``first``."""
        own = jax.tree.map(lambda leaf: leaf[place.stage, place.number], _blocks_of(genome))
        widths = genome["stages"]["width"]
        width = widths[place.stage]
        before = widths[max(0, place.stage - 1)] if place.number == 0 else width
        here = place.number < genome["stages"]["blocks"]["count"][place.stage]
        plain, residual, inception, dilated = (here & (own["kind"] == kind) for kind in range(len(KINDS)))
        inputs, outputs = units(before, self._width), units(width, self._width)
        layers = {
            "first": Layer(jnp.where(dilated, 3, own["kernel"]), inputs, outputs, before, plain | residual | dilated),
            "second": Layer(own["kernel"], outputs, outputs, width, residual),
        }
        if place.stride > 1:
            layers["shortcut"] = Layer(1, inputs, outputs, before, residual)
        one, three, five, pool = self._branches(own, width)
        for name, branch in (("one", one), ("pool", pool)):
            layers[name] = Layer(1, inputs, branch, before, inception)
        for name, branch in (("three", three), ("five", five)):
            half = branch.sum().astype(jnp.int32) // 2
            inner = units(half, self._width // 2)
            layers[f"before_{name}"] = Layer(1, inputs, inner, before, inception)
            layers[name] = Layer(self._size(name), inner, branch, half, inception)
        return layers

    def _branches(self, own: Any, width: jax.Array) -> list[jax.Array]:
        """Which channels each branch of an Inception block puts out: one branch behind the other, ``[width]`` each."""
        ends = jnp.cumsum(jnp.array(self.blocks.splits, jnp.int32)[own["split"]] * (width // 8))
        starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
        channels = jnp.arange(self._width)
        return [((channels >= starts[i]) & (channels < ends[i])).astype(jnp.float32) for i in range(len(starts))]

    def _block(self, layers: Params, genome: Any, own: Any, place: Place, x: jax.Array) -> jax.Array:
        """One block; of the kinds, windows and dilations only its own are computed, where they are not batched."""
        mask = units(genome["stages"]["width"][place.stage], self._width)

        def sized(name: str, x: jax.Array, stride: int) -> jax.Array:
            cuts = [partial(_windowed, layers[name], size, stride=stride, mask=mask) for size in self.blocks.kernels]
            return lax.switch(jnp.argmax(jnp.array(self.blocks.kernels) == own["kernel"]), cuts, x)

        def residual(x: jax.Array) -> jax.Array:
            y = sized("second", sized("first", x, place.stride), 1)
            return y + (unit(layers["shortcut"], x, stride=place.stride, mask=mask) if "shortcut" in layers else x)

        def dilated(x: jax.Array) -> jax.Array:
            ways = [
                partial(_windowed, layers["first"], 3, stride=place.stride, dilation=dilation, mask=mask)
                for dilation in self.blocks.dilations
            ]
            return lax.switch(jnp.argmax(jnp.array(self.blocks.dilations) == own["dilation"]), ways, x)

        def inception(x: jax.Array) -> jax.Array:
            one, three, five, pool = self._branches(own, genome["stages"]["width"][place.stage])
            masks = {"one": one, "three": three, "five": five, "pool": pool}
            inner = {n: units(masks[n].sum().astype(jnp.int32) // 2, self._width // 2) for n in ("three", "five")}
            return sum(beside(layers, x, place.stride, masks, inner), jnp.zeros(()))

        kinds = (lambda x: sized("first", x, place.stride), residual, inception, dilated)
        return lax.switch(own["kind"], kinds, x)


def _blocks_of(genome: Any) -> dict[str, jax.Array]:
    """What is decided for every block: arrays ``[stages, blocks]``."""
    return {name: leaf for name, leaf in genome["stages"]["blocks"].items() if name != "count"}


def _drawn(layer: Layer, key: jax.Array, largest: int) -> Params:
    """Kernel, scale and offset of the largest size."""
    there = jnp.asarray(layer.there).astype(jnp.float32)
    matrix = there * layer.inputs[:, None] * layer.outputs[None, :]
    mask = window(layer.size, largest)[:, :, None, None] * matrix[None, None]
    fan_in = jnp.maximum(1, layer.fan_in * layer.size**2)
    outputs = layer.outputs * there
    return {
        "kernel": drawn(key, mask, fan_in, full=mask.shape, gain=2.0),
        "scale": outputs,
        "offset": jnp.zeros_like(outputs),
    }


def _windowed(layer: Params, size: int, x: jax.Array, **how: Any) -> jax.Array:
    """`unit` with the middle of the largest window."""
    edge = (len(layer["kernel"]) - size) // 2
    kernel = layer["kernel"][edge : edge + size, edge : edge + size]
    return unit({**layer, "kernel": kernel}, x, **how)


def _cut(layer: Params, own: Layer) -> Params:
    """A layer without what a concrete candidate does not have."""
    size, inputs, outputs = int(own.size), jnp.flatnonzero(own.inputs), jnp.flatnonzero(own.outputs)
    edge = (len(layer["kernel"]) - size) // 2
    kernel = layer["kernel"][edge : edge + size, edge : edge + size][:, :, inputs][..., outputs]
    return {"kernel": kernel, "scale": layer["scale"][outputs], "offset": layer["offset"][outputs]}
