"""Ranks chosen before anything is factorized: a dict of them, which prints as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jaxcompress.core.table import html_table, text_table
from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.rule import RankRule

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class Ranks(dict[str, int]):
    """Rank by path, as ``rank=`` of every factorization takes it; prints as a table.

    Attributes:
        candidates: what it is about; those that stay dense are among them and not in the dict.
        rule: what chose it, for people.
    """

    def __init__(
        self,
        ranks: Mapping[str, int] | Iterable[tuple[str, int]] = (),
        *,
        candidates: Sequence[Candidate] = (),
        rule: str = "",
    ) -> None:
        """Holds ranks, and what the table shows besides."""
        super().__init__(ranks)
        self.candidates, self.rule = tuple(candidates), rule

    @property
    def entries(self) -> int:
        """Entries of the factors, and of the weights that stay dense."""
        return sum(_entries(one, self.get(one.path)) for one in self.candidates)

    def __repr__(self) -> str:
        """The table as text; the plain dict where it is about nothing."""
        return text_table(*self._table()) if self.candidates else super().__repr__()

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [self._row(one) for one in self.candidates]
        before = sum(_entries(one, None) for one in self.candidates)
        rows.append(["all", "", "", "", f"{before:,}", f"{self.entries:,}"])
        return ["path", "matrix", "break-even", "rank", "entries", "left"], rows, [f"rule: {self.rule}"]

    def _row(self, one: Candidate) -> list[str]:
        m, n = one.shape
        rank, layers = self.get(one.path), f"{one.layers} x " if one.layers > 1 else ""
        counts = [f"{_entries(one, r):,}" for r in (None, rank)]
        return [one.path, f"{layers}{m}x{n}", f"{m * n / (m + n):.4g}", str(rank or "dense"), *counts]


@dataclasses.dataclass(frozen=True, eq=False)
class Planning(RankRule):
    """Asks another rule, keeps its answer, and has nothing factorized.

    Attributes:
        rule: the other.
        sites: where a method has no ``sites=``, the MACs that a budget of FLOPs needs.
        found: candidates and their ranks.
    """

    rule: RankRule
    sites: Sites | None = None
    found: list[tuple[Candidate, int | None]] = dataclasses.field(default_factory=list)

    version: ClassVar[int] = 1

    @property
    def needs_variance(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the other's."""
        return self.rule.needs_variance

    def ranks(self, candidates: Sequence[Candidate], spectra: Sequence[Spectrum], *, method: str) -> list[int | None]:
        """Keeps what the other rule says; everything stays dense."""
        known = [self._with_macs(one) for one in candidates]
        self.found.extend(zip(known, self.rule.ranks(known, spectra, method=method), strict=True))
        return [None] * len(candidates)

    def _with_macs(self, one: Candidate) -> Candidate:
        if one.macs is not None or self.sites is None:
            return one
        return dataclasses.replace(one, macs=sum(site.macs for site in self.sites if site.path == one.path))


def planned_ranks(rule: RankRule, method: Callable[..., Any], params: Any, *, sites: Sites | None = None) -> Ranks:
    """The ranks that a rule would give the weights of a tree, by the singular values that a method truncates.

    Args:
        rule: any rule.
        method: ``method(params, rank=rule) -> params``, such as ``functools.partial(jc.factorize.svd, sites=sites)``.
        params: the tree.
        sites: the MACs for a budget of FLOPs, if the method takes no sites.

    Returns:
        Ranks by path, to look at, to change and to hand over; weights that stay dense are left out.

    Raises:
        ValueError: as the rule; or if a leaf holds two matrices that get different ranks.

    Example:
        >>> params = {"a": jnp.diag(0.1 ** jnp.arange(8.0)), "b": jnp.eye(8)}
        >>> planned_ranks(jc.factorize.energy(0.9, or_dense=True), jc.factorize.svd, params)
        path  matrix  break-even  rank   entries  left
        a     8x8     4           1      64       16
        b     8x8     4           dense  64       64
        all                              128      80
        rule: Energy(fraction=0.9, or_dense=True)
    """
    planning = Planning(rule, sites)
    method(params, rank=planning)
    ranks: dict[str, int | None] = {}
    for one, rank in planning.found:
        if ranks.setdefault(one.path, rank) != rank:
            raise ValueError(f"{one.path!r} holds matrices that get different ranks, {ranks[one.path]} and {rank}")
    kept = {path: rank for path, rank in ranks.items() if rank is not None}
    return Ranks(kept, candidates=[one for one, _ in planning.found], rule=str(rule))


def _entries(one: Candidate, rank: int | None) -> int:
    m, n = one.shape
    return one.layers * (m * n if rank is None else rank * (m + n))
