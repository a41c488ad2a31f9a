"""Singular values of the weights of a tree, one program for all of one shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxcompress.core.dtypes import wider
from jaxcompress.core.fields import bit_width
from jaxcompress.core.parts import Part
from jaxcompress.factorize.matrix import Matrix
from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.solvers.lowrank import truncated_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def candidate_of(part: Part, matrix: Matrix, sites: Sites | None = None) -> Candidate:
    """A part of a tree as something that gets a rank."""
    layers = 1
    for size in matrix.stack:
        layers *= size
    macs = None
    if sites is not None:
        macs = sum(site.macs for site in sites if site.path == part.path) if not part.fields else None
    return Candidate(part.path, part.name, matrix.shape, layers, bit_width(part.array.dtype), macs)


def weight_spectra(
    parts: Sequence[Part], matrices: Sequence[Matrix], indices: Sequence[int], variance: bool = False
) -> list[Spectrum]:
    """The singular values of some of the parts."""
    groups: dict[Any, list[int]] = {}
    for i in indices:
        groups.setdefault((parts[i].array.dtype, matrices[i]), []).append(i)
    found: dict[int, Spectrum] = {}
    for (_, matrix), members in groups.items():
        arrays: list[Any] = [parts[i].array for i in members]
        s, around = _spectra(arrays, matrix=matrix)
        found.update((i, Spectrum(s[at], around[at] if variance else None)) for at, i in enumerate(members))
    return [found[i] for i in indices]


def as_matrices(arrays: Sequence[jax.Array], matrix: Matrix) -> jax.Array:
    """Arrays of one shape as a batch of matrices, ``[arrays, stack..., m, n]``."""
    return jnp.stack(arrays).reshape(len(arrays), *matrix.stack, *matrix.shape)


@functools.partial(jax.jit, static_argnames="matrix")
def _spectra(arrays: Sequence[jax.Array], *, matrix: Matrix) -> tuple[jax.Array, jax.Array]:
    w = as_matrices(arrays, matrix).reshape(len(arrays), -1, *matrix.shape)
    w = w.astype(wider(w.dtype, jnp.float32))
    s = truncated_svd(w, rank=min(matrix.shape)).s
    sample = -2 if matrix.inputs_are_rows else -1  # a sample is what one input gives to all outputs
    return s, jnp.sum(jnp.square(w - jnp.mean(w, axis=sample, keepdims=True)), axis=(-2, -1))
