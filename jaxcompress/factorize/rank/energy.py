"""The least rank that holds a part of the sum of squared singular values."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.rule import RankRule


@dataclasses.dataclass(frozen=True)
class Energy(RankRule):
    """See `energy`, which makes it."""

    fraction: float
    or_dense: bool = False

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Checks the fraction."""
        if isinstance(self.fraction, bool) or not 0 < self.fraction < 1:
            raise ValueError(f"energy: fraction must be in (0, 1), got {self.fraction!r}")

    def rank_of_one(self, candidate: Candidate, spectrum: Spectrum, *, method: str) -> int:
        """The largest of what its layers need."""
        s = spectrum.concrete(method)
        return int(least_rank(s, self.fraction, (s * s).sum(-1)).max())

    @property
    def reason(self) -> str:
        """For errors."""
        return f"which {self.fraction:g} of the energy takes"


def energy(fraction: float, *, or_dense: bool = False) -> Energy:
    """The rule: the least rank that holds this part of the sum of squared singular values, in every layer of a stack.

    A float as ``rank=`` means the same. The relative error of the matrix is at most ``sqrt(1 - fraction)``; of whitened
    singular values the energy is that of the outputs on the data.

    Args:
        fraction: in ``(0, 1)``.
        or_dense: leave a weight as it is where the rank saves nothing; by default that is an error.

    Raises:
        ValueError: if ``fraction`` is out of range.

    Example:
        >>> w = jnp.diag(jnp.array([3.0, 1.0, 0.1, 0.1]))
        >>> jc.factorize.svd({"w": w}, rank=energy(0.85))["w"].rank
        1
    """
    return Energy(fraction, or_dense)


def least_rank(s: np.ndarray, fraction: float, total: np.ndarray) -> np.ndarray:
    """The least rank at which what is left out is at most ``(1 - fraction) * total``; at least 1.

    Args:
        s: ``[..., k]``, descending, float64.
        fraction: in ``(0, 1)``.
        total: ``[...]``.

    Example:
        >>> int(least_rank(np.array([3.0, 1.0, 1.0]), 0.9, np.array(11.0)))
        2
    """
    missing = np.flip(np.cumsum(np.flip(s * s, -1), axis=-1), -1)  # what the rank-i truncation leaves out
    return np.maximum((missing > (1 - fraction) * total[..., None]).sum(-1), 1)
