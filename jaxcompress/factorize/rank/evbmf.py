"""The rank that variational Bayes finds: how many singular values stand out of the noise."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.rule import RankRule
from jaxcompress.solvers.evbmf import evbmf_rank


@dataclasses.dataclass(frozen=True)
class EVBMF(RankRule):
    """See `evbmf`, which makes it."""

    or_dense: bool = False

    version: ClassVar[int] = 1

    def rank_of_one(self, candidate: Candidate, spectrum: Spectrum, *, method: str) -> int:
        """The largest of what its layers need; at least 1."""
        spectrum.concrete(method)
        return max(1, int(np.max(_ranks(spectrum.s, candidate.shape))))

    @property
    def reason(self) -> str:
        """For errors."""
        return "which EVBMF finds"


def evbmf(*, or_dense: bool = False) -> EVBMF:
    """The rule without a knob: the rank that empirical variational Bayes gives the matrix.

    The weight is taken for a matrix of low rank plus noise of equal, unknown variance; what of it stands out of the
    noise is kept. In a stack the largest such rank counts. Weights without noise keep their rank.

    Args:
        or_dense: leave a weight as it is where the rank saves nothing; by default that is an error.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> w = jax.random.normal(keys[0], (60, 3)) @ jax.random.normal(keys[1], (3, 40))
        >>> noisy = w + 0.3 * jax.random.normal(keys[2], w.shape)
        >>> jc.factorize.svd({"w": noisy}, rank=evbmf())["w"].rank
        3

    References:
        Nakajima et al., 2013, theorem 2 and corollary 3. https://jmlr.org/papers/v14/nakajima13a.html;
        Kim et al., 2016, section 3.2 (as a rule for networks). https://arxiv.org/abs/1511.06530
    """
    return EVBMF(or_dense)


_ranks = jax.jit(evbmf_rank, static_argnames="shape")
