"""The protocol of strategies: pure functions from state to state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Candidates(NamedTuple):
    """What a strategy wants to know about.

    Attributes:
        genes: the candidates, ``[batch]``.
        fidelity: float32 ``[batch]`` in ``(0, 1]``: the part of the full effort (steps, data) to spend on each.
    """

    genes: Genes
    fidelity: jax.Array


class Fitness(NamedTuple):
    """What became of the candidates.

    Attributes:
        objectives: float32 ``[batch, objectives]``, minimised. Infinite where the evaluation failed (gave NaN).
        violation: float32 ``[batch]``: by how much constraints are broken in all, 0 where they hold.
    """

    objectives: jax.Array
    violation: jax.Array


@runtime_checkable
class Strategy(Protocol):
    """A search strategy: a frozen, hashable dataclass of settings, with three pure functions that `jit` accepts.

    The state is a pytree of arrays whose shapes never change, and it carries its own key: so a search is a `lax.scan`,
    it can be vmapped over keys, and what is written to disk is all there is.

    Attributes:
        batch: how many candidates `ask` returns, every time.
        multi_fidelity: whether `ask` returns fidelities below 1.
    """

    @property
    def batch(self) -> int:
        """How many candidates `ask` returns."""
        ...

    @property
    def multi_fidelity(self) -> bool:
        """Whether `ask` returns fidelities below 1."""
        ...

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> Any:
        """The state before the first question; the first candidates that are asked for are ``seeds`` ``[n]``."""
        ...

    def ask(self, space: Space, state: Any) -> tuple[Candidates, Any]:
        """The next candidates, and the state that waits for their fitness."""
        ...

    def tell(self, space: Space, state: Any, candidates: Candidates, fitness: Fitness) -> Any:
        """The state that knows their fitness."""
        ...
