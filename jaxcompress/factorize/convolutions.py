"""What convolutions with factorized kernels consist of: products of features at every pixel, windows taken apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.solvers.contraction import UNKNOWN


@dataclasses.dataclass(frozen=True)
class ConvOptions:
    """Parameters of a convolution as one hashable argument (they hold tuples that are no trees of arrays).

    Spatial axes are counted in the order of the dimension numbers.
    """

    items: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, params: dict[str, Any]) -> ConvOptions:
        """Of the parameters of `jax.lax.conv_general_dilated_p`."""
        return cls(tuple(params.items()))

    def __getitem__(self, name: str) -> Any:
        """A parameter by name."""
        return dict(self.items)[name]

    def replace(self, **changes: Any) -> ConvOptions:
        """The parameters with some exchanged."""
        return ConvOptions.of({**dict(self.items), **changes})

    @property
    def groups(self) -> int:
        """Groups of features."""
        return self["feature_group_count"]

    @property
    def kernel_axes(self) -> tuple[int, int, tuple[int, ...]]:
        """Axes of the kernel: output features, input features, spatial ones."""
        out, feature, *spatial = self["dimension_numbers"].rhs_spec
        return out, feature, tuple(spatial)

    def along(self, spatial: Collection[int]) -> ConvOptions:
        """The convolution with a window along some spatial axes alone, of size 1 along the others."""
        number = len(self["window_strides"])

        def kept(values: Sequence[Any] | None, neutral: Any) -> tuple[Any, ...]:
            given = (neutral,) * number if values is None else values
            return tuple(value if i in spatial else neutral for i, value in enumerate(given))

        return self.replace(
            window_strides=kept(self["window_strides"], 1),
            padding=kept(self["padding"], (0, 0)),
            lhs_dilation=kept(self["lhs_dilation"], 1),
            rhs_dilation=kept(self["rhs_dilation"], 1),
        )

    def sizes(self, x_shape: Sequence[Any], window: Sequence[int]) -> list[Any]:
        """Sizes of the result along the spatial axes."""
        given = [x_shape[axis] for axis in self["dimension_numbers"].lhs_spec[2:]]
        ones = (1,) * len(given)
        settings = (self["window_strides"], self["padding"], self["lhs_dilation"] or ones, self["rhs_dilation"] or ones)
        return [
            (max((size - 1) * dilated + 1, 0) + low + high - ((taps - 1) * spread + 1)) // stride + 1
            if isinstance(size, int)
            else size
            for size, taps, stride, (low, high), dilated, spread in zip(given, window, *settings, strict=True)
        ]

    def run(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution."""
        return lax.conv_general_dilated_p.bind(x, kernel, **dict(self.items))


def mix_features(
    x: jax.Array,
    matrix: jax.Array,
    *,
    axis: int,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Multiplies the features of every pixel by a matrix; of every group of features.

    Args:
        x: data.
        matrix: ``[features, results]``, the same for every group, or one for each: ``[groups, features, results]``.
        axis: of the features of ``x``, the groups one after the other.
        groups: how many there are.
        precision: as in `jax.lax.dot_general`.
        preferred_element_type: likewise.

    Example:
        >>> mix_features(jnp.ones((2, 5, 6)), jnp.ones((3, 4)), axis=2, groups=2).shape
        (2, 5, 8)
    """
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    if groups == 1:
        matrix = matrix[0] if matrix.ndim == 3 else matrix
        return jnp.moveaxis(lax.dot_general(x, matrix, (((axis,), (0,)), ((), ())), **options), -1, axis)
    split = x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
    if matrix.ndim == 2:
        out = jnp.moveaxis(lax.dot_general(split, matrix, (((axis + 1,), (0,)), ((), ())), **options), -1, axis + 1)
    else:
        out = lax.dot_general(split, matrix, (((axis + 1,), (1,)), ((axis,), (0,))), **options)
        out = jnp.moveaxis(jnp.moveaxis(out, -1, axis + 1), 0, axis)
    return out.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def for_groups(kernel: jax.Array, axis: int, groups: int) -> jax.Array:
    """A kernel that gives every group of input features the same results: its output features once for each group."""
    return kernel if groups == 1 else jnp.concatenate([kernel] * groups, axis)


def entries(sizes: Sequence[Any]) -> int:
    """The product of some sizes; those that are not known yet count as `UNKNOWN`."""
    return math.prod(size if isinstance(size, int) else UNKNOWN for size in sizes)
