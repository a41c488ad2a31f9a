"""Hyperband: successive halving in several brackets, from many candidates and little effort to few and all of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools

from jaxcompress.search.checks import at_most, whole
from jaxcompress.search.strategies.halving import Halving
from jaxcompress.search.strategies.rungs import Bracket


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperband(Halving):
    """All brackets ``s = s_max .. 0`` of the paper, ``s_max = floor(log_eta R)``, in every round.

    Bracket ``s`` begins with ``n = ceil((s_max + 1) / (s + 1) * eta^s)`` candidates of effort ``r = R / eta^s``; its
    rung ``i`` holds ``floor(n / eta^i)`` of them with effort ``r * eta^i``. So it need not be known how far little
    effort can be trusted: the last bracket trusts none and gives everybody everything. The brackets do not look at each
    other, so they are asked for side by side.

    Args:
        resource: ``R``: the full effort, in units of the least effort that a candidate can be given.
        eta: one of so many climbs.
        batch: see `Halving`.
        memory: see `Halving`.
        attempts: see `Halving`.
        record: see `Halving`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> for bracket in Hyperband(resource=81).brackets:
        ...     print(bracket.sizes)
        (81, 27, 9, 3, 1)
        (34, 11, 3, 1)
        (15, 5, 1)
        (8, 2)
        (5,)

    References:
        Li et al., 2017: Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, algorithm 1.
        https://arxiv.org/abs/1603.06560
    """

    resource: int = 27
    eta: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, least=2, eta=self.eta, resource=self.resource)
        at_most(self, "eta", self.eta, "resource", self.resource)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """The brackets of the paper, from ``s_max`` to 0."""
        return _brackets(self.resource, self.eta)

    @property
    def fidelities(self) -> tuple[float, ...]:
        """``eta^-s_max .. 1``."""
        return tuple(float(self.eta**-s) for s in range(_most(self.resource, self.eta), -1, -1))


def _most(resource: int, eta: int) -> int:
    """``floor(log_eta R)``, counted with integers: logarithms of floats give 4.999 for 243."""
    return next(s for s in itertools.count() if eta ** (s + 1) > resource)


@functools.lru_cache(maxsize=64)
def _brackets(resource: int, eta: int) -> tuple[Bracket, ...]:
    most = _most(resource, eta)
    brackets = []
    for s in range(most, -1, -1):
        n = -(-(most + 1) * eta**s // (s + 1))  # the ceiling
        brackets.append(Bracket(tuple(n // eta**i for i in range(s + 1)), tuple(range(most - s, most + 1))))
    return tuple(brackets)
