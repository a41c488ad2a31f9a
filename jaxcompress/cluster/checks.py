"""What callers of several methods give, checked; and tables in the dtype that they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.parts import Part


def check_integer(name: str, given: Any, method: str, *, least: int = 0, below: int | None = None) -> None:
    """Raises ValueError if an argument is no integer in its range; a traced one passes."""
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not isinstance(given, jax.Array) and not (whole and least <= given and (below is None or given < below)):
        most = "" if below is None else f" to {below - 1}"
        raise ValueError(f"{method}: {name} must be an integer from {least}{most}, got {given!r}")


def require_entries(parts: Sequence[Part], method: str) -> None:
    """Raises ValueError if a part holds nothing; names it."""
    for part in parts:
        if not part.array.size:
            raise ValueError(f"{method}: {part.name!r} is empty (shape {part.array.shape}): leave it out with where=")


def stored_dtype(codebook_dtype: Any, part: Part, method: str) -> np.dtype:
    """What the table of a part is stored in: what is asked for, or the dtype of the part.

    Raises:
        TypeError: if it is not float.
    """
    dtype = jnp.dtype(part.array.dtype if codebook_dtype is None else codebook_dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{method}: codebook_dtype must be a float dtype, got {codebook_dtype!r}")
    return dtype


def as_stored(table: jax.Array, dtype: Any) -> jax.Array:
    """A table in another float dtype; what exceeds its range becomes its largest number instead of infinity.

    Example:
        >>> as_stored(jnp.array([-1e6, 2.0]), jnp.float16).tolist()
        [-65504.0, 2.0]
    """
    most = float(jnp.finfo(dtype).max)
    narrower = most < float(jnp.finfo(table.dtype).max)
    return (jnp.clip(table, -most, most) if narrower else table).astype(dtype)
