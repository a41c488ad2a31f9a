"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax

from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import Judged
from jaxcompress.search.strategies.proposing import Proposing, ProposingState

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSearch(Proposing):
    """Samples of the space, none of them twice.

    Args:
        batch: how many candidates are asked for at a time.
        memory: see `Proposing`.
        attempts: see `Proposing`.

    Example:
        >>> import jax
        >>> from jaxcompress.search.space import Choice, Space
        >>> space, strategy = Space({"width": Choice((8, 16, 32, 64))}), RandomSearch(batch=4)
        >>> candidates, _ = strategy.ask(space, strategy.init(space, jax.random.key(0)))
        >>> sorted(candidates.genes.codes[:, 0].tolist())
        [0, 1, 2, 3]

    References:
        Bergstra and Bengio, 2012. https://jmlr.org/papers/v13/bergstra12a.html
    """

    def _beginning(self) -> int:
        return self.batch

    def _ignorance(self, space: Space, objectives: int) -> tuple[()]:
        return ()

    def _propose(self, space: Space, knowledge: tuple[()], key: jax.Array, tried: Genes, far: jax.Array) -> Genes:
        return space.sample(key, self.batch)

    def _learn(self, space: Space, state: ProposingState, genes: Genes, fitness: Judged, key: jax.Array) -> tuple[()]:
        return ()
