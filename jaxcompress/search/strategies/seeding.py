"""Candidates that a user wants to see tried first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def checked_seeds(space: Space, seeds: Genes) -> Genes:
    """Canonical seeds ``[n]``.

    Raises:
        ValueError: if they are no genes of this space.
    """
    codes, values = jnp.asarray(seeds.codes, jnp.int32), jnp.asarray(seeds.values, jnp.float32)
    discrete = len(space.cardinalities)
    continuous = space.dimensions - discrete
    if codes.shape[1:] != (discrete,) or values.shape[1:] != (continuous,) or len(codes) != len(values):
        raise ValueError(
            f"seeds must be genes of this space, codes [n, {discrete}] and values [n, {continuous}], got "
            f"{codes.shape} and {values.shape}: use space.encode([config, ...])"
        )
    return space.canonical(Genes(codes, values))
