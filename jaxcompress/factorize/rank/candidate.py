"""What gets a rank: a weight read as matrices, what its factors cost, and the singular values that rank them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxcompress.solvers.lowrank import break_even_rank


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A weight that two factors of some rank may replace. Its rank is one for all its layers.

    Attributes:
        path: path of the leaf, which a dict of ranks is looked up by.
        name: path and fields, for errors.
        shape: ``(m, n)`` of one matrix.
        layers: matrices that the leaf holds (a stack).
        bits: bits of one entry of a factor.
        macs: multiply-accumulates of the dense weight in one call; None where not known.
    """

    path: str
    name: str
    shape: tuple[int, int]
    layers: int = 1
    bits: int = 32
    macs: int | None = None

    @property
    def largest(self) -> int:
        """The largest rank that saves something, 0 if none does."""
        m, n = self.shape
        return min(-(-m * n // (m + n)) - 1, m, n)


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """What a rule judges ranks by.

    Attributes:
        s: singular values in descending order, ``[layers, k]``: those of whatever the method truncates, so of the
            weight itself for `svd`, of the whitened weight for `whitened_svd`.
        variance: ``[layers]``: the sum of squares around the mean row, where that is less than the sum of all
            ``s ** 2``; None if the data were centred, or for a rule that does not ask for it.
    """

    s: jax.Array
    variance: jax.Array | None = None

    def concrete(self, method: str) -> np.ndarray:
        """The values in float64.

        Raises:
            TypeError: under ``jit``.
        """
        return _concrete(self.s, method)

    def concrete_variance(self, method: str) -> np.ndarray:
        """The variance in float64; the sum of all squares where none is given."""
        return (self.concrete(method) ** 2).sum(-1) if self.variance is None else _concrete(self.variance, method)


def check_saving(candidate: Candidate, rank: int, *, method: str, reason: str = "") -> None:
    """Refuses a rank that saves nothing.

    Raises:
        ValueError: if two factors of this rank take as many entries as the matrix; names the break-even.
    """
    m, n = candidate.shape
    if rank >= break_even_rank(m, n):
        raise ValueError(
            f"{method}: rank {rank}{reason} saves nothing in {candidate.name!r}: two factors of {m} x {n} break even "
            f"at rank {break_even_rank(m, n):.4g}. Ask for less, or leave the leaf out of where="
        )


def _concrete(array: Any, method: str) -> np.ndarray:
    if isinstance(array, Tracer):
        raise TypeError(
            f"{method}: a rule or a fraction as rank= decides shapes and needs concrete arrays: call {method} outside "
            "of jit"
        )
    return np.asarray(array, np.float64)
