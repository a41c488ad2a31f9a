"""What elastic layers share: parameters that are sliced or masked, and told to `extract`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

EXTRACTED = "extracted"  # the collection in which layers leave the variables of the small network

Choice: TypeAlias = Any
"""A Python number (static), an array of one number (a runtime choice), or None for all there is."""


class Weighted(nn.Module):
    """A layer with a kernel, whose last axis are the features, and a bias.

    Attributes:
        features: of the whole layer.
        use_bias: whether there is a bias.
        dtype: to compute in; default that of input and parameters.
        param_dtype: of the parameters.
        kernel_init: for the kernel.
        bias_init: for the bias.
    """

    features: int
    _: dataclasses.KW_ONLY
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros_init()

    def ready(self, x: jax.Array, kernel: jax.Array, size: int | None) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Input, kernel and the first ``size`` biases (None takes all) in the dtype to compute in; tells `extract`."""
        bias = None
        if self.use_bias:
            bias = leading(stored(self, "bias", self.bias_init, (self.features,), self.param_dtype), {0: size})
        tell(self, "params", {"kernel": kernel} | ({} if bias is None else {"bias": bias}))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x, kernel, bias

    def finished(self, y: jax.Array, bias: jax.Array | None, width: Choice) -> jax.Array:
        """Adds the bias; zeros behind a runtime width."""
        if bias is not None:
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return first_channels(y, width)


def plain(genome: Any) -> Any:
    """A concrete genome as Python numbers, with which elastic layers slice.

    Example:
        >>> plain({"width": np.int32(3), "kernels": np.array([3, 5])})
        {'kernels': [3, 5], 'width': 3}
    """
    return jax.tree.map(lambda value: np.asarray(value).tolist(), genome)


def is_static(choice: Any) -> bool:
    """True for a Python number (or None, which is all there is)."""
    return choice is None or isinstance(choice, int | bool | np.integer | np.bool_)


def checked_width(layer: nn.Module, width: Choice, most: int) -> Choice:
    """A width that a layer has.

    Raises:
        TypeError: for a Python number that is no whole one.
        ValueError: if a static one is out of range.
    """
    if isinstance(width, float | np.floating):
        raise TypeError(f"{type(layer).__name__} {layer.name!r}: width must be a whole number, got {width}")
    if width is not None and is_static(width) and not 1 <= width <= most:
        raise ValueError(f"{type(layer).__name__} {layer.name!r}: width must be 1 to {most}, got {width}")
    return width


def stored(layer: nn.Module, name: str, init: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A parameter as it is there: of the whole layer, or of an extracted one."""
    if layer.has_variable("params", name):
        return layer.get_variable("params", name)
    return layer.param(name, init, shape, dtype)


def leading(array: jax.Array, sizes: dict[int, int | None]) -> jax.Array:
    """The first entries along some axes; None takes all."""
    for axis, size in sizes.items():
        if size is not None and size < array.shape[axis]:
            array = jax.lax.slice_in_dim(array, 0, size, axis=axis)
    return array


def first_channels(x: jax.Array, width: Choice) -> jax.Array:
    """Zeros behind the first ``width`` channels (the last axis), for a runtime width; else ``x``."""
    if is_static(width):
        return x
    mask = jnp.arange(x.shape[-1]) < width
    return jnp.where(jnp.expand_dims(mask, tuple(range(x.ndim - 1))), x, jnp.zeros((), x.dtype))


def tell(layer: nn.Module, collection: str, variables: dict[str, jax.Array]) -> None:
    """Leaves the variables of the small layer for `extract`; does nothing in any other call."""
    if not layer.is_initializing():
        layer.sow(EXTRACTED, collection, variables, reduce_fn=lambda _, new: new, init_fn=dict)


def readable(layer: nn.Module, x: jax.Array, kernel: jax.Array, axis: int) -> None:
    """Refuses data of more channels than a kernel reads.

    Raises:
        ValueError: naming the layer.
    """
    if x.shape[-1] > kernel.shape[axis]:
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r}: the input has {x.shape[-1]} channels, the kernel reads "
            f"{kernel.shape[axis]}; initialize with the largest genome"
        )
