"""How much the error of each weight counts: what a caller gives by path, checked."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.parts import Part


def importance_of(part: Part, weights: Mapping[str, jax.Array], method: str) -> jax.Array:
    """What is given for a part, checked; of a masked leaf for its values.

    Raises:
        ValueError: if nothing of its shape is given, or it is negative or not finite (seen only outside ``jit``).
    """
    given = weights.get(part.path)
    if given is None or tuple(given.shape) != part.array.shape:
        found = "nothing" if given is None else f"an array of the shape {tuple(given.shape)}"
        raise ValueError(
            f"{method}: weights= has {found} for {part.name!r} (shape {part.array.shape}): give the importance of each "
            "of its weights, or leave the leaf out with where="
        )
    array = jnp.asarray(given)
    array = array if array.dtype == jnp.float64 else array.astype(jnp.float32)
    bad = ~jnp.all(jnp.isfinite(array) & (array >= jnp.zeros((), array.dtype)))
    if not isinstance(bad, Tracer) and bad:
        raise ValueError(f"{method}: weights= of {part.path!r} are negative, NaN or infinite somewhere")
    return array
