"""The ranks of one budget, as a dict to look at before anything is factorized."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where
from jaxcompress.factorize.rank.budget import Scale, budget
from jaxcompress.factorize.rank.planned import Ranks, planned_ranks
from jaxcompress.factorize.svd import svd
from jaxcompress.factorize.whitened import whitened_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def budget_ranks(
    params: Any,
    *,
    parameters: float | None = None,
    bytes: float | None = None,
    flops: float | None = None,
    stats: Statistics | None = None,
    scale: Scale = "relative",
    multiple_of: int = 1,
    or_dense: bool = True,
    where: Where = None,
    sites: Sites | None = None,
) -> Ranks:
    """One budget over the pooled singular values of all chosen weights: of the weights, or whitened by data.

    Args:
        params: tree of float arrays or leaves. Not changed.
        parameters: as in `jaxcompress.factorize.budget`.
        bytes: likewise.
        flops: likewise; needs ``sites``.
        stats: of `jaxcompress.observe`, with ``second_moment``: the singular values are then those of
            `jaxcompress.factorize.whitened_svd`, whose squares are errors of outputs.
        scale: as in `jaxcompress.factorize.budget`.
        multiple_of: likewise.
        or_dense: likewise.
        where: which leaves, as for the method.
        sites: what `jaxcompress.sites` found.

    Returns:
        Rank by path; prints as a table. What stays dense is left out.

    Raises:
        ValueError: as `jaxcompress.factorize.budget` and the method.

    Example:
        >>> params = {"steep": jnp.diag(2.0 ** -jnp.arange(8)), "flat": jnp.eye(8)}
        >>> dict(budget_ranks(params, parameters=0.75))
        {'steep': 2}
    """
    rule = budget(
        parameters=parameters, bytes=bytes, flops=flops, scale=scale, multiple_of=multiple_of, or_dense=or_dense
    )
    plain = functools.partial(svd, where=where, sites=sites)
    method = plain if stats is None else lambda params, *, rank: whitened_svd(params, stats, rank=rank, where=where)
    return planned_ranks(rule, method, params, sites=sites)
