"""The base of rank rules: frozen dataclasses that choose ranks from singular values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jaxcompress.factorize.rank.candidate import Candidate, Spectrum, check_saving


@dataclasses.dataclass(frozen=True)
class RankRule:
    """Chooses ranks. Write your own as a frozen dataclass with a ``version`` and either method below.

    A rule goes wherever a factorization takes ``rank=``, alone or as a value of a dict from globs.
    """

    version: ClassVar[int] = 1
    needs_variance: ClassVar[bool] = False

    def ranks(self, candidates: Sequence[Candidate], spectra: Sequence[Spectrum], *, method: str) -> list[int | None]:
        """The ranks of all weights that this rule is about; None leaves one as it is.

        By default each weight gets its own `rank_of_one`, which must save something.

        Raises:
            ValueError: if the rank of a weight saves nothing.
            TypeError: under ``jit``: ranks are shapes.
        """
        found: list[int | None] = []
        for candidate, spectrum in zip(candidates, spectra, strict=True):
            rank = self.rank_of_one(candidate, spectrum, method=method)
            if rank is not None:
                if self.keeps_dense and rank > candidate.largest:
                    rank = None
                else:
                    check_saving(candidate, rank, method=method, reason=f", {self.reason},")
            found.append(rank)
        return found

    def rank_of_one(self, candidate: Candidate, spectrum: Spectrum, *, method: str) -> int | None:
        """The rank of one weight."""
        raise NotImplementedError(f"{type(self).__name__} must define ranks or rank_of_one")

    @property
    def keeps_dense(self) -> bool:
        """Whether a weight in which the rank saves nothing stays as it is, rather than being an error."""
        return bool(getattr(self, "or_dense", False))

    @property
    def reason(self) -> str:
        """For errors: where the rank comes from."""
        return f"which {self} takes"
