"""One budget for all weights: ranks that leave out least of all singular values together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.rule import RankRule
from jaxcompress.solvers.choices import best_choices

Scale: TypeAlias = Literal["relative", "absolute"]

_PARTIAL = 2_000_000  # partial choices times options that the search may hold
_COSTS = ("parameters", "bytes", "flops")


@dataclasses.dataclass(frozen=True)
class Budget(RankRule):
    """See `budget`, which makes it."""

    parameters: float | None = None
    bytes: float | None = None
    flops: float | None = None
    scale: Scale = "relative"
    multiple_of: int = 1
    or_dense: bool = True

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        given = {name: getattr(self, name) for name in _COSTS if getattr(self, name) is not None}
        if len(given) != 1:
            raise ValueError(f"budget: give exactly one of parameters=, bytes=, flops=; got {given or 'none'}")
        ((name, value),) = given.items()
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not value > 0
            or (not isinstance(value, int) and value > 1)
        ):
            raise ValueError(
                f"budget: {name}= must be a positive int, or a float in (0, 1] as a fraction; got {value!r}"
            )
        if self.scale not in ("relative", "absolute"):
            raise ValueError(f"budget: scale must be 'relative' or 'absolute', got {self.scale!r}")
        if isinstance(self.multiple_of, bool) or not isinstance(self.multiple_of, int) or self.multiple_of < 1:
            raise ValueError(f"budget: multiple_of must be a positive int, got {self.multiple_of!r}")

    def ranks(self, candidates: Sequence[Candidate], spectra: Sequence[Spectrum], *, method: str) -> list[int | None]:
        """The choice of all ranks together that leaves out least within the budget; None stays dense.

        Raises:
            ValueError: if the budget does not hold the least ranks, or ``flops`` are asked for where they are unknown.
        """
        losses = [self._losses(one, spectrum, method) for one, spectrum in zip(candidates, spectra, strict=True)]
        return choose(candidates, losses, self, method=method)

    def _losses(self, candidate: Candidate, spectrum: Spectrum, method: str) -> np.ndarray:
        """What each rank leaves out, from 0 on: ``[min(m, n) + 1]``."""
        squares = (spectrum.concrete(method) ** 2).sum(axis=0)
        left = np.append(np.flip(np.cumsum(np.flip(squares))), 0.0)
        return left / left[0] if self.scale == "relative" and left[0] > 0 else left


def budget(
    *,
    parameters: float | None = None,
    bytes: float | None = None,
    flops: float | None = None,
    scale: Scale = "relative",
    multiple_of: int = 1,
    or_dense: bool = True,
) -> Budget:
    """The rule: one budget, shared over all chosen weights so that least is left out of their singular values.

    Exactly one cost is given, of the chosen weights together: an int is the number itself, a float in ``(0, 1]`` a
    fraction of what they cost dense. Every rank of every weight is an option, and staying dense is one; of all
    combinations within the budget the best is found, or one as close to it as the search can hold.

    What a rank leaves out of a weight is the sum of squares of its further singular values: of whatever the method
    truncates, so whitened ones in `whitened_svd`.

    Args:
        parameters: entries of the factors, or of the weight where it stays dense.
        bytes: the same in bytes of the weights' own dtypes.
        flops: 2 x MACs; needs ``sites=`` of the method. Weights that are only looked up cost none and stay dense.
        scale: ``"relative"``: of each weight the part of its own sum that is left out; ``"absolute"``: the squares as
            they are. The latter is right where all weights feed sums of one unit; between layers whose outputs differ
            in size it starves the small ones (on a trained Llama it lost to equal ranks, by far).
        multiple_of: ranks are multiples of this (8, say, for hardware).
        or_dense: whether weights may stay as they are; without it every weight gets a rank that saves something.

    Raises:
        ValueError: if not exactly one cost is given, or it is out of range.

    Example:
        >>> params = {"steep": jnp.diag(2.0 ** -jnp.arange(8)), "flat": jnp.eye(8)}
        >>> thin = jc.factorize.svd(params, rank=budget(parameters=0.75))
        >>> thin["steep"].rank, thin["flat"] is params["flat"]
        (2, True)

    References:
        Nemhauser and Ullmann, 1969 (the search). https://doi.org/10.1287/mnsc.15.9.494
    """
    return Budget(parameters, bytes, flops, scale, multiple_of, or_dense)


def choose(
    candidates: Sequence[Candidate],
    losses: Sequence[np.ndarray],
    rule: Budget,
    *,
    method: str,
    options: Sequence[Sequence[int]] | None = None,
) -> list[int | None]:
    """The best ranks within the budget of a rule, by any table of losses.

    Args:
        candidates: the weights.
        losses: for each what the ranks from 0 on lose, ``[min(m, n) + 1]``; dense loses nothing.
        rule: says the budget.
        method: name for errors.
        options: the ranks that each may get; by default all that save something.

    Raises:
        ValueError: if the budget does not hold the least ranks, or MACs are not known.
    """
    name, value = next((name, getattr(rule, name)) for name in _COSTS if getattr(rule, name) is not None)
    ranks: list[list[int | None]] = []
    for i, one in enumerate(candidates):
        own = range(rule.multiple_of, one.largest + 1, rule.multiple_of) if options is None else options[i]
        ranks.append([*own, *([None] if rule.or_dense or not len(own) else [])])
    costs = [[_cost(name, one, rank, method) for rank in own] for one, own in zip(candidates, ranks, strict=True)]
    values = [[0.0 if r is None else float(loss[r]) for r in own] for loss, own in zip(losses, ranks, strict=True)]
    dense = sum(_cost(name, one, None, method) for one in candidates)
    limit = math.floor(value * dense) if isinstance(value, float) else int(value)
    least = sum(min(own) for own in costs)
    if least > limit:
        raise ValueError(
            f"{method}: budget {name}={value} cannot be met: dense the chosen weights take {dense:,}, at their least "
            f"ranks {least:,}, and {limit:,} were allowed"
        )
    width = max(len(own) for own in ranks)
    padded = [np.array([np.pad(own, (0, width - len(own)), mode="edge") for own in rows]) for rows in (costs, values)]
    picks, _, _ = best_choices(padded[0], padded[1], limit, most_states=max(64, _PARTIAL // width))
    return [own[pick] for own, pick in zip(ranks, np.minimum(picks, [len(own) - 1 for own in ranks]), strict=True)]


def _cost(name: str, candidate: Candidate, rank: int | None, method: str) -> int:
    m, n = candidate.shape
    entries = candidate.layers * (m * n if rank is None else rank * (m + n))
    if name == "parameters":
        return entries
    if name == "bytes":
        return -(-entries * candidate.bits // 8)
    if candidate.macs is None:
        raise ValueError(f"{method}: budget flops= needs sites=jc.sites(fn, params, *inputs) for {candidate.name!r}")
    return 2 * candidate.macs if rank is None else -(-2 * candidate.macs * rank * (m + n) // (m * n))
