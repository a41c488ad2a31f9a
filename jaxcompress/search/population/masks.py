"""What masked layers share: which units of a padded layer a candidate has, and weights that do not see padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def units(width: Any, maximum: int) -> jax.Array:
    """Which of ``maximum`` units there are: the first ``width`` (may be traced). float32 ``[maximum]``, 1 or 0.

    Example:
        >>> units(2, 4).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    return (jnp.arange(maximum) < width).astype(jnp.float32)


def window(size: Any, maximum: int) -> jax.Array:
    """Which entries of a ``maximum`` x ``maximum`` window an odd ``size`` x ``size`` one has, centred. float32.

    Example:
        >>> window(1, 3).tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    inside = (jnp.abs(jnp.arange(maximum) - maximum // 2) <= (size - 1) // 2).astype(jnp.float32)
    return inside[:, None] * inside[None, :]


def drawn(key: jax.Array, mask: jax.Array, fan_in: Any, *, full: tuple[int, ...], gain: float) -> jax.Array:
    """Normal weights of standard deviation ``sqrt(gain / fan_in)`` where the mask is 1, zeros elsewhere.

    They are drawn at the ``full`` shape and cut to the mask's (from the front; windows of convolutions, the first two
    of four axes, around their centre). So a candidate's weights depend on its key alone, not on how much it is padded.

    Args:
        key: consumed.
        mask: float32; its shape is the padded one, at most ``full`` in every axis.
        fan_in: inputs of a unit that the candidate really has; may be traced.
        full: the shape to draw. Static.
        gain: 2 before a ReLU (He et al., 2015), 1 otherwise.
    """
    values = jax.random.normal(key, full, jnp.float32)
    for axis, size in enumerate(mask.shape):
        start = (full[axis] - size) // 2 if len(full) == 4 and axis < 2 else 0
        values = jax.lax.slice_in_dim(values, start, start + size, axis=axis)
    return values * jnp.sqrt(gain / jnp.asarray(fan_in, jnp.float32)) * mask


def checked_widths(layers: Mapping[str, Any], *, width: int, depth: int) -> tuple[list[int], int]:
    """The widths and the number of layers of a concrete candidate, as integers.

    Raises:
        ValueError: if a layer is wider, or there are more, than the network is padded to.

    Example:
        >>> checked_widths({"width": np.array([4, 8]), "count": np.array(1)}, width=8, depth=2)
        ([4, 8], 1)
    """
    widths = [int(w) for w in np.asarray(layers["width"])]
    count = int(np.asarray(layers.get("count", len(widths))))
    if not 1 <= count <= min(depth, len(widths)) or not all(1 <= w <= width for w in widths[:count]):
        raise ValueError(
            f"layers of widths {widths}, count {count}, do not fit a network of 1 to {depth} layers of 1 to {width} "
            "units: pass width= and depth= as large as the space allows"
        )
    return widths, count
