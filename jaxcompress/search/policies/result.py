"""What a policy search found: the settings, the network they make, and what was predicted of it against what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.core.shrink import Shrunk
from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.policies.costs import Costs
from jaxcompress.search.policies.goal import Goal
from jaxcompress.search.policies.sensitivity import PolicyScores
from jaxcompress.search.policies.setting import Setting
from jaxcompress.search.policies.sizes import stored_bits
from jaxcompress.search.policies.table import VariantTable

Numbers = Mapping[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement:
    """What is known of one policy.

    Attributes:
        row: the policy.
        predicted: metrics on the search data and costs, by the variant table.
        real: the same of the network that the real methods made; None where it was not made.
        report: its metrics on data that the search never saw; None without such data.
    """

    row: np.ndarray
    predicted: Numbers
    real: Numbers | None = None
    report: Numbers | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PolicyResult:
    """What `jaxcompress.search.policy` returns. Prints as a table; `jaxcompress.save` takes it as it is.

    Attributes:
        fn: the function of ``params``: shrunk where channels went. Call ``jc.lift(fn)(params, *inputs)``.
        params: the compressed tree.
        settings: what became of the weights, by path; those that stay as they are are left out.
        units: how many units stay, by index of the group; whole groups are left out.
        chosen: the policy: what was predicted of it, and what it is.
        uniform: the best policy with one setting for all, if one keeps the bounds: made and judged alike.
        dense: the network as it is.
        goal: what was minimised, under which bounds.
        table: the variants.
        scores: what the exact allocations added up.
        costs: of policies.
        rows: every policy that was evaluated, ``[n, decisions]``.
        metrics: theirs on the search data, by name, ``[n]``.
        small: the shrunk model; None where all channels stay.
        rounds: of iterated allocations.
        generations: of the evolution.
        notes: what could not be done as asked.
    """

    fn: Callable[..., Any]
    params: Any
    settings: Mapping[str, Setting]
    units: Mapping[int, int]
    chosen: Judgement
    uniform: Judgement | None
    dense: Judgement
    goal: Goal
    table: VariantTable
    scores: PolicyScores
    costs: Costs
    rows: np.ndarray
    metrics: Mapping[str, np.ndarray]
    small: Shrunk | None
    rounds: int
    generations: int
    notes: tuple[str, ...]

    @property
    def predicted(self) -> Numbers:
        """Metrics on the search data and costs of the chosen policy, by the variant table."""
        return self.chosen.predicted

    @property
    def real(self) -> Numbers:
        """The same of the network that the real methods made."""
        assert self.chosen.real is not None
        return self.chosen.real

    @property
    def report(self) -> Numbers | None:
        """Metrics of that network on data that the search never saw."""
        return self.chosen.report

    @property
    def keep(self) -> Mapping[tuple[str, int], np.ndarray]:
        """The kept indices, as `jaxcompress.save` stores them."""
        return {} if self.small is None else self.small.from_start[0]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The dense shapes that they are of."""
        return {} if self.small is None else self.small.from_start[1]

    def front(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The policies that no other one equals or beats in metric and cost: rows, and both numbers by name.

        Among those that were evaluated, by predicted numbers, whether they keep the bounds or not; the cheapest first.
        """
        names = (self.goal.cost, self.goal.metric)
        known = {**self.metrics, **self.costs.of(self.rows)}
        cost, metric = (np.asarray(known[name], np.float64) for name in names)
        order = np.lexsort((metric, cost))
        order = order[np.isfinite(metric[order])]
        best = np.concatenate([[np.inf], np.minimum.accumulate(metric[order])[:-1]])
        kept = order[metric[order] < best]
        return self.rows[kept], {name: np.asarray(known[name])[kept] for name in names}

    def __repr__(self) -> str:
        """Both tables as text."""
        return "\n\n".join(text_table(*table) for table in (self._settings(), self._comparison()))

    def _repr_html_(self) -> str:
        return "".join(html_table(*table) for table in (self._settings(), self._comparison()))

    def _settings(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = []
        for column, (decision, variant) in enumerate(zip(self.table.decisions, self.chosen.row.tolist(), strict=True)):
            share = ""
            if column < len(self.table.leaves):
                before, after = (stored_bits(self.table.variants[column][v]) for v in (0, variant))
                share = f"{after / max(1, before):.1%}"
            rows.append([decision.name, decision.label(variant), share, f"{self.scores.values[column][variant]:.3g}"])
        count = f"{len(self.rows):,} policies evaluated, {self.rounds} rounds, {self.generations} generations"
        notes = [str(self.goal), count, *self.notes]
        return ["what", "setting", "bits that remain", f"score ({self.scores.name})"], rows, notes

    def _comparison(self) -> tuple[list[str], list[list[str]], list[str]]:
        judged = {"as it is": self.dense, "best uniform": self.uniform, "policy": self.chosen}
        names = list(self.chosen.predicted)
        rows = []
        for name in names:
            row = [name.replace("_", " ")]
            for one in judged.values():
                row += [
                    _number(one and one.predicted, name),
                    _number(one and one.real, name),
                    _number(one and one.report, name),
                ]
            rows.append(row)
        heads = [f"{who}: {what}" for who in judged for what in ("predicted", "real", "held out")]
        return _without_empty(["", *heads], rows)


def _number(numbers: Numbers | None, name: str) -> str:
    if numbers is None or name not in numbers:
        return ""
    value = numbers[name]
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.4g}"


def _without_empty(heads: list[str], rows: Sequence[list[str]]) -> tuple[list[str], list[list[str]], list[str]]:
    kept = [i for i in range(len(heads)) if i == 0 or any(row[i] for row in rows)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows], []
