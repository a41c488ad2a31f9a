"""Candidates as vectors of unbounded floats, for strategies that know nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.scipy.stats import norm

from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

_CHOSEN = 2.0  # the logit of a value that is chosen, where the others have 0


def width_of(space: Space) -> int:
    """The length of a vector: a logit for each value of each discrete variable, a float for each continuous one."""
    return sum(space.cardinalities) + space.dimensions - len(space.cardinalities)


def genes_of(space: Space, vectors: jax.Array) -> Genes:
    """What vectors ``[n, width]`` stand for: the largest logit, and the normal distribution function of floats.

    A standard normal vector is a uniform sample.
    """
    cardinalities = np.array(space.cardinalities, np.int32)
    ends = np.cumsum(cardinalities)
    values = norm.cdf(vectors[:, ends[-1] if ends.size else 0 :])
    if not ends.size:
        return space.canonical(Genes(jnp.zeros((len(vectors), 0), jnp.int32), values))
    column = np.arange(cardinalities.max())[None]
    there = column < cardinalities[:, None]
    places = np.where(there, (ends - cardinalities)[:, None] + column, 0)
    logits = jnp.where(there[None], vectors[:, places], -jnp.inf)  # [n, discrete, most values]
    return space.canonical(Genes(logits.argmax(-1).astype(jnp.int32), values))


def vectors_of(space: Space, genes: Genes) -> jax.Array:
    """Vectors that stand for these genes ``[n]``."""
    chosen = [
        jax.nn.one_hot(genes.codes[:, i], several, dtype=jnp.float32) for i, several in enumerate(space.cardinalities)
    ]
    inside = jnp.clip(genes.values, 1e-6, 1 - 1e-6)
    return jnp.concatenate([*(_CHOSEN * logits for logits in chosen), ndtri(inside)], 1)
