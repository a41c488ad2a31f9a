"""Tables of levels as scalings: the levels over a power of two, and zero among them where it must be."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling


def require_levels(format: Format, name: str) -> None:
    """Refuses formats that have levels of their own.

    Raises:
        ValueError: if the format is not ``levels``.
    """
    if format.name != "levels":
        raise ValueError(f"ranges={name!r} fits a table of levels: it goes with format='levels', not {format.name!r}")


def scaling_of(table: jax.Array, exponent: jax.Array) -> Scaling:
    """Levels ``[groups, levels]`` times ``2 ** exponent``, which becomes the scale: nothing is rounded."""
    return Scaling(jnp.ldexp(jnp.ones(exponent.shape, table.dtype), exponent), table=table)


def with_zero(table: jax.Array) -> jax.Array:
    """The table with the level nearest to zero made exactly zero; still ascending.

    Example:
        >>> with_zero(jnp.array([[-2.0, -0.5, 0.75, 3.0]])).tolist()
        [[-2.0, 0.0, 0.75, 3.0]]
    """
    nearest = jnp.argmin(jnp.abs(table), axis=-1)
    return jnp.where(jax.nn.one_hot(nearest, table.shape[-1], dtype=bool, axis=-1), 0, table)
