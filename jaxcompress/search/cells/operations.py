"""The operations on an edge of a cell, in plain JAX: from an image to one of the same shape."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing an edge can be.

    Attributes:
        name: as it stands in genomes and parameters.
        init: ``(key, channels) -> params``; an empty dict where there are none.
        apply: ``(params, x [batch, height, width, channels]) -> the same shape``.
    """

    name: str
    init: Callable[[jax.Array, int], dict[str, Any]]
    apply: Callable[[dict[str, Any], jax.Array], jax.Array]


def batch_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Normalizes every channel over batch and image, without scale and offset.

    These would hide what an operation is worth. The statistics are those of the batch at hand, in evaluation too:
    moving averages would mix those of all architectures.
    """
    mean = jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2), keepdims=True)
    return (x - mean) * lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype))


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """A convolution ``[height, width, in, out]``, padded by half of the (dilated) kernel on both sides.

    On CPU as one product with gathered patches: within loops XLA's derivative of a convolution is 20 to 170 times
    slower there than outside of them, and a search is a loop.
    """
    if kernel.shape[:2] == (1, 1):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _by_patches(x, kernel, stride, dilation),
        default=lambda x, kernel: _native(x, kernel, stride, dilation),
    )


def _native(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    pads = [(dilation * (size // 2), dilation * (size // 2)) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=NHWC
    )


def _by_patches(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    height, width, inputs, outputs = kernel.shape
    pads = [(dilation * (size // 2), dilation * (size // 2)) for size in (height, width)]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = x.shape[1], x.shape[2]
    starts = [(dilation * i, dilation * j) for i in range(height) for j in range(width)]
    patches = [padded[:, i : i + rows : stride, j : j + columns : stride] for i, j in starts]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(height * width * inputs, outputs)


def kernel(key: jax.Array, size: int, channels: int, outputs: int | None = None) -> jax.Array:
    """He-normal ``[size, size, channels, outputs]``."""
    shape = (size, size, channels, channels if outputs is None else outputs)
    return math.sqrt(2.0 / (size * size * channels)) * jax.random.normal(key, shape, jnp.float32)


def average_pool(x: jax.Array) -> jax.Array:
    """3x3 means; at the border over what lies inside the image."""
    inside = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return box_sum(x) / box_sum(inside)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima with a stride of 1, ``[batch, height, width, channels]``; at the border over what lies inside."""
    return _over_windows(x, jnp.maximum, -jnp.inf)


def box_sum(x: jax.Array) -> jax.Array:
    """Sums over 3x3 windows, ``[batch, height, width, channels]``; zeros around."""
    return _over_windows(x, jnp.add, 0.0)


def _over_windows(x: jax.Array, combine: Callable[..., jax.Array], around: float) -> jax.Array:
    """Combines 3x3 windows, one axis after the other. `lax.reduce_window` is slower on CPU."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], constant_values=around)
        x = functools.reduce(combine, [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)])
    return x


def _no_params(key: jax.Array, channels: int) -> dict[str, Any]:
    return {}


def _convolution(size: int) -> Operation:
    """ReLU, convolution, normalization: in this order."""

    def init(key: jax.Array, channels: int) -> dict[str, Any]:
        return {"kernel": kernel(key, size, channels)}

    def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
        return batch_norm(convolve(jax.nn.relu(x), params["kernel"]))

    return Operation(f"nor_conv_{size}x{size}", init, apply)


NONE = Operation("none", _no_params, lambda params, x: jnp.zeros_like(x))
SKIP = Operation("skip_connect", _no_params, lambda params, x: x)
CONV1X1 = _convolution(1)
CONV3X3 = _convolution(3)
AVGPOOL3X3 = Operation("avg_pool_3x3", _no_params, lambda params, x: average_pool(x))

NAS_BENCH_201 = (NONE, SKIP, CONV1X1, CONV3X3, AVGPOOL3X3)
"""The operations of NAS-Bench-201 in its order (Dong & Yang, 2020)."""
