"""EfficientNet's compound scaling: one knob for depth, width and resolution."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.search.checks import whole as whole_numbers
from jaxcompress.search.space import Float, Space
from jaxcompress.search.spaces.costs import Cost, convolution, dense, divisible, halved, whole
from jaxcompress.search.spaces.inverted_residual import inverted_residual
from jaxcompress.search.spaces.limits import limited

STEM, HEAD = 32, 1280
WIDTHS = (16, 24, 40, 80, 112, 192, 320)
REPEATS = (1, 2, 2, 3, 3, 4, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


class Scaled(NamedTuple):
    """An EfficientNet, as arrays.

    Attributes:
        stem: int32, channels of the first convolution.
        widths: int32 ``[7]``, channels of the stages.
        repeats: int32 ``[7]``, blocks of the stages.
        head: int32, channels of the last convolution.
        resolution: int32, height and width of the images.
    """

    stem: jax.Array
    widths: jax.Array
    repeats: jax.Array
    head: jax.Array
    resolution: jax.Array


@dataclasses.dataclass(frozen=True)
class EfficientNet:
    """EfficientNets between B0 and ``2**largest`` times its FLOPs, as a space of one variable.

    With the knob at ``phi``, stages have ``alpha**phi`` times as many blocks (rounded up), layers ``beta**phi`` times
    as many channels (multiples of eight) and images ``gamma**phi`` times the height and width. The bases of the paper
    make FLOPs grow as ``(alpha * beta**2 * gamma**2)**phi``, about ``2**phi``.

    Args:
        classes: of the task.
        resolution: height and width of the images at ``phi = 0``.
        largest: the upper bound of ``phi``.
        alpha: base of the depth.
        beta: base of the width.
        gamma: base of the resolution.
        multiple: the resolution is rounded to the nearest multiple of this; those published are multiples of 4.

    Raises:
        ValueError: for a base below 1, or a resolution that ends above what int32 counts of positions hold.

    Example:
        >>> network = EfficientNet()
        >>> genome = network.space().decode(network.space().encode({"phi": 0.0}))
        >>> int(network.costs(genome).parameters), int(network.scaled(genome).resolution)
        (5288548, 224)

    References:
        Tan & Le, 2019, equation 3, table 1, section 4. https://arxiv.org/abs/1905.11946
    """

    classes: int = 1000
    resolution: int = 224
    largest: float = 7.0
    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15
    multiple: int = 4

    def __post_init__(self) -> None:
        whole_numbers(self, classes=self.classes, resolution=self.resolution, multiple=self.multiple)
        for name in ("alpha", "beta", "gamma"):
            if not getattr(self, name) >= 1.0:
                raise ValueError(f"EfficientNet({name}=) must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.resolution * self.gamma**self.largest < 40_000:
            raise ValueError(
                f"EfficientNet: images of {self.resolution} * {self.gamma}**{self.largest} are out of reach"
            )

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """One variable, ``phi``, with limits where they are given."""
        return limited({"phi": Float(0.0, self.largest)}, self, parameters, flops)

    def scaled(self, genome: Any) -> Scaled:
        """The network of one decoded genome, in runtime arrays."""
        phi = jnp.asarray(genome["phi"], jnp.float32)
        depth, width, growth = (jnp.float32(base) ** phi for base in (self.alpha, self.beta, self.gamma))
        side = jnp.round(self.resolution * growth / self.multiple).astype(jnp.int32) * self.multiple
        return self.at(depth, width, side)

    def at(self, depth: ArrayLike, width: ArrayLike, resolution: ArrayLike) -> Scaled:
        """The network of given factors: those published as B1 to B7 are near, not on, the line of ``phi``.

        Args:
            depth: factor of the numbers of blocks. May be traced, as may the others.
            width: factor of the channels.
            resolution: height and width of the images.
        """
        depth, width = jnp.asarray(depth, jnp.float32), jnp.asarray(width, jnp.float32)
        repeats = jnp.ceil(jnp.array(REPEATS, jnp.float32) * depth - 1e-5).astype(jnp.int32)  # 1.0000001 is one
        widths = divisible(jnp.array((STEM, *WIDTHS, HEAD), jnp.float32) * width)
        return Scaled(widths[0], widths[1:-1], repeats, widths[-1], whole(resolution))

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of one decoded genome."""
        return self.costs_of(self.scaled(genome))

    def costs_of(self, network: Scaled) -> Cost:
        """Parameters and FLOPs of a network."""
        sides = [halved(network.resolution)]
        for stride in STRIDES:
            sides.append(halved(sides[-1]) if stride == 2 else sides[-1])
        positions = jnp.stack(sides) ** 2
        before = jnp.concatenate([network.stem[None], network.widths[:-1]])
        first = self._blocks(before, network.widths, positions[:-1], positions[1:])
        others = self._blocks(network.widths, network.widths, positions[1:], positions[1:]).times(network.repeats - 1)
        total = convolution(3, network.stem, 9, positions[0]) + first.total() + others.total()
        total += convolution(network.widths[-1], network.head, 1, positions[-1])
        return total + dense(network.head, self.classes)

    def _blocks(self, inputs: jax.Array, outputs: jax.Array, before: jax.Array, behind: jax.Array) -> Cost:
        """One block of each stage. Squeeze-and-excitation goes through a quarter of what comes in."""
        return inverted_residual(
            inputs,
            inputs * np.array(EXPANSIONS, np.int32),
            outputs,
            kernel=np.array(KERNELS, np.int32),
            positions_in=before,
            positions_out=behind,
            squeezed=jnp.maximum(1, inputs // 4),
        )
