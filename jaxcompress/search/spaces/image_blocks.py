"""Image classifiers of plain, residual, Inception and dilated blocks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.checks import whole as whole_numbers
from jaxcompress.search.space import Choice, Conditional, IntRange, Repeated, Space
from jaxcompress.search.spaces.costs import Cost, convolution, dense, whole
from jaxcompress.search.spaces.limits import limited

KINDS = ("plain", "residual", "inception", "dilated")
SPLITS = ((2, 4, 1, 1), (4, 2, 1, 1), (2, 2, 2, 2), (1, 3, 3, 1), (0, 4, 4, 0), (0, 8, 0, 0))
"""How an Inception block divides its channels, in eighths: 1x1, 3x3, 5x5, pooling. The first is GoogLeNet's habit."""


@dataclasses.dataclass(frozen=True)
class ImageBlocks:
    """Stages of blocks, each of them of one of four kinds; a convolution is kernel, normalization, ReLU.

    - ``plain``: one convolution of the chosen kernel;
    - ``residual``: two of them, added to what came in (through a 1x1 convolution where shapes differ);
    - ``inception``: 1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 pooling and 1x1, side by side, dividing the channels as
      ``split`` says; the 1x1 convolutions before 3x3 and 5x5 have half as many channels as these put out;
    - ``dilated``: one 3x3 convolution with the chosen dilation.

    The network: a 3x3 convolution to the width of the first stage, the stages (from the second on with a stride of two
    in their first block: in an Inception block each branch has it in its last layer), the mean, a classifier.

    Args:
        classes: of the task.
        channels: of the images.
        size: their height and width.
        widths: channels that a stage may have, multiples of 16.
        stages: how many there are.
        depth: the smallest and the largest number of blocks of a stage.
        kernels: of plain and residual blocks.
        dilations: of dilated blocks.
        splits: of Inception blocks, in eighths.

    Raises:
        ValueError: for a width that is no multiple of 16, or a split that does not sum to eight.

    Example:
        >>> print(ImageBlocks(stages=2).space(parameters=20_000))
        variable                    values                       genes  exists where
        stages/*/width              16 | 32 | 64                 2
        stages/*/blocks/count       1 .. 3                       2
        ...
        constraint: parameters <= 20,000

    References:
        He et al., 2016 (residual blocks), figure 2. https://arxiv.org/abs/1512.03385
        Szegedy et al., 2015 (Inception), figure 2b. https://arxiv.org/abs/1409.4842
        Yu & Koltun, 2016 (dilation), section 2. https://arxiv.org/abs/1511.07122
    """

    classes: int = 10
    channels: int = 3
    size: int = 32
    widths: tuple[int, ...] = (16, 32, 64)
    stages: int = 3
    depth: tuple[int, int] = (1, 3)
    kernels: tuple[int, ...] = (3, 5)
    dilations: tuple[int, ...] = (2, 4)
    splits: tuple[tuple[int, int, int, int], ...] = SPLITS

    def __post_init__(self) -> None:
        whole_numbers(self, classes=self.classes, channels=self.channels, size=self.size, stages=self.stages)
        if odd := [width for width in self.widths if width % 16]:
            raise ValueError(f"ImageBlocks(widths=): {odd[0]} is no multiple of 16, which Inception's branches need")
        if bad := [split for split in self.splits if len(split) != 4 or sum(split) != 8 or min(split) < 0]:
            raise ValueError(f"ImageBlocks(splits=): {bad[0]} must be four numbers of eighths that sum to eight")

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """Of each stage its ``width`` and ``blocks``; with limits where they are given."""
        block = {
            "kind": Choice(KINDS),
            "kernel": Conditional(Choice(self.kernels), on="kind", equals=("plain", "residual")),
            "split": Conditional(Choice(self.splits), on="kind", equals="inception"),
            "dilation": Conditional(Choice(self.dilations), on="kind", equals="dilated"),
        }
        stage = {"width": Choice(self.widths), "blocks": Repeated(block, times=IntRange(*self.depth))}
        return limited({"stages": Repeated(stage, times=self.stages)}, self, parameters, flops)

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of one decoded genome."""
        widths, blocks = genome["stages"]["width"], genome["stages"]["blocks"]  # [stages], arrays [stages, blocks]
        sides = -(-self.size // 2 ** np.arange(self.stages))
        positions = (sides**2).astype(np.int32)[:, None]
        starts = np.arange(self.depth[1])[None, :] == 0
        before = jnp.concatenate([widths[:1], widths[:-1]])[:, None]
        inputs = jnp.where(starts, before, widths[:, None])
        strided = starts & (np.arange(self.stages)[:, None] > 0)
        kinds = [
            self._plain(blocks, inputs, widths[:, None], positions),
            self._residual(blocks, inputs, widths[:, None], positions, strided),
            self._inception(blocks, inputs, widths[:, None], positions, strided),
            convolution(inputs, widths[:, None], 9, positions),
        ]
        real = np.arange(self.depth[1])[None, :] < blocks["count"][:, None]
        total = convolution(self.channels, widths[0], 9, self.size**2) + dense(widths[-1], self.classes)
        for kind, cost in enumerate(kinds):
            total += cost.times(real & (blocks["kind"] == kind)).total()
        return total

    def _plain(self, blocks: Any, inputs: jax.Array, width: jax.Array, positions: np.ndarray) -> Cost:
        return convolution(inputs, width, blocks["kernel"] ** 2, positions)

    def _residual(
        self, blocks: Any, inputs: jax.Array, width: jax.Array, positions: np.ndarray, strided: np.ndarray
    ) -> Cost:
        area = blocks["kernel"] ** 2
        both = convolution(inputs, width, area, positions) + convolution(width, width, area, positions)
        return both + convolution(inputs, width, 1, positions).times((inputs != width) | strided)

    def _inception(
        self, blocks: Any, inputs: jax.Array, width: jax.Array, positions: np.ndarray, strided: np.ndarray
    ) -> Cost:
        eighths = jnp.array(self.splits, jnp.int32)[blocks["split"]]  # [stages, blocks, 4]
        one, three, five, pool = (width // 8 * eighths[..., branch] for branch in range(4))
        total = convolution(inputs, one, 1, positions) + convolution(inputs, pool, 1, positions)
        sides = -(-self.size // 2 ** np.arange(-1, self.stages - 1).clip(0))
        full = jnp.where(strided, whole(sides**2)[:, None], positions)  # the first layer sees all there is
        for outputs, area in ((three, 9), (five, 25)):
            total += convolution(inputs, outputs // 2, 1, full) + convolution(outputs // 2, outputs, area, positions)
        return total
