"""A network of cells with the skeleton of NAS-Bench-201, smaller where one likes, in plain JAX functions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.cells.cell import Cell
from jaxcompress.search.cells.operations import batch_norm, convolve, kernel
from jaxcompress.search.checks import whole
from jaxcompress.search.space import Choice, Repeated, Space


@dataclasses.dataclass(frozen=True)
class CellNetwork:
    """A stem, stages of equal cells, between them a residual block that halves the image and doubles the channels.

    One cell is searched and stands everywhere, with weights of its own at each place. Normalization is that of the
    batch (`batch_norm`): so outputs depend on which images are in a batch, as in any search over shared weights.

    Args:
        classes: outputs.
        channels: of the first stage (NAS-Bench-201: 16).
        stages: how many (NAS-Bench-201: 3).
        cells: in each stage (NAS-Bench-201: 5).
        inputs: channels of the images.
        cell: which one.

    Example:
        >>> network = CellNetwork(classes=10, channels=4, stages=2, cells=1, inputs=1)
        >>> params = network.init(jax.random.key(0))
        >>> images = jnp.ones((2, 8, 8, 1))
        >>> genome = network.space.decode(network.space.sample(jax.random.key(1), ()))
        >>> network.apply(params, genome, images).shape  # one operation per edge
        (2, 10)
        >>> network.apply(params, {"edges": jnp.full((6, 5), 0.2)}, images).shape  # a mixture per edge
        (2, 10)

    References:
        Dong & Yang, 2020, section 2.1. https://arxiv.org/abs/2001.00326
    """

    classes: int = 10
    channels: int = 16
    stages: int = 3
    cells: int = 5
    inputs: int = 3
    cell: Cell = dataclasses.field(default_factory=Cell)

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that cannot be."""
        whole(self, classes=self.classes, channels=self.channels, stages=self.stages, inputs=self.inputs)
        whole(self, least=0, cells=self.cells)

    @property
    def space(self) -> Space:
        """One variable, ``edges``: the operation of every edge (`jaxcompress.search.spaces.NasBench201` in small)."""
        names = tuple(operation.name for operation in self.cell.operations)
        return Space({"edges": Repeated(Choice(names), times=len(self.cell.edges))})

    @property
    def alphas(self) -> dict[str, tuple[int, int]]:
        """The shapes of architecture parameters, for `jaxcompress.search.darts.start_alphas`."""
        return {"edges": (len(self.cell.edges), len(self.cell.operations))}

    def widths(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return tuple(self.channels * 2**stage for stage in range(self.stages))

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters; those of a stage's cells are stacked along axis 0."""
        stem, head, stages, halvings = jax.random.split(key, 4)
        widths = self.widths()
        stage_keys = jax.random.split(stages, (self.stages, self.cells))
        halving_keys = jax.random.split(halvings, (self.stages, 3))
        scale = math.sqrt(1.0 / widths[-1])
        return {
            "stem": kernel(stem, 3, self.inputs, self.channels),
            "stages": [
                jax.vmap(lambda k, width=width: self.cell.init(k, width))(stage_keys[i])
                for i, width in enumerate(widths)
            ],
            "halvings": [
                {
                    "first": kernel(halving_keys[i, 0], 3, before, after),
                    "second": kernel(halving_keys[i, 1], 3, after),
                    "shortcut": kernel(halving_keys[i, 2], 1, before, after),
                }
                for i, (before, after) in enumerate(itertools.pairwise(widths))
            ],
            "head": {
                "kernel": scale * jax.random.normal(head, (widths[-1], self.classes), jnp.float32),
                "bias": jnp.zeros(self.classes, jnp.float32),
            },
        }

    def apply(self, params: dict[str, Any], genome: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        """Logits ``[batch, classes]``.

        Args:
            params: as `init` gives them.
            genome: ``edges`` is int ``[edges]`` or float ``[edges, operations]``, a runtime array (`Cell.apply`).
            images: ``[batch, height, width, inputs]``.
        """
        x = batch_norm(convolve(images, params["stem"]))
        for stage, cells in enumerate(params["stages"]):
            if stage:
                x = halve(params["halvings"][stage - 1], x)
            x, _ = lax.scan(lambda x, own: (self.cell.apply(own, genome["edges"], x), None), x, cells)
        features = jnp.mean(jax.nn.relu(batch_norm(x)), axis=(1, 2))
        return features @ params["head"]["kernel"] + params["head"]["bias"][None, :]


def halve(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The residual block between stages: 3x3 with stride 2, 3x3; on the shortcut 2x2 means and 1x1."""
    y = batch_norm(convolve(jax.nn.relu(x), params["first"], stride=2))
    y = batch_norm(convolve(jax.nn.relu(y), params["second"]))
    window = (1, 2, 2, 1)
    pads = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    means = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, pads) * 0.25
    return y + convolve(means, params["shortcut"])
