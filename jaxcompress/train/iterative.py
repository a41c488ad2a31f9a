"""Iterative magnitude pruning and lottery-ticket rewinding as the stages of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxcompress.prune.iterative import geometric_sparsities
from jaxcompress.prune.magnitude import Magnitude, Scope
from jaxcompress.train.stages import Training


@dataclasses.dataclass(frozen=True)
class Rewind:
    """Recipe stage: the weights go back to those after an earlier stage, under the masks that they have now.

    `jaxcompress.compress` carries it out, which keeps the result of every stage; see `jaxcompress.prune.rewind`.

    Attributes:
        to: number of the stage whose result it goes back to; 0 is what the recipe was given.

    Raises:
        ValueError: if ``to`` is negative.

    Example:
        >>> Rewind()  # to the parameters that the recipe was given
        Rewind(to=0)

    References:
        Frankle et al., 2020. https://arxiv.org/abs/1912.05671
    """

    to: int = 0

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a stage that there cannot be."""
        if not isinstance(self.to, int) or self.to < 0:
            raise ValueError(f"to must be the number of an earlier stage, or 0, got {self.to!r}")


def iterative_stages(
    training: Training,
    *,
    sparsity: float,
    rounds: int,
    rewind_to: int | None = None,
    scope: Scope = "layer",
    where: str | Sequence[str] | None = None,
) -> list[Any]:
    """Stages that prune by magnitude and train, round after round; each drops the same fraction of what is left.

    Args:
        training: the stage after each pruning, `Finetune` say.
        sparsity: after the last round, in ``[0, 1)``.
        rounds: how many.
        rewind_to: number of the stage of the recipe to whose weights each round goes back before it trains (0: what
            the recipe was given); None goes on from the weights as they are.
        scope: as in `jaxcompress.prune.magnitude`.
        where: as in `jaxcompress.prune.magnitude`.

    Example:
        >>> from jaxcompress.train.stages import Finetune
        >>> train = Finetune(steps=100)  # a lottery ticket: train, then twice prune, go back to the start, train
        >>> recipe = jc.Recipe([train, *iterative_stages(train, sparsity=0.75, rounds=2, rewind_to=0)])
        >>> recipe.names[1:4], recipe.stages[1].sparsity
        (('prune.Magnitude', 'train.Rewind', 'train.Finetune'), 0.5)

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626
        Frankle and Carbin, 2019. https://arxiv.org/abs/1803.03635
    """
    back = [] if rewind_to is None else [Rewind(rewind_to)]
    return [
        stage
        for now in geometric_sparsities(sparsity, rounds=rounds)
        for stage in (Magnitude(now, scope=scope, where=where), *back, training)
    ]
