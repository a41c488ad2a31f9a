"""Dtypes to compute in."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def wider(*dtypes: Any) -> np.dtype:
    """The float dtype of most bytes; float32 for several of the same size that differ.

    `jax.numpy.promote_types` gives the same, but refuses mixed pairs where ``jax_numpy_dtype_promotion`` is strict.

    Example:
        >>> wider(jnp.bfloat16, jnp.float32), wider(jnp.float16, jnp.bfloat16)
        (dtype('float32'), dtype('float32'))
    """
    found = {jnp.dtype(dtype) for dtype in dtypes}
    size = max(dtype.itemsize for dtype in found)
    widest = [dtype for dtype in found if dtype.itemsize == size]
    return widest[0] if len(widest) == 1 else jnp.dtype(jnp.float32)
