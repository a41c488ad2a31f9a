"""The least sparsity that meets a budget: of parameters, of arithmetic, of stored bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.prune.allocation.layers import Floors, Layer, Protect, find_layers
from jaxcompress.prune.allocation.named import NAMED_RULES, NamedRule, counts_by
from jaxcompress.prune.allocation.table import Allocation, allocation
from jaxcompress.prune.masked import Masked, kept_bits
from jaxcompress.prune.masks import layer_masks
from jaxcompress.prune.ranking import masked_leaf, ranked

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Counts = Callable[[int], list[int]]
_MEASURED = 1024  # steps in which a measured budget is met


def by_budget(
    params: Any,
    *,
    parameters: float | None = None,
    flops: float | None = None,
    bytes: float | None = None,
    latency_ms: float | None = None,
    rule: NamedRule = "uniform",
    scores: Any = "l1",
    measure: Callable[[Any], float] | None = None,
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """The least sparsity, shared by a rule, at which the pruned tree costs no more than a budget.

    Exactly one budget is given: an int is the number itself, a float in ``(0, 1]`` a fraction of what the tree costs
    unpruned. What counts:

    * ``parameters``: entries that stay of the chosen leaves, and all entries of all other leaves of the tree.
    * ``flops``: 2 x MACs of every site, those of chosen leaves times the fraction that stays. This is arithmetic that
      a kernel for sparse operands would do. Dense hardware does all of it: masks save no time.
    * ``bytes``: what `jaxcompress.stored_bytes` says of the pruned tree: for a chosen leaf one bit per entry and the
      kept values at full width, every leaf in whole bytes, other leaves as they are. Entropy coding makes files
      smaller: with ``measure`` the bytes are those that it returns for a pruned tree.

    The number of entries that stay is found by bisection, to the entry: the result meets the budget, and with one entry
    more it does not (with ``measure``: with a thousandth of all entries more).

    Args:
        params: tree of float arrays or leaves with one element per weight. Not changed.
        parameters: see above.
        flops: see above; needs ``sites``.
        bytes: see above.
        latency_ms: refused: an unstructured mask changes no latency.
        rule: ``"uniform"``, ``"erk"``, ``"global"`` (one scale of ``scores``) or ``"lamp"``.
        scores: what ``rule="global"`` compares, and by what the tree is pruned that ``measure`` is given; as in
            `jaxcompress.prune.weight_scores`.
        measure: ``measure(pruned tree) -> bytes``, ``lambda tree: jc.save("measured.jxc", tree)`` say; called a dozen
            times.
        floors: as in `jaxcompress.prune.allocation.uniform`.
        protect: as in `jaxcompress.prune.allocation.uniform`.
        where: as in `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found.

    Returns:
        Sparsity by path, ``sparsity=`` of every pruning method; prints as a table.

    Raises:
        ValueError: if not exactly one budget is given, it is out of range or cannot be met, ``latency_ms`` is given,
            ``sites`` are missing, or as `jaxcompress.prune.allocation.uniform`.

    Example:
        >>> params = {"w": jnp.arange(1.0, 65.0).reshape(8, 8), "b": jnp.ones(8)}
        >>> found = by_budget(params, bytes=100)
        >>> found.kept, jc.stored_bytes(jc.prune.magnitude(params, sparsity=found))
        ({'w': 15}, 100)
    """
    if latency_ms is not None:
        raise ValueError(
            "by_budget: an unstructured mask makes nothing faster, so latency_ms= cannot be met by one: dense hardware "
            "computes every entry. Use prune.channels(groups, params, latency_ms=...) and jaxcompress.shrink"
        )
    asked = {"parameters": parameters, "flops": flops, "bytes": bytes}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"by_budget: give exactly one of parameters=, flops=, bytes=; got {given or 'none'}")
    ((name, value),) = given.items()
    if measure is not None and name != "bytes":
        raise ValueError(f"by_budget: measure= measures bytes, it does not go with {name}=")
    if rule not in NAMED_RULES:
        raise ValueError(f"by_budget: rule must be one of {NAMED_RULES}, got {rule!r}")
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="by_budget")
    cost = _cost(name, params, layers, sites) if measure is None else _measured(params, layers, scores, measure)
    counts = counts_by(rule, params, layers, scores)
    budget = _absolute(name, value, lambda: cost([layer.size for layer in layers]))
    found = _most(layers, counts, lambda kept: cost(kept) <= budget, _MEASURED if measure else None)
    if found is None:
        least = cost(counts(sum(layer.least for layer in layers)))
        raise ValueError(
            f"by_budget: {name}={value} cannot be met: with nothing left but what floors= and protect= keep, and all "
            f"leaves outside where=, there are {least:,.0f}"
        )
    unit = f"{name} {'measured ' if measure else ''}{cost(found):,.0f} of at most {budget:,.0f}"
    return allocation(layers, found, f"{rule}, {unit}")


def _absolute(name: str, value: float, dense: Callable[[], float]) -> float:
    fraction = not isinstance(value, int | np.integer)
    if isinstance(value, bool) or not value > 0 or (fraction and value > 1):
        raise ValueError(
            f"by_budget: {name}= must be a positive int, or a float in (0, 1] as a fraction of the dense cost; "
            f"got {value!r}"
        )
    return value * dense() if fraction else value


def _most(
    layers: Sequence[Layer], counts: Counts, fits: Callable[[list[int]], bool], steps: int | None
) -> list[int] | None:
    """The counts of the largest total that fits, as far as bisection tells; None if the smallest does not."""
    low, high = sum(layer.least for layer in layers), sum(layer.size for layer in layers)
    best = counts(low)
    if not fits(best):
        return None
    if fits(whole := counts(high)):
        return whole
    apart = 1 if steps is None else max(1, high // steps)
    while high - low > apart:
        middle = (low + high) // 2
        if fits(now := counts(middle)):
            low, best = middle, now
        else:
            high = middle
    return best


def _cost(name: str, params: Any, layers: Sequence[Layer], sites: Sites | None) -> Callable[[Sequence[int]], float]:
    """What a tree costs of which each layer keeps so many entries."""
    chosen = {layer.path for layer in layers}
    others = [leaf for path, leaf in zip(*flatten_with_paths(params)[:2], strict=True) if path not in chosen]
    if name == "parameters":
        rest = sum(math.prod(jnp.shape(leaf)) for leaf in others)
        return lambda kept: rest + sum(kept)
    if name == "flops":
        if sites is None:
            raise ValueError("by_budget: flops= needs sites=jc.sites(fn, params, *inputs)")
        rest = sum(2 * site.macs for site in sites if site.path not in chosen)
        each = [2 * (layer.macs or 0) / layer.size for layer in layers]
        return lambda kept: rest + sum(n * c for n, c in zip(each, kept, strict=True))
    rest = sum(-(-_bits(leaf) // 8) for leaf in others)
    return lambda kept: (
        rest + sum(-(-(layer.size + kept_bits(_values(layer), n)) // 8) for layer, n in zip(layers, kept, strict=True))
    )


def _bits(leaf: Any) -> int:
    return leaf.stored_bits if is_compressed(leaf) else math.prod(jnp.shape(leaf)) * bit_width(jnp.result_type(leaf))


def _values(layer: Layer) -> Any:
    leaf = layer.part.array
    return leaf.values if isinstance(leaf, Masked) else leaf


def _measured(
    params: Any, layers: Sequence[Layer], scores: Any, measure: Callable[[Any], float]
) -> Callable[[Sequence[int]], float]:
    parts = [layer.part for layer in layers]
    ranks, known = ranked(params, parts, scores), dict[tuple[int, ...], float]()
    stacks = tuple(part.stack for part in parts)

    def cost(kept: Sequence[int]) -> float:
        if tuple(kept) not in known:
            per_layer = [jnp.int32(n // layer.step) for n, layer in zip(kept, layers, strict=True)]
            masks = _masks(ranks, per_layer, stacks=stacks)
            leaves = [masked_leaf(part.array, mask) for part, mask in zip(parts, masks, strict=True)]
            known[tuple(kept)] = measure(with_parts(params, parts, leaves))
        return known[tuple(kept)]

    return cost


_masks = jax.jit(layer_masks, static_argnames="stacks")
