"""The least rank that explains a part of the variance, as a principal component analysis counts it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.energy import least_rank
from jaxcompress.factorize.rank.rule import RankRule


@dataclasses.dataclass(frozen=True)
class ExplainedVariance(RankRule):
    """See `explained_variance`, which makes it."""

    fraction: float
    or_dense: bool = False

    version: ClassVar[int] = 1
    needs_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the fraction."""
        if isinstance(self.fraction, bool) or not 0 < self.fraction < 1:
            raise ValueError(f"explained_variance: fraction must be in (0, 1), got {self.fraction!r}")

    def rank_of_one(self, candidate: Candidate, spectrum: Spectrum, *, method: str) -> int:
        """The largest of what its layers need."""
        s, variance = spectrum.concrete(method), spectrum.concrete_variance(method)
        return int(least_rank(s, self.fraction, variance).max())

    @property
    def reason(self) -> str:
        """For errors."""
        return f"which {self.fraction:g} of the variance takes"


def explained_variance(fraction: float, *, or_dense: bool = False) -> ExplainedVariance:
    """The rule: the least rank whose coefficient of determination is at least this, in every layer of a stack.

    ``1 - |W - W_r|^2 / |W - mean row|^2 >= fraction``. It asks for more than `energy` where rows share a mean, which
    holds energy and says nothing. In a principal component analysis, whose data are centred, it is the part of the
    variance that the components explain.

    Args:
        fraction: in ``(0, 1)``.
        or_dense: leave a weight as it is where the rank saves nothing; by default that is an error.

    Raises:
        ValueError: if ``fraction`` is out of range.

    Example:
        >>> w = 10.0 + jnp.diag(jnp.array([3.0, 1.0, 0.1, 0.1, 0.0, 0.0]))
        >>> rules = jc.factorize.energy(0.85), explained_variance(0.85)
        >>> [jc.factorize.svd({"w": w}, rank=rule)["w"].rank for rule in rules]
        [1, 2]
    """
    return ExplainedVariance(fraction, or_dense)
