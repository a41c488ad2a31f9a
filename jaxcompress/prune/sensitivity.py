"""How much each layer can lose: every layer pruned alone, at every level of a grid, in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.paths import Where
from jaxcompress.core.table import html_table, text_table
from jaxcompress.prune.allocation.layers import Floors, Layer, Protect
from jaxcompress.prune.allocation.table import Allocation, allocation
from jaxcompress.prune.policies import Better, Evaluate, Policies, chosen_metric, drop
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sensitivity:
    """The curves that `sensitivity` found; prints as a table.

    Attributes:
        layers: the layers scanned.
        sparsities: the grid, ascending, ``[levels]``.
        kept: entries that stay, ``[layers, levels]``.
        metrics: what ``evaluate`` returned with that layer alone pruned to that level, by name: ``[layers, levels]``.
        dense: what it returned with nothing pruned.
    """

    layers: tuple[Layer, ...]
    sparsities: np.ndarray
    kept: np.ndarray
    metrics: Mapping[str, np.ndarray]
    dense: Mapping[str, float]

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the layers, in the order of the first axis."""
        return tuple(layer.path for layer in self.layers)

    def drops(self, metric: str | None = None, *, better: Better = "lower") -> np.ndarray:
        """How much worse than dense, ``[layers, levels]``; negative where pruning helped.

        Args:
            metric: which one; None for the only one, or ``error``.
            better: whether ``"lower"`` or ``"higher"`` values are better.
        """
        name = chosen_metric(self.metrics, metric, "sensitivity")
        return drop(self.metrics[name], self.dense[name], better)

    def within(self, max_drop: float, metric: str | None = None, *, better: Better = "lower") -> Allocation:
        """For every layer the highest level up to which it alone costs no more than ``max_drop``.

        That level and all lower ones are within; a level above a worse one does not count. Nothing is said of layers
        pruned together, whose losses add up: see `jaxcompress.prune.by_accuracy_gap`.
        """
        reach = self.reach(metric, better=better)
        return allocation(self.layers, self.counts_at(reach, max_drop), f"alone within {max_drop:g} of dense")

    def reach(self, metric: str | None = None, *, better: Better = "lower") -> np.ndarray:
        """The worst drop up to each level, ``[layers, levels]``: never falls along the grid. NaN counts as infinite."""
        drops = np.nan_to_num(self.drops(metric, better=better), nan=np.inf, posinf=np.inf)
        return np.maximum.accumulate(drops, axis=1)

    def counts_at(self, reach: np.ndarray, limit: float) -> list[int]:
        """Entries that each layer keeps at the highest level whose `reach` is at most ``limit``."""
        levels = (reach <= limit).sum(1)
        return [
            layer.size if level == 0 else int(self.kept[i, level - 1])
            for i, (layer, level) in enumerate(zip(self.layers, levels, strict=True))
        ]

    def __repr__(self) -> str:
        """The table of the first metric as text."""
        return text_table(*self._table(next(iter(self.metrics))))

    def _repr_html_(self) -> str:
        return "".join(html_table(*self._table(name)) for name in self.metrics)

    def _table(self, name: str) -> tuple[list[str], list[list[str]], list[str]]:
        columns = ["path", "entries", *(f"{sparsity:.4g}" for sparsity in self.sparsities)]
        rows = [
            [layer.path, f"{layer.size:,}", *(f"{value:.4g}" for value in values)]
            for layer, values in zip(self.layers, self.metrics[name], strict=True)
        ]
        return columns, rows, [f"{name} with one layer at the sparsity of the column; dense: {self.dense[name]:.4g}"]


def sensitivity(
    fn: Callable[..., Any],
    params: Any,
    evaluate: Evaluate,
    *,
    sparsities: Sequence[float] = GRID,
    scores: Any = "l1",
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Sensitivity:
    """Evaluates the network with one layer at a time pruned to each sparsity of a grid.

    Layers and levels are runtime numbers of one program: it is compiled once, and an evaluation costs what the network
    costs. What to hand to ``evaluate``: a few hundred examples are enough to tell layers apart.

    Args:
        fn: the model, ``fn(params, *inputs)``, any function that ``jit`` accepts.
        params: tree of float arrays or leaves with one element per weight. Not changed.
        evaluate: ``evaluate(apply, params) -> error``, or a mapping of named numbers, as for `jaxcompress.compress`,
            but traced: it computes with ``jax.numpy`` and returns scalars as they are. ``apply`` is ``lift(fn)``;
            plain arrays come with zeros, compressed leaves under a mask. The program is cached under ``fn`` and
            ``evaluate``: hand over the same function objects and a second scan compiles nothing.
        sparsities: the grid, fractions to drop in ``[0, 1]``; sorted, doubles removed.
        scores: which weights of a layer go first, as in `jaxcompress.prune.weight_scores`.
        floors: what each layer keeps at least, as in `jaxcompress.prune.allocation.uniform`; cuts its curve short.
        protect: globs of leaves that are not scanned.
        where: which leaves, as in `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found.

    Returns:
        The curves, ``[layers, levels]`` for every metric.

    Raises:
        ValueError: if a sparsity is outside ``[0, 1]``, ``evaluate`` returns other than scalars, a glob fits nothing,
            or weights or scores are not finite.
        TypeError: if ``evaluate`` cannot be traced.

    Example:
        >>> params = {"a": jnp.eye(4), "b": jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0]))}
        >>> def evaluate(apply, params):
        ...     return jnp.square(apply(params, jnp.eye(4)) - params_out).mean()
        >>> params_out = params["a"] @ params["b"]
        >>> sensitivity(lambda p, x: x @ p["a"] @ p["b"], params, evaluate, sparsities=(0.75, 0.875))
        path  entries  0.75  0.875
        a     16       0     1.562
        b     16       0     0.3125
        error with one layer at the sparsity of the column; dense: 0

    References:
        Han et al., 2015, figure 6. https://arxiv.org/abs/1506.02626
    """
    grid = np.unique(np.asarray(sparsities, np.float64))
    if grid.ndim != 1 or not grid.size:
        raise ValueError(f"sensitivity: sparsities= must be some fractions, got {sparsities!r}")
    policies = Policies(
        fn,
        params,
        evaluate,
        scores=scores,
        floors=floors,
        protect=protect,
        where=where,
        sites=sites,
        method="sensitivity",
    )
    scanned = [i for i, layer in enumerate(policies.layers) if not layer.protected]
    if not scanned:
        raise ValueError(f"sensitivity: protect={protect!r} leaves no layer to scan")
    sizes = [layer.size for layer in policies.layers]
    rows = [sizes]
    for i in scanned:
        layer = policies.layers[i]
        for sparsity in grid:
            kept = layer.step * int(kept_count(layer.size // layer.step, sparsity))
            rows.append([max(kept, layer.least) if j == i else size for j, size in enumerate(sizes)])
    found = policies.evaluate(rows)
    shape = (len(scanned), len(grid))
    return Sensitivity(
        layers=tuple(policies.layers[i] for i in scanned),
        sparsities=grid,
        kept=np.array([row[i] for i, row in zip(np.repeat(scanned, len(grid)), rows[1:], strict=True)]).reshape(shape),
        metrics={name: values[1:].reshape(shape) for name, values in found.items()},
        dense={name: float(values[0]) for name, values in found.items()},
    )
