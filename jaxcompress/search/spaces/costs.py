"""What layers cost, as arithmetic on traced widths: parameters exactly, FLOPs up to float32's rounding."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Cost(NamedTuple):
    """What a network, or a part of one, costs; add with `+`, repeat with `times`.

    Attributes:
        parameters: int32, exact below ``2**31``: trainable numbers (of a normalization: scale and offset).
        flops: float32: for one example, two per multiply-accumulate of a product or convolution; nothing else counts.
    """

    parameters: jax.Array
    flops: jax.Array

    def __add__(self, other: Cost) -> Cost:  # pyright: ignore[reportIncompatibleMethodOverride]  # not a longer tuple
        return Cost(self.parameters + other.parameters, self.flops + other.flops)

    def times(self, count: ArrayLike) -> Cost:
        """The cost of ``count`` of it: a number, or False for none."""
        count = jnp.asarray(count).astype(jnp.int32)
        return Cost(self.parameters * count, self.flops * count.astype(jnp.float32))

    def total(self) -> Cost:
        """The sum over all axes."""
        return Cost(jnp.sum(self.parameters, dtype=jnp.int32), jnp.sum(self.flops))


def convolution(
    inputs: ArrayLike,
    outputs: ArrayLike,
    area: ArrayLike,
    positions: ArrayLike,
    *,
    norm: bool = True,
    bias: bool = False,
) -> Cost:
    """A convolution between all channels.

    Args:
        inputs: channels that come in. May be traced, as all numbers here, and of any shapes that fit.
        outputs: channels that go out.
        area: entries of the window: 9 for a 3x3 kernel.
        positions: outputs per channel: height times width.
        norm: whether a normalization with scale and offset follows.
        bias: whether it has one.

    Example:
        >>> convolution(3, 16, 9, 32 * 32)
        Cost(parameters=Array(464, dtype=int32), flops=Array(884736., dtype=float32))
    """
    inputs, outputs = whole(inputs), whole(outputs)
    weights = inputs * outputs * whole(area)
    extra = outputs * (2 * norm + bias)
    return Cost(weights + extra, 2.0 * weights.astype(jnp.float32) * whole(positions).astype(jnp.float32))


def depthwise(channels: ArrayLike, area: ArrayLike, positions: ArrayLike, *, norm: bool = True) -> Cost:
    """A convolution of every channel by itself; arguments as in `convolution`."""
    return convolution(1, channels, area, positions, norm=norm)


def dense(inputs: ArrayLike, outputs: ArrayLike, *, bias: bool = True) -> Cost:
    """A dense layer, applied once."""
    return convolution(inputs, outputs, 1, 1, norm=False, bias=bias)


def whole(value: ArrayLike) -> jax.Array:
    """As int32."""
    return jnp.asarray(value).astype(jnp.int32)


def halved(size: ArrayLike) -> jax.Array:
    """What a stride of two leaves of a height or width with "SAME" padding: half of it, rounded up."""
    return (whole(size) + 1) // 2


def divisible(value: ArrayLike, divisor: int = 8) -> jax.Array:
    """A width as the nearest multiple of ``divisor``, and the next one where that would lose more than a tenth.

    Args:
        value: the width asked for, any number. May be traced.
        divisor: at least 1; also the smallest result.

    Example:
        >>> divisible(jnp.array([3.0, 10.0, 20.0, 35.2])).tolist()
        [8, 16, 24, 32]

    References:
        Tan & Le, 2019 (``round_filters`` of the code published with it). https://arxiv.org/abs/1905.11946
    """
    value = jnp.asarray(value).astype(jnp.float32)
    near = jnp.maximum(divisor, jnp.floor((value + divisor / 2) / divisor) * divisor)
    return jnp.where(near < 0.9 * value, near + divisor, near).astype(jnp.int32)
