"""A convolution of elastic width and kernel size."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.search.supernet.elastic.layer import (
    Choice,
    Weighted,
    checked_width,
    is_static,
    leading,
    readable,
    stored,
)

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


class ElasticConv(Weighted):
    """Convolution of as many features and of the kernel size that it is told.

    One kernel of the largest size is stored. A smaller one is its centre, times a learned square matrix over the
    positions that all channels share and that starts as the identity (Once-for-All: the 5x5 kernel from the centre of
    the 7x7 one, the 3x3 kernel from the centre of that). Padding keeps sizes alike for every kernel: ``kernel // 2`` on
    each side. At a runtime size the kernel is filled up with zeros.

    The features of a depthwise layer are the channels of its input.

    Attributes, besides those of `Weighted`:
        kernel_sizes: odd, ascending; the same along every spatial axis.
        strides: along every spatial axis.
        depthwise: one filter for each channel.
        ndim: number of spatial axes, 1 to 3; data is ``[batch, spatial..., channels]``.
        transform: False takes centres as they are.

    Raises:
        ValueError: if sizes are not odd and ascending, a static choice is not there, or a depthwise layer is made
            for other channels than it has features.

    Example:
        >>> layer = ElasticConv(4, (3, 5))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
        >>> layer.apply(variables, jnp.ones((1, 8, 8, 2)), width=3, kernel=3).shape
        (1, 8, 8, 3)
        >>> sorted(variables["params"])
        ['bias', 'kernel', 'transform_5_to_3']

    References:
        Cai et al., 2020, section 3.3, figure 3. https://arxiv.org/abs/1908.09791
    """

    kernel_sizes: tuple[int, ...] = (3,)
    strides: int = 1
    depthwise: bool = False
    ndim: int = 2
    transform: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, width: Choice = None, kernel: Choice = None) -> jax.Array:
        """Applies the layer.

        Args:
            x: ``[batch, spatial..., channels]``; fewer channels than the whole layer reads are the first ones.
            width: how many features; an array masks, a Python int slices, None takes all. A depthwise layer that
                slices has the channels of its input.
            kernel: the kernel size, likewise; an array must hold one of ``kernel_sizes``.
        """
        self._check(kernel, x.shape[-1])
        checked_width(self, width, self.features)
        channels = 1 if self.depthwise else x.shape[-1]
        shape = (*(self.kernel_sizes[-1],) * self.ndim, channels, self.features)
        whole = stored(self, "kernel", self.kernel_init, shape, self.param_dtype)
        size = (x.shape[-1] if self.depthwise else width) if is_static(width) else None
        readable(self, x, whole, -1 if self.depthwise else -2)
        whole = leading(whole, {self.ndim: channels, self.ndim + 1: size})
        weights = self._resized(whole, kernel)
        x, weights, bias = self.ready(x, weights, size)
        y = jax.lax.conv_general_dilated(
            x,
            weights,
            (self.strides,) * self.ndim,
            [(side // 2, side // 2) for side in weights.shape[: self.ndim]],
            dimension_numbers=_LAYOUTS[self.ndim],
            feature_group_count=weights.shape[-1] if self.depthwise else 1,
        )
        return self.finished(y, bias, width)

    def _check(self, kernel: Choice, channels: int) -> None:
        sizes = self.kernel_sizes
        if not sizes or any(size % 2 == 0 for size in sizes) or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"ElasticConv {self.name!r}: kernel_sizes must be odd and ascending, got {sizes}")
        if self.ndim not in _LAYOUTS:
            raise ValueError(f"ElasticConv {self.name!r}: ndim must be 1, 2 or 3, got {self.ndim}")
        if self.depthwise and self.is_initializing() and channels != self.features:
            raise ValueError(
                f"ElasticConv {self.name!r}: a depthwise layer of {self.features} features reads as many channels, got "
                f"{channels}; initialize with the largest genome"
            )
        if kernel is not None and is_static(kernel) and kernel not in sizes:
            raise ValueError(f"ElasticConv {self.name!r}: kernel must be one of {sizes}, got {kernel}")

    def _resized(self, whole: jax.Array, kernel: Choice) -> jax.Array:
        """The kernel of the chosen size; at a runtime choice among zeros."""
        kernel = self.kernel_sizes[-1] if kernel is None else kernel
        if is_static(kernel) and whole.shape[0] == kernel:
            if self.is_initializing():
                self._smaller(whole)
            return whole  # of an extracted layer too
        by_size = self._smaller(whole)
        if is_static(kernel):
            return by_size[int(kernel)]
        most = self.kernel_sizes[-1]
        padded = []
        for size, weights in by_size.items():
            around = [((most - size) // 2,) * 2] * self.ndim
            padded.append(jnp.pad(weights, [*around, (0, 0), (0, 0)]))
        return jnp.stack(padded)[jnp.argmax(jnp.asarray(list(by_size), jnp.int32) == kernel)]

    def _smaller(self, whole: jax.Array) -> dict[int, jax.Array]:
        """The kernels of all sizes, each from the centre of the next larger one."""
        found = {self.kernel_sizes[-1]: whole}
        for large, small in itertools.pairwise(reversed(self.kernel_sizes)):
            weights, cut = found[large], (large - small) // 2
            for axis in range(self.ndim):
                weights = jax.lax.slice_in_dim(weights, cut, large - cut, axis=axis)
            if self.transform:
                positions = small**self.ndim
                matrix = stored(self, f"transform_{large}_to_{small}", _identity, (positions,) * 2, self.param_dtype)
                weights = (matrix @ weights.reshape(positions, -1)).reshape(weights.shape)
            found[small] = weights
        return found


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    del key
    return jnp.eye(shape[0], dtype=dtype)
