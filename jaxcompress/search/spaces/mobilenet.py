"""Mobile networks of elastic depth, width, expansion, kernel and resolution: the space of once-for-all networks."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.search.checks import whole as whole_numbers
from jaxcompress.search.space import Choice, Repeated, Space
from jaxcompress.search.spaces.costs import Cost, convolution, dense, divisible, halved, whole
from jaxcompress.search.spaces.inverted_residual import inverted_residual
from jaxcompress.search.spaces.limits import limited


@dataclasses.dataclass(frozen=True)
class Stage:
    """Inverted residual blocks of one width.

    Attributes:
        width: channels that go out, before the width multiplier.
        stride: of the first block: 1 or 2.
        squeeze: whether the blocks weigh their channels (squeeze-and-excitation through a quarter of them).
    """

    width: int
    stride: int = 2
    squeeze: bool = False


ONCE_FOR_ALL = (
    Stage(24),
    Stage(40, squeeze=True),
    Stage(80),
    Stage(112, stride=1, squeeze=True),
    Stage(160, squeeze=True),
)


@dataclasses.dataclass(frozen=True)
class MobileNet:
    """The space of once-for-all networks over MobileNetV3, or another one of its kind.

    A stem of stride two, a block of expansion one, the stages, a 1x1 convolution, the mean, a layer to ``features``, a
    classifier. Of every stage the number of blocks is free, of every block the kernel and the expansion; the width
    multiplier and the resolution are common to all. What has one value is a constant.

    Args:
        classes: of the task.
        stages: their widths and strides.
        kernels: of the depthwise convolutions.
        expansions: how many times as many channels there are inside of a block.
        depths: blocks of a stage.
        widths: multipliers of all channels; these become multiples of eight.
        resolutions: heights and widths of the images.
        stem: channels of the first convolution.
        first: channels of the first block.
        last: channels of the last convolution.
        features: width of the layer before the classifier; None for no such layer.

    Raises:
        ValueError: for sizes below 1, or strides other than 1 and 2.

    Example:
        >>> MobileNet().space().size == (9**2 + 9**3 + 9**4) ** 5  # about 2e19
        True

    References:
        Cai et al., 2020, section 3.1 and appendix A. https://arxiv.org/abs/1908.09791
        Howard et al., 2019 (MobileNetV3), table 1. https://arxiv.org/abs/1905.02244
    """

    classes: int = 1000
    stages: tuple[Stage, ...] = ONCE_FOR_ALL
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    widths: tuple[float, ...] = (1.0,)
    resolutions: tuple[int, ...] = (224,)
    stem: int = 16
    first: int = 16
    last: int = 960
    features: int | None = 1280

    def __post_init__(self) -> None:
        features = 1 if self.features is None else self.features
        whole_numbers(self, classes=self.classes, stem=self.stem, first=self.first, last=self.last, features=features)
        if wrong := [stage for stage in self.stages if stage.stride not in (1, 2) or stage.width < 1]:
            raise ValueError(f"MobileNet(stages=): {wrong[0]} needs a width of at least 1 and a stride of 1 or 2")

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """``width``, ``resolution``, and of each stage its ``blocks``; with limits where they are given."""
        block = {"kernel": Choice(self.kernels), "expansion": Choice(self.expansions)}
        stage = {"blocks": Repeated(block, times=Choice(self.depths))}
        variables = {
            "width": Choice(self.widths),
            "resolution": Choice(self.resolutions),
            "stages": Repeated(stage, times=len(self.stages)),
        }
        return limited(variables, self, parameters, flops)

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of one decoded genome."""
        blocks = genome["stages"]["blocks"]  # arrays [stages, blocks]
        width = jnp.asarray(genome["width"]).astype(jnp.float32)
        stem, first, last = (divisible(base * width) for base in (self.stem, self.first, self.last))
        outputs = divisible(jnp.array([stage.width for stage in self.stages], jnp.float32) * width)
        sides = [halved(genome["resolution"])]
        for stage in self.stages:
            sides.append(halved(sides[-1]) if stage.stride == 2 else sides[-1])
        positions = whole(jnp.stack(sides)) ** 2
        starts = np.arange(max(self.depths)) == 0  # [blocks]
        inputs = self._by_block(starts, jnp.concatenate([first[None], outputs[:-1]]), outputs)
        inner = divisible((inputs * blocks["expansion"]).astype(jnp.float32))
        squeeze = np.array([[stage.squeeze] for stage in self.stages])
        each = inverted_residual(
            inputs,
            inner,
            outputs[:, None],
            kernel=blocks["kernel"],
            positions_in=self._by_block(starts, positions[:-1], positions[1:]),
            positions_out=positions[1:, None],
            squeezed=jnp.where(squeeze, divisible((inner // 4).astype(jnp.float32)), 0),
        )
        real = np.arange(max(self.depths))[None, :] < blocks["count"][:, None]
        total = convolution(3, stem, 9, positions[0]) + each.times(real).total()
        total += inverted_residual(stem, stem, first, kernel=3, positions_in=positions[0], positions_out=positions[0])
        total += convolution(outputs[-1], last, 1, positions[-1])
        if self.features is None:
            return total + dense(last, self.classes)
        features = divisible(self.features * width)
        return total + dense(last, features, bias=False) + dense(features, self.classes)

    @staticmethod
    def _by_block(starts: np.ndarray, at_first: Any, later: Any) -> Any:
        """``[stages, blocks]``: one number for the first block of a stage, another one for those behind it."""
        return jnp.where(starts[None, :], at_first[:, None], later[:, None])
