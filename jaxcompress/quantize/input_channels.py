"""Scales per input channel, as AWQ and SmoothQuant choose them: how a weight and the data that meet it are read.

The channels of a weight are the entries of its contracted axes along which no window slides: the input features of a
convolution, all inputs of a dense kernel. Each layer of a stack has channels of its own; the groups of a grouped
convolution share theirs, since the kernel has one axis for all of them.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.moments import Matrices


def channel_count(layout: Matrices) -> int:
    """Number of input channels of a layer.

    Example:
        >>> from jaxcompress.core.parts import Roles
        >>> channel_count(Matrices((3, 3, 16, 32), Roles((), (0, 1, 2), (3,), spatial=(0, 1))))
        16
    """
    return math.prod(layout.shape[axis] for axis in layout.roles.contracting if axis not in layout.roles.spatial)


def layer_count(layout: Matrices) -> int:
    """Number of layers of a stack."""
    return layout.batch // layout.groups


def by_channel(layout: Matrices, features: jax.Array) -> jax.Array:
    """A value per feature as ``[layers, groups and window positions, channels]``, to be reduced along the middle.

    Args:
        layout: of the weight.
        features: ``[batch, features]``, or with further axes after these.
    """
    return features.reshape(layer_count(layout), -1, channel_count(layout), *features.shape[2:])


def of_features(layout: Matrices, channels: jax.Array) -> jax.Array:
    """The inverse for what the features of a channel share: ``[layers, channels] -> [layers, features]``.

    Example:
        >>> from jaxcompress.core.parts import Roles
        >>> of_features(Matrices((2, 2, 1), Roles((), (0, 1), (2,), spatial=(0,))), jnp.array([[5, 7]])).tolist()
        [[5, 7, 5, 7]]
    """
    return jnp.tile(channels, (1, layout.features // channel_count(layout)))


def factor_shape(layout: Matrices) -> tuple[int, ...]:
    """Shape of a factor per layer and input channel: stack axes and channels whole, the rest 1."""
    roles = layout.roles
    whole = {*roles.stack, *roles.contracting} - {*roles.spatial}
    return tuple(size if axis in whole else 1 for axis, size in enumerate(layout.shape))


def as_factor(layout: Matrices, channels: jax.Array) -> jax.Array:
    """Values per channel, ``[layers, channels]``, along the axes of the weight.

    Example:
        >>> from jaxcompress.core.parts import Roles
        >>> as_factor(Matrices((3, 2, 4), Roles((2,), (1,), (0,))), jnp.arange(8.0).reshape(4, 2)).shape
        (1, 2, 4)
    """
    return Matrices(factor_shape(layout), layout.roles).join(channels[..., None])


def of_factor(layout: Matrices, factor: jax.Array) -> jax.Array:
    """The inverse of `as_factor`."""
    return Matrices(factor_shape(layout), layout.roles).split(factor)[..., 0]


def weight_absmax(layout: Matrices, weight: jax.Array) -> jax.Array:
    """Largest absolute entry of a weight per layer and input channel, ``[layers, channels]``.

    Example:
        >>> from jaxcompress.core.parts import Roles
        >>> weight_absmax(Matrices((2, 2), Roles((), (0,), (1,))), jnp.array([[1.0, -3.0], [2.0, 0.0]])).tolist()
        [[3.0, 2.0]]
    """
    return jnp.max(jnp.abs(by_channel(layout, layout.split(weight))), axis=(1, 3))


def compute_dtype(weight: jax.Array) -> np.dtype:
    """The dtype to fit a weight in: float64 for float64, else float32."""
    return jnp.dtype(jnp.float64 if weight.dtype == jnp.float64 else jnp.float32)
