"""Settings made real: the methods of the rooms, applied to the leaves that ask for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxcompress.cluster.kmeans import kmeans
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.moments import Statistics, observed_paths
from jaxcompress.core.parts import find_parts
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.factorize.matrix import matrix_of
from jaxcompress.factorize.rank.spectra import candidate_of
from jaxcompress.factorize.svd import svd
from jaxcompress.factorize.whitened import whitened_svd
from jaxcompress.prune.magnitude import magnitude
from jaxcompress.prune.masked import Masked
from jaxcompress.prune.sparsegpt import sparsegpt
from jaxcompress.quantize.gptq import gptq
from jaxcompress.quantize.rtn import rtn
from jaxcompress.search.policies.setting import Setting

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Settings = Mapping[str, Setting]


def compressed(params: Any, settings: Settings, *, sites: Sites | None = None, stats: Statistics | None = None) -> Any:
    """The tree under a policy: weights factorized, then pruned, then rounded or clustered.

    Without statistics by what the weights alone tell (`svd`, `magnitude`, `rtn` with scales of the least squared error,
    `kmeans`), with them by what fits the outputs (`whitened_svd`, `sparsegpt`, `gptq`), where a weight was observed and
    is no factor. Masks stay zero through rounding and clustering.

    Args:
        params: tree of float arrays or leaves. Not changed.
        settings: by path; leaves not named stay as they are.
        sites: what `jaxcompress.sites` found: what the axes mean. Without it kernels of two axes are read as (in, out).
        stats: of `jaxcompress.observe` with ``second_moment``.

    Raises:
        ValueError: what the methods raise; names the path.

    Example:
        >>> params = {"a": jnp.array([[1.0, 0.0], [0.2, 3.0]]), "b": jnp.eye(2)}
        >>> small = compressed(params, {"a": Setting(bits=4, sparsity=0.5)})
        >>> small["a"].materialize().round(4).tolist(), small["b"] is params["b"]
        ([[1.0, 0.0], [0.0, 3.0]], True)
    """
    return rounded(pruned(params, settings, sites=sites, stats=stats), settings, sites=sites, stats=stats)


def pruned(params: Any, settings: Settings, *, sites: Sites | None, stats: Statistics | None) -> Any:
    """The part of `compressed` that leaves floats: weights factorized and pruned."""
    ranks = resolved_ranks(params, settings, sites)
    observed = _observed(params, stats)
    params = _in_turn(
        params,
        {path: rank for path, rank in ranks.items() if rank},
        lambda tree, values: svd(tree, rank=values, where=list(values), sites=sites),
        lambda tree, values: whitened_svd(tree, _known(stats), rank=values, where=list(values)),
        observed,
    )
    return _in_turn(
        params,
        {path: one.sparsity for path, one in settings.items() if one.sparsity},
        lambda tree, values: magnitude(tree, sparsity=values, where=list(values), sites=sites),
        lambda tree, values: sparsegpt(tree, _known(stats), sparsity=values, where=list(values)),
        _observed(params, stats),
    )


def rounded(params: Any, settings: Settings, *, sites: Sites | None, stats: Statistics | None) -> Any:
    """The part of `compressed` that ends in codes: weights rounded or clustered."""
    for (group_size, granularity), some in _alike(settings).items():
        options = {"group_size": group_size, "granularity": granularity or "channel"}
        params = _in_turn(
            params,
            {path: one.bits for path, one in some.items() if one.bits is not None},
            functools.partial(_rtn, sites=sites, options=options),
            functools.partial(_gptq, stats=stats, options=options),
            _observed(params, stats),
        )
        levels = {path: one.levels for path, one in some.items() if one.levels is not None}
        if levels:
            options = {"group_size": group_size, "granularity": granularity or "tensor"}
            params = kmeans(params, levels=levels, where=list(levels), sites=sites, **options)
    return params


def resolved_ranks(params: Any, settings: Settings, sites: Sites | None) -> dict[str, int]:
    """The rank of every leaf that is to be factorized; 0 where no rank saves anything, which then stays whole."""
    asked = {path: one.rank for path, one in settings.items() if one.rank is not None}
    if not asked:
        return {}
    found = {}
    for part in find_parts(params, where=list(asked), sites=sites, method="policy"):
        largest, rank = candidate_of(part, matrix_of(part, "policy"), sites).largest, asked[part.path]
        wanted = rank if isinstance(rank, int) else max(1, round(rank * largest))
        found[part.path] = min(wanted, largest)
    return found


def _rtn(tree: Any, values: Mapping[str, int], *, sites: Sites | None, options: Any) -> Any:
    return rtn(tree, bits=values, ranges="mse", where=list(values), sites=sites, **options)


def _gptq(tree: Any, values: Mapping[str, int], *, stats: Statistics | None, options: Any) -> Any:
    return gptq(tree, _known(stats), bits=values, where=list(values), **options)


def _in_turn(
    params: Any,
    values: Mapping[str, Any],
    by_weights: Callable[[Any, Mapping[str, Any]], Any],
    by_data: Callable[[Any, Mapping[str, Any]], Any],
    observed: frozenset[str],
) -> Any:
    """One method on the leaves that data can fit, another one on the rest."""
    fitted = {path: value for path, value in values.items() if path in observed}
    others = {path: value for path, value in values.items() if path not in observed}
    if fitted:
        params = by_data(params, fitted)
    return by_weights(params, others) if others else params


def _observed(params: Any, stats: Statistics | None) -> frozenset[str]:
    """Leaves whose values met the data that was observed: arrays, and arrays under a mask."""
    if stats is None:
        return frozenset()
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    return frozenset(path for path in observed_paths(stats, "second_moment") if _is_plain(leaves.get(path)))


def _is_plain(leaf: Any) -> bool:
    inside = leaf.values if isinstance(leaf, Masked) else leaf
    return inside is not None and not is_compressed(inside)


def _known(stats: Statistics | None) -> Statistics:
    assert stats is not None
    return stats


def _alike(settings: Settings) -> dict[tuple[Any, Any], dict[str, Setting]]:
    found: dict[tuple[Any, Any], dict[str, Setting]] = {}
    for path, one in settings.items():
        found.setdefault((one.group_size, one.granularity), {})[path] = one
    return found
