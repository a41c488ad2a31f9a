"""The highest sparsity whose validation error stays within a gap of the dense network's, by bisection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxcompress.core.paths import Where
from jaxcompress.core.table import html_table, text_table
from jaxcompress.prune.allocation.layers import Floors, Layer, Protect
from jaxcompress.prune.allocation.named import NAMED_RULES, NamedRule, counts_by
from jaxcompress.prune.allocation.table import Allocation, allocation
from jaxcompress.prune.policies import Better, Evaluate, Policies, chosen_metric, drop
from jaxcompress.prune.sensitivity import Sensitivity
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Rule: TypeAlias = "NamedRule | Sensitivity | Callable[[float], Mapping[str, Any]]"
Counts = Callable[[int], list[int]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One network that was evaluated on the way.

    Attributes:
        sparsity: fraction of all chosen entries that was gone.
        value: the metric.
        within: True if that is no worse than allowed.
    """

    sparsity: float
    value: float
    within: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AccuracyGap:
    """What `by_accuracy_gap` found; prints as a table of its evaluations.

    Attributes:
        params: the pruned tree.
        allocation: its sparsity by path.
        metric: name of what was bounded.
        dense: its value with nothing pruned.
        value: its value for `params`.
        max_drop: how much worse it was allowed to be.
        evaluations: all that was evaluated, in order; the dense network first.
    """

    params: Any
    allocation: Allocation
    metric: str
    dense: float
    value: float
    max_drop: float
    evaluations: tuple[Evaluation, ...]

    @property
    def sparsity(self) -> float:
        """Fraction of all chosen entries that is gone."""
        return float(self.allocation.sparsity)

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [[f"{e.sparsity:.2%}", f"{e.value:.5g}", "yes" if e.within else "no"] for e in self.evaluations]
        note = f"chosen: {self.sparsity:.2%} by {self.allocation.rule}, at most {self.max_drop:g} worse than dense"
        return ["sparsity", self.metric, "within"], rows, [note]


