"""The cell of NAS-Bench-201: six edges between four nodes, one of five operations on each."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import whole
from jaxcompress.search.space import Choice, Repeated, Space
from jaxcompress.search.spaces.costs import Cost, convolution, dense
from jaxcompress.search.spaces.limits import limited

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclasses.dataclass(frozen=True)
class NasBench201:
    """The space of NAS-Bench-201 and what its networks cost.

    Candidate ``i`` of ``space().enumerate()`` is row ``i`` of tables in which the operations of the edges ``0->1, 0->2,
    1->2, 0->3, 1->3, 2->3`` are the digits of a number in base five, the first one the most significant.

    The network: a 3x3 stem, three stages of ``cells`` cells with ``channels``, twice and four times as many channels
    and a residual block of stride two between them, normalization, mean, classifier. A convolution is ReLU, kernel,
    normalization.

    Args:
        classes: of the task: 10, 100 or 120 in the benchmark.
        channels: of the first stage.
        cells: of each stage.
        size: height and width of the images; ImageNet16-120 has 16.

    Example:
        >>> benchmark = NasBench201()
        >>> space = benchmark.space()
        >>> genome = space.decode(space.encode({"edges": ["nor_conv_3x3"] * 6}))
        >>> int(benchmark.row(genome)), int(benchmark.costs(genome).parameters)
        (11718, 1531546)

    References:
        Dong & Yang, 2020, section 2.1 and figure 1. https://arxiv.org/abs/2001.00326
    """

    classes: int = 10
    channels: int = 16
    cells: int = 5
    size: int = 32

    def __post_init__(self) -> None:
        whole(self, classes=self.classes, channels=self.channels, cells=self.cells, size=self.size)

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """One variable, ``edges``: int32 ``[6]`` when decoded. With limits where they are given."""
        return limited({"edges": Repeated(Choice(OPERATIONS), times=len(EDGES))}, self, parameters, flops)

    def row(self, genome: Any) -> jax.Array:
        """Which row of a table of the benchmark the decoded genome is, int32, any batch axes."""
        digits = [genome["edges"][..., i] * 5 ** (5 - i) for i in range(6)]
        return functools.reduce(jnp.add, digits)

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of the whole network of one decoded genome."""
        small = jnp.sum(genome["edges"] == OPERATIONS.index("nor_conv_1x1"))
        large = jnp.sum(genome["edges"] == OPERATIONS.index("nor_conv_3x3"))
        total = convolution(3, self.channels, 9, self.size**2)
        for stage in range(3):
            width, positions = self.channels * 2**stage, (self.size // 2**stage) ** 2
            if stage:
                total += convolution(width // 2, width, 9, positions) + convolution(width, width, 9, positions)
                total += convolution(width // 2, width, 1, positions, norm=False)
            cell = convolution(width, width, 1, positions).times(small)
            cell += convolution(width, width, 9, positions).times(large)
            total += cell.times(self.cells)
        last_norm = Cost(jnp.int32(2 * 4 * self.channels), jnp.float32(0))
        return total + last_norm + dense(4 * self.channels, self.classes)
