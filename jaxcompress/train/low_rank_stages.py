"""The training stages of a recipe that lower ranks: data only. `jaxcompress.compress` carries them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optax

from jaxcompress.train.gradual_rank import gradual_rank
from jaxcompress.train.nuclear_norm import nuclear_norm
from jaxcompress.train.ranks import factorized
from jaxcompress.train.stages import Training

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradualRank(Training):
    """Trains while the ranks of weights fall along a cubic curve; the tree then holds low-rank leaves.

    Attributes:
        rank: final rank, or a dict from globs over paths to ranks.
        begin: fraction of the steps after which truncation begins.
        end: fraction of the steps after which the final rank holds.
        every: steps between two truncations.
        power: exponent of the curve.
        rank_where: globs over paths of the weights; None takes the default of `jaxcompress.factorize.svd`.

    Example:
        >>> GradualRank(steps=1000, rank=16).end
        0.5

    References:
        Xu et al., 2020. https://arxiv.org/abs/2004.14566
    """

    rank: int | Mapping[str, int]
    begin: float = 0.0
    end: float = 0.5
    every: int = 20
    power: float = 3.0
    rank_where: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that cannot be carried out."""
        super().__post_init__()
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"begin and end must satisfy 0 <= begin <= end <= 1, got {self.begin!r} and {self.end!r}")
        _check_every(self.every)

    def around(self, tx: optax.GradientTransformation, sites: Sites | None) -> optax.GradientTransformation:
        """Truncates while ``tx`` trains."""
        last = self.steps - 1
        return gradual_rank(
            tx,
            rank=self.rank,
            begin_step=min(round(self.begin * self.steps), last),
            end_step=min(round(self.end * self.steps), last),
            every=self.every,
            power=self.power,
            where=self.rank_where,
            sites=sites,
        )

    def finished(self, params: Any, opt_state: Any, sites: Sites | None) -> Any:
        """Weights of low rank become two factors."""
        return factorized(params, opt_state, sites=sites)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NuclearNorm(Training):
    """Trains with a trace-norm penalty; weights whose rank then saves something are low-rank leaves.

    Attributes:
        strength: of the penalty, 0 or more.
        every: steps between two proximal steps; it divides ``steps``, so that training ends on one.
        rank_where: globs over paths of the weights; None takes the default of `jaxcompress.factorize.svd`.

    Example:
        >>> NuclearNorm(steps=1000, strength=1e-3).every
        10

    References:
        Alvarez and Salzmann, 2017. https://arxiv.org/abs/1711.02638
    """

    strength: float
    every: int = 10
    rank_where: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that cannot be carried out."""
        super().__post_init__()
        if not self.strength >= 0:
            raise ValueError(f"strength must be 0 or more, got {self.strength!r}")
        _check_every(self.every)
        if self.steps % self.every:
            raise ValueError(
                f"every must divide steps, so that the last step is proximal; got {self.every} of {self.steps}"
            )

    def around(self, tx: optax.GradientTransformation, sites: Sites | None) -> optax.GradientTransformation:
        """Takes proximal steps while ``tx`` trains."""
        return nuclear_norm(
            tx,
            strength=self.strength,
            learning_rate=self.rate(),
            every=self.every,
            where=self.rank_where,
            sites=sites,
        )

    def finished(self, params: Any, opt_state: Any, sites: Sites | None) -> Any:
        """Weights of low rank become two factors."""
        return factorized(params, opt_state, sites=sites)


def _check_every(every: Any) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be an integer of 1 or more, got {every!r}")