def by_accuracy_gap(
    fn: Callable[..., Any],
    params: Any,
    evaluate: Evaluate,
    *,
    max_drop: float = 0.005,
    rule: Rule = "uniform",
    tolerance: float = 0.001,
    metric: str | None = None,
    better: Better = "lower",
    scores: Any = "l1",
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> AccuracyGap:
    """Prunes as far as the validation error allows.

    Bisection over the total sparsity, which ``rule`` shares over the layers; every network on the way is evaluated by
    one compiled program. With a `Sensitivity` as the rule the knob is how much each layer alone may lose: all layers
    go to the highest level of the grid that they bear at one common loss, and that loss is raised until the network as
    a whole reaches the gap.

    What is promised: the tree returned was evaluated and is within the gap, and the next one that bisection looked at,
    sparser by at most ``tolerance`` (or the next step of the curves), was not. The error need not rise with the
    sparsity: beyond a worse network a sparser one may again be within, and is not looked for.

    Args:
        fn: the model, ``fn(params, *inputs)``, any function that ``jit`` accepts.
        params: tree of float arrays or leaves with one element per weight. Not changed.
        evaluate: as in `jaxcompress.prune.sensitivity`, on validation data that training has not seen. An error over n
            examples moves in steps of 1/n: ``max_drop=0.005`` on 1,000 examples is five of them.
        max_drop: how much worse than dense the metric may be, in its own unit: half a point of an error given as a
            fraction.
        rule: ``"uniform"``, ``"erk"``, ``"global"`` (one scale of ``scores``), ``"lamp"``; curves of
            `jaxcompress.prune.sensitivity` of the same layers; or a function from a total sparsity to a dict from paths
            to sparsities.
        tolerance: how finely the total sparsity is told apart.
        metric: which of the numbers that ``evaluate`` returns; None for the only one, or ``error``.
        better: whether ``"lower"`` or ``"higher"`` values are better.
        scores: which weights of a layer go first, as in `jaxcompress.prune.weight_scores`.
        floors: as in `jaxcompress.prune.allocation.uniform`.
        protect: as in `jaxcompress.prune.allocation.uniform`.
        where: as in `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found.

    Returns:
        The pruned tree with `Masked` leaves, its allocation, and the record of all evaluations.

    Raises:
        ValueError: if ``max_drop`` is negative, ``tolerance`` is not in ``(0, 1]``, the dense network's metric is not
            finite, ``rule`` is unknown or is about other layers, or as `jaxcompress.prune.sensitivity`.
        TypeError: if ``evaluate`` cannot be traced.

    Example:
        >>> params = {"w": jnp.diag(jnp.arange(1.0, 9.0))}
        >>> found = by_accuracy_gap(lambda p, x: x @ p["w"], params, lambda apply, p: 36 - apply(p, jnp.eye(8)).sum(),
        ...                         max_drop=3.0, tolerance=1 / 64)
        >>> found.sparsity, found.value, int(found.params["w"].mask.sum())
        (0.90625, 3.0, 6)
    """
    if not max_drop >= 0:
        raise ValueError(f"by_accuracy_gap: max_drop must be 0 or more, got {max_drop!r}")
    if not 0 < tolerance <= 1:
        raise ValueError(f"by_accuracy_gap: tolerance must lie in (0, 1], got {tolerance!r}")
    selection = {"floors": floors, "protect": protect, "where": where, "sites": sites}
    policies = Policies(fn, params, evaluate, scores=scores, method="by_accuracy_gap", **selection)
    layers, total = policies.layers, sum(layer.size for layer in policies.layers)
    counts, last, name = _family(rule, params, policies, tolerance, metric, better)
    record: list[Evaluation] = []

    def value_at(kept: Sequence[int]) -> Mapping[str, float]:
        return {name: float(values[0]) for name, values in policies.evaluate([kept]).items()}

    sizes = [layer.size for layer in layers]
    found = value_at(sizes)
    key = chosen_metric(found, metric, "by_accuracy_gap")
    dense = found[key]
    if not np.isfinite(dense):
        raise ValueError(f"by_accuracy_gap: {key} of the dense network is {dense}")
    record.append(Evaluation(0.0, dense, True))

    def fits(kept: Sequence[int]) -> bool:
        value = value_at(kept)[key]
        record.append(Evaluation(1 - sum(kept) / total, value, bool(drop(value, dense, better) <= max_drop)))
        return record[-1].within

    best, value = _bisect(counts, last, fits, record, (sizes, dense))
    chosen = allocation(layers, best, name)
    return AccuracyGap(policies.pruned(best), chosen, key, dense, value, max_drop, tuple(record))


def _bisect(
    counts: Counts,
    last: int,
    fits: Callable[[Sequence[int]], bool],
    record: Sequence[Evaluation],
    dense: tuple[list[int], float],
) -> tuple[list[int], float]:
    """The counts of the last member of the family that fits, as far as bisection tells, and their value."""
    best, low, high = dense, 0, last + 1
    while high - low > 1:
        middle = last if high == last + 1 and low == 0 else (low + high) // 2  # the sparsest first: it may be allowed
        kept = counts(middle)
        if fits(kept):
            low, best = middle, (kept, record[-1].value)
        else:
            high = middle
    return best


def _family(
    rule: Rule, params: Any, policies: Policies, tolerance: float, metric: str | None, better: Better
) -> tuple[Counts, int, str]:
    """Policies in the order of their sparsity, ``counts(0)`` the dense one, ``counts(last)`` the sparsest; a name."""
    layers = policies.layers
    if isinstance(rule, Sensitivity):
        if [layer.path for layer in layers if not layer.protected] != list(rule.paths):
            raise ValueError(
                f"by_accuracy_gap: the curves are about {list(rule.paths)}, the layers are "
                f"{[layer.path for layer in layers]}: use the same where=, sites= and protect= for both"
            )
        return _by_curves(rule, layers, metric, better)
    size, least = sum(layer.size for layer in layers), sum(layer.least for layer in layers)
    last = max(1, round(1 / tolerance))
    totals = [size - round((size - least) * step / last) for step in range(last + 1)]
    if callable(rule):
        return lambda step: _of_dict(rule(1 - totals[step] / size), layers), last, getattr(rule, "__name__", "rule")
    if rule not in NAMED_RULES:
        raise ValueError(f"by_accuracy_gap: rule must be one of {NAMED_RULES}, curves or a function, got {rule!r}")
    shared = counts_by(rule, params, layers, policies.scores)
    return lambda step: shared(totals[step]), last, str(rule)


def _by_curves(
    curves: Sensitivity, layers: Sequence[Layer], metric: str | None, better: Better
) -> tuple[Counts, int, str]:
    reach = curves.reach(metric, better=better)
    limits = [-np.inf, *np.unique(reach[np.isfinite(reach)])]

    def counts(step: int) -> list[int]:
        kept = dict(zip(curves.paths, curves.counts_at(reach, limits[step]), strict=True))
        return [max(layer.least, kept.get(layer.path, layer.size)) for layer in layers]

    return counts, len(limits) - 1, "curves"


def _of_dict(sparsities: Mapping[str, Any], layers: Sequence[Layer]) -> list[int]:
    unknown = sorted(set(sparsities) - {layer.path for layer in layers})
    if unknown:
        raise ValueError(
            f"by_accuracy_gap: rule= names {unknown[0]!r}; the layers are {[layer.path for layer in layers]}"
        )
    kept = [layer.step * int(kept_count(layer.size // layer.step, sparsities.get(layer.path, 0.0))) for layer in layers]
    return [max(layer.least, count) for layer, count in zip(layers, kept, strict=True)]
