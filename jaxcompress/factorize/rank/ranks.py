"""What ``rank=`` may be, and which ranks it means: one place for every factorization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from jaxcompress.core.parts import setting_at
from jaxcompress.factorize.rank.candidate import Candidate, Spectrum, check_saving
from jaxcompress.factorize.rank.energy import Energy
from jaxcompress.factorize.rank.rule import RankRule

OneRank: TypeAlias = int | float | RankRule
Rank: TypeAlias = OneRank | Mapping[str, OneRank]


def ranks_of(
    rank: Rank,
    candidates: Sequence[Candidate],
    spectra: Callable[[Sequence[int], bool], Sequence[Spectrum]],
    *,
    method: str,
) -> list[int | None]:
    """The rank of every weight; None where a rule leaves it as it is.

    Args:
        rank: an integer, a fraction in ``(0, 1)`` (as `energy`), a rule, or a dict from globs over paths to any of
            them, of which the first that fits counts.
        candidates: the weights; with a dict only those that one of its globs fits.
        spectra: ``spectra(indices, variance) -> their spectra``, called only for weights whose rank follows from
            singular values; ``variance`` says whether `Spectrum.variance` is asked for too.
        method: name for errors.

    Raises:
        ValueError: if a rank is out of range or saves nothing (the break-even is named).
        TypeError: if a rule needs arrays that are traced.

    Example:
        >>> candidates = [Candidate("a", "a", (8, 8)), Candidate("b", "b", (8, 8))]
        >>> spectra = lambda indices, variance: [Spectrum(jnp.array([[2.0, 1.0, 0.1]])) for _ in indices]
        >>> ranks_of({"a": 3, "b": 0.9}, candidates, spectra, method="svd")
        [3, 2]
    """
    settings = [checked(setting_at(rank, one.path), one.name, method) for one in candidates]
    found: list[int | None] = [None] * len(candidates)
    rules: dict[RankRule, list[int]] = {}
    for i, (candidate, setting) in enumerate(zip(candidates, settings, strict=True)):
        if isinstance(setting, RankRule):
            rules.setdefault(setting, []).append(i)
        else:
            check_saving(candidate, setting, method=method)
            found[i] = setting
    for rule, members in rules.items():
        of_rule = spectra(members, rule.needs_variance)
        ranks = rule.ranks([candidates[i] for i in members], of_rule, method=method)
        for i, own in zip(members, ranks, strict=True):
            found[i] = own
    return found


def checked(rank: Any, name: str, method: str) -> int | RankRule:
    """The setting of one weight, a fraction as the rule it means.

    Raises:
        ValueError: if it is neither a positive integer, a fraction in ``(0, 1)``, nor a rule.
    """
    if isinstance(rank, RankRule):
        return rank
    if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1:
        return rank
    if isinstance(rank, float) and 0 < rank < 1:
        return Energy(rank)
    raise ValueError(
        f"{method}: rank must be a positive integer or a fraction in (0, 1), got {rank!r} for {name!r}; or a rule such "
        "as jc.factorize.evbmf()"
    )
