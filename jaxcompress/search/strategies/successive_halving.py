"""Successive halving: the worse half is dropped, the better half gets twice the effort."""

from __future__ import annotations

import dataclasses
import functools
import itertools

from jaxcompress.search.checks import whole
from jaxcompress.search.strategies.halving import Halving
from jaxcompress.search.strategies.rungs import Bracket


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuccessiveHalving(Halving):
    """Every rung costs the same: as many candidates fewer as each gets more.

    With ``n`` candidates there are ``K = ceil(log_eta n)`` rungs; rung ``k`` holds ``|S_k| = floor(|S_(k-1)| / eta)``
    candidates, each of which gets additional effort in proportion to ``1 / |S_k|``. So the cumulative effort ``R_k``
    grows to the full one (fidelity 1) on the last rung. The best of the last rung is the winner.

    Args:
        candidates: on the first rung, ``n``.
        eta: one of so many climbs; the paper's is 2.
        batch: see `Halving`.
        memory: see `Halving`.
        attempts: see `Halving`.
        record: see `Halving`.

    Raises:
        ValueError: for a setting that is out of range.

    Example:
        >>> strategy = SuccessiveHalving(candidates=8)
        >>> strategy.brackets[0].sizes, [round(fidelity, 3) for fidelity in strategy.fidelities]
        ((8, 4, 2), [0.143, 0.429, 1.0])

    References:
        Jamieson and Talwalkar, 2016: Non-stochastic Best Arm Identification and Hyperparameter Optimization, figure 3.
        https://arxiv.org/abs/1502.07943
        There the budget is given and efforts are rounded down to whole pulls; here they are parts of the full effort.
    """

    candidates: int = 32
    eta: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, least=2, candidates=self.candidates, eta=self.eta)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """One bracket."""
        sizes = _sizes(self.candidates, self.eta)
        return (Bracket(sizes, tuple(range(len(sizes)))),)

    @property
    def fidelities(self) -> tuple[float, ...]:
        """The cumulative effort on each rung."""
        efforts = list(itertools.accumulate(1.0 / size for size in _sizes(self.candidates, self.eta)))
        return tuple(effort / efforts[-1] for effort in efforts)


@functools.lru_cache(maxsize=64)
def _sizes(candidates: int, eta: int) -> tuple[int, ...]:
    """``ceil(log_eta n)`` rungs, counted with integers: the least K with ``eta^K >= n``."""
    rungs = next(k for k in itertools.count(1) if eta**k >= candidates)
    sizes = [candidates]
    for _ in range(rungs - 1):
        sizes.append(max(1, sizes[-1] // eta))
    return tuple(sizes)
