"""Structured selection: which units of the groups of a network stay, under a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.paths import matches
from jaxcompress.core.tree import materialize
from jaxcompress.prune.ladder import Counts, Ladder, Scope
from jaxcompress.prune.latency import shrunk_latency_ms
from jaxcompress.prune.scores.group_scores import group_scores
from jaxcompress.prune.selection import Selection
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups
    from jaxcompress.core.sites import Sites


def channels(
    groups: Groups,
    variables: Any,
    /,
    *,
    scores: Any = "l2",
    flops: float | int | None = None,
    params: float | int | None = None,
    bytes: float | int | None = None,
    latency_ms: float | None = None,
    sparsity: float | None = None,
    scope: Scope = "global",
    round_to: int | Mapping[str, int] = 8,
    floors: int | float | Mapping[str, int | float] = 1,
    where: str | Sequence[str] | Callable[[Group], bool] | None = None,
    protect: str | Sequence[str] = (),
    sites: Sites | None = None,
) -> Selection:
    """Chooses the units that stay, so that the shrunk network keeps within a budget.

    Units are whatever `jaxcompress.groups` found: channels, hidden units of an MLP, heads, features of a residual
    stream or an embedding, units of an LSTM; ``where`` chooses. Exactly one of the five budgets is given, and it is met
    from below: ``cost <= budget``, where no group could keep one step of ``round_to`` more. Costs are exact integers of
    the shrunk network, but for the latency, which is measured.

    Args:
        groups: what `jaxcompress.groups` found.
        variables: the tree it was found for; leaves may be compressed.
        scores: of units, higher keeps: ``"l2"``, ``"l1"``, ``"lamp"``, ``"fpgm"``, ``"batchnorm_scale"``, an object
            such as `jaxcompress.prune.scores.Taylor`, or numbers; see `jaxcompress.prune.scores.group_scores`. Groups
            that have no such score stay whole.
        flops: of one call at the analysed inputs (2 for each multiply-accumulate). A float in ``(0, 1]`` is the
            fraction of the dense network's that *remains*: ``flops=0.5`` keeps half of them. An int, or a float above
            1, is a number of FLOPs.
        params: parameters of the whole tree, likewise: a fraction that remains, or a number.
        bytes: bytes of the whole tree as dense arrays, likewise.
        latency_ms: milliseconds of one call, as it is measured here and now (see `Selection.measured`): the median of a
            warm, compiled call on zeros. The largest network that is fast enough is searched by bisection, each
            candidate shrunk, compiled and timed.
        sparsity: fraction of the units of the chosen groups to *drop*, at least.
        scope: ``"global"`` compares units of all groups by their scores; ``"uniform"`` keeps about the same fraction
            of every group, the best of each.
        round_to: the indices that a group keeps along an axis come in multiples of this (rounded up, never above the
            size of the group), because odd widths are slow; or a dict from globs over members' paths to that. Units
            that own several indices (a head of 64) count with these. Groups of fewer units than that are not rounded.
            Heads that are an axis of their own want ``round_to=1``.
        floors: the least that each group keeps: an int is a number of units, a float a fraction of the group; or a dict
            from globs to either, of which the first that fits counts.
        where: groups to prune, those with a member whose path fits; or a predicate over groups; default all.
        protect: globs; groups with a member that fits stay whole.
        sites: what `jaxcompress.sites` found for the same call; traced anew if not given.

    Returns:
        The kept indices by ``(path, axis)``: a dict for `jaxcompress.shrink` that prints as a report of every group.

    Raises:
        ValueError: unless exactly one budget is given, in range; if it cannot be reached (says what can); if nothing is
            left to prune, ``scope`` is another word, or scores do not fit or are not finite.

    Example:
        >>> params = {"a": jnp.array([[3.0, 1.0, 4.0, 1.5]]), "b": jnp.ones((4, 1))}
        >>> found = jc.groups(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
        >>> keep = channels(found, params, flops=0.5, round_to=1)
        >>> {key: kept.tolist() for key, kept in keep.items()}
        {('a', 1): [0, 2], ('b', 0): [0, 2]}

    References:
        Fang et al., 2023 (groups). https://arxiv.org/abs/2301.12900; Li et al., 2017. https://arxiv.org/abs/1608.08710
    """
    name, budget = _budget(flops=flops, params=params, bytes=bytes, latency_ms=latency_ms, sparsity=sparsity)
    if scope not in ("global", "uniform"):
        raise ValueError(f"scope must be 'global' or 'uniform', got {scope!r}")
    chosen = _chosen(groups, where, protect)
    scored = group_scores(groups, variables, scores, where=lambda group: group.index in chosen, sites=sites)
    ladder = Ladder.build(
        [group for group in groups if group.index in scored], scored, scope=scope, round_to=round_to, floors=floors
    )
    if name == "latency_ms":
        return _within_latency(groups, materialize(variables), ladder, budget)
    cost, dense = _cost(name, groups, ladder)
    limit = _limit(name, budget, dense)
    counts = ladder.fit(cost, limit)
    if counts is None:
        least = cost(ladder.counts(0))
        raise ValueError(
            f"channels: {name}={budget!r} allows {limit:,}{_unit(name)}, the least that can be reached is {least:,} of "
            f"{dense:,} ({_as_setting(name, least, dense)}): lower floors= or round_to=, or prune more groups"
        )
    return Selection(groups, _only_cut(ladder, counts))


def _budget(**budgets: Any) -> tuple[str, Any]:
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"channels: give exactly one of {', '.join(f'{name}=' for name in budgets)}; got {given}")
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or not value == value:
        raise ValueError(f"channels: {name} must be a number, got {value!r}")
    if name == "sparsity":
        if not 0 <= value < 1:
            raise ValueError(f"channels: sparsity is the fraction of units dropped, in [0, 1), got {value}")
    elif value <= 0:
        raise ValueError(f"channels: {name} must be positive, got {value}")
    return name, value


def _chosen(groups: Groups, where: Any, protect: str | Sequence[str]) -> frozenset[int]:
    selected = groups.select(where)
    if protect:
        guarded = {g.index for g in selected if any(matches(member.path, protect) for member in g.members)}
        selected = tuple(group for group in selected if group.index not in guarded)
    if not selected:
        raise ValueError(f"channels: nothing is left to prune: where={where!r}, protect={protect!r}\n{groups!r}")
    return frozenset(group.index for group in selected)


def _cost(name: str, groups: Groups, ladder: Ladder) -> tuple[Callable[[Mapping[int, int]], int], int]:
    """What is counted, and its dense value."""
    if name == "sparsity":
        return lambda counts: sum(counts.values()), ladder.top
    cost = {"flops": groups.flops, "params": groups.parameters, "bytes": groups.bytes}[name]
    return cost, cost({})


def _limit(name: str, budget: Any, dense: int) -> int:
    if name == "sparsity":
        return int(kept_count(dense, budget))
    if isinstance(budget, float | np.floating) and budget <= 1:
        return math.floor(Fraction(repr(float(budget))) * dense)  # 0.7 of 10 is 7, whatever binary 0.7 is
    return math.floor(budget)


def _unit(name: str) -> str:
    return " units kept" if name == "sparsity" else ""


def _as_setting(name: str, least: int, dense: int) -> str:
    if name == "sparsity":
        return f"sparsity={math.floor(1e4 * (dense - least) / dense) / 1e4}"
    return f"{name}={math.ceil(1e4 * least / dense) / 1e4}"


def _only_cut(ladder: Ladder, counts: Counts) -> dict[int, np.ndarray]:
    sizes = {group.index: group.size for group in ladder.groups}
    return {index: units for index, units in ladder.units(counts).items() if len(units) < sizes[index]}


def _within_latency(groups: Groups, params: Any, ladder: Ladder, limit: float) -> Selection:
    """The highest rung whose measured time is within the limit; times are taken to grow with the rung."""
    measured: list[tuple[int, float]] = []

    def time_of(rung: int) -> float:
        units = _only_cut(ladder, ladder.counts(rung))
        flops = groups.flops({index: len(kept) for index, kept in units.items()})
        measured.append((flops, shrunk_latency_ms(groups, params, units)))
        return measured[-1][1]

    rungs = ladder.rungs()
    dense, best = time_of(ladder.top), time_of(0)
    if best > limit:
        raise ValueError(
            f"channels: latency_ms={limit} is below what the smallest network takes, {best:.3f} ms (dense: {dense:.3f} "
            "ms, measured here): lower floors= or round_to=, or prune more groups"
        )
    low, high = (len(rungs) - 1, len(rungs)) if dense <= limit else (0, len(rungs) - 1)
    if dense <= limit:
        best = dense
    while high - low > 1:
        middle = (low + high) // 2
        took = time_of(rungs[middle])
        low, high, best = (middle, high, took) if took <= limit else (low, middle, best)
    units = _only_cut(ladder, ladder.counts(rungs[low]))
    return Selection(groups, units, latency_ms=(dense, best), measured=tuple(measured))
