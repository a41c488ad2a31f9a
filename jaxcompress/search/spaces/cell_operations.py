"""What the operations inside of a cell cost, from ``channels`` to as many."""

from __future__ import annotations

import re

from jaxcompress.search.spaces.costs import Cost, convolution, depthwise

NASNET = (
    "skip_connect",
    "conv_1x3_3x1",
    "conv_1x7_7x1",
    "dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
"""The thirteen of Zoph et al., 2018, section 3."""
ENAS = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
"""The five of Pham et al., 2018, section 2.4."""
DARTS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The seven of Liu et al., 2019, section 3.1 (besides ``none``, which no final cell has)."""

NAME = re.compile(r"(none|skip_connect)|(avg_pool|max_pool|sep_conv|dil_conv|conv)_(\d)x(\d)(?:_\4x\3)?")


def check_operations(operations: tuple[str, ...]) -> None:
    """Refuses names that mean nothing."""
    for name in operations:
        if not NAME.fullmatch(name):
            raise ValueError(f"operations: {name!r} is unknown; use names like those of {NASNET}")


def operation_cost(name: str, channels: int, positions: int, stride: int = 1) -> Cost:
    """Parameters and FLOPs of an operation.

    ``sep_conv`` is two depthwise-separable convolutions, each with normalization, ``dil_conv`` one; ``conv_1x7_7x1`` is
    one convolution along each axis and one normalization. Poolings are free, and so is a skip, except that with a
    stride of two it is a 1x1 convolution with normalization.

    Args:
        name: such as ``"sep_conv_5x5"``.
        channels: that come in and go out.
        positions: outputs per channel.
        stride: 1 or 2.

    Example:
        >>> int(operation_cost("sep_conv_3x3", 16, 64).parameters)  # 2 * (9 * 16 + 16 * 16 + 2 * 16)
        864
    """
    match = NAME.fullmatch(name)
    assert match, name
    skip, kind, height, width = match.groups()
    if skip == "skip_connect" and stride == 2:
        return convolution(channels, channels, 1, positions)
    if skip or kind.endswith("pool"):
        return convolution(0, 0, 1, positions)
    area = int(height) * int(width)
    if kind == "conv":
        both = 2 if "_" in name.removeprefix("conv_") else 1
        return convolution(channels, channels, both * area, positions)
    once = depthwise(channels, area, positions, norm=False) + convolution(channels, channels, 1, positions)
    return once.times(2 if kind == "sep_conv" else 1)
