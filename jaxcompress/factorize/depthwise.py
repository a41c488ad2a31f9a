"""Windows that slide over each feature by itself, as sums of shifted slices.

XLA's grouped convolution takes 35 ms on a CPU where this takes 0.3 ms (3 x 3 windows over 32 images of 32 x 32 x 32
features); everywhere else the sum is one fused loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Window(NamedTuple):
    """How a window slides along one axis, as in `jax.lax.conv_general_dilated`."""

    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    lhs_dilation: int = 1
    rhs_dilation: int = 1


def depthwise(x: jax.Array, kernel: jax.Array, axes: Sequence[int], windows: Sequence[Window]) -> jax.Array:
    """Slides a window along some axes, another one for each feature.

    Args:
        x: data; its last axes are the features.
        kernel: ``window + features``: the window's sizes, then those of the last axes of ``x``.
        axes: those of ``x`` along which it slides.
        windows: how, for each of them.

    Returns:
        The correlation (no kernel is flipped), in the dtype of ``x``.

    Example:
        >>> depthwise(jnp.arange(4.0)[:, None], jnp.ones((2, 1)), (0,), (Window(stride=2),)).ravel().tolist()
        [1.0, 5.0]
    """
    config = [(0, 0, 0)] * x.ndim
    for axis, window in zip(axes, windows, strict=True):
        config[axis] = (*window.padding, window.lhs_dilation - 1)
    if any(config[axis] != (0, 0, 0) for axis in axes):
        x = lax.pad(x, jnp.zeros((), x.dtype), config)
    counts = [_count(x.shape[a], size, w) for a, size, w in zip(axes, kernel.shape[: len(axes)], windows, strict=True)]
    total = None
    for offsets in itertools.product(*map(range, kernel.shape[: len(axes)])):
        piece = x
        for axis, offset, count, window in zip(axes, offsets, counts, windows, strict=True):
            start = offset * window.rhs_dilation if count else 0
            limit = start + (count - 1) * window.stride + 1 if count else 0
            piece = lax.slice_in_dim(piece, start, limit, window.stride, axis)
        factor = kernel[offsets]
        term = piece * factor.reshape((1,) * (x.ndim - factor.ndim) + factor.shape)
        total = term if total is None else total + term
    assert total is not None  # a window holds an entry
    return total


def _count(size: int, window: int, how: Window) -> int:
    return max(0, (size - (window - 1) * how.rhs_dilation - 1) // how.stride + 1)
