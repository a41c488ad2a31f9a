"""What each variant costs the network by itself: the scores that an allocation adds up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.policies.evaluation import Evaluation
from jaxcompress.search.policies.table import VariantTable

Batches: TypeAlias = Iterable[Any]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PolicyScores:
    """How much worse the network gets with one variant alone; lower is better, and they add. Prints as a table.

    Attributes:
        table: the variants.
        values: of every decision the scores of its variants; 0 for number 0, infinite where the evaluation failed.
        name: what was measured, for people.
    """

    table: VariantTable
    values: tuple[np.ndarray, ...]
    name: str

    def of(self, rows: Any) -> np.ndarray:
        """The sums of the scores of policies ``[n, decisions]``."""
        rows = np.asarray(rows)
        return sum((own[rows[:, column]] for column, own in enumerate(self.values)), np.zeros(len(rows)))

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [
            [decision.name if variant == decision.allowed[0] else "", decision.label(variant), f"{own[variant]:.4g}"]
            for decision, own in zip(self.table.decisions, self.values, strict=True)
            for variant in decision.allowed
        ]
        return ["what", "setting", "score"], rows, [self.name]


def alone_rows(table: VariantTable) -> np.ndarray:
    """The dense policy, then every variant of every decision by itself, ``[1 + variants, decisions]``."""
    rows = [table.dense_row]
    for column, count in enumerate(table.cardinalities):
        for variant in range(1, count):
            row = table.dense_row
            row[column] = variant
            rows.append(row)
    return np.array(rows, np.int32)


def sweep(evaluation: Evaluation, metric: str = "error") -> PolicyScores:
    """Evaluates every variant of every decision by itself, in one call of the compiled evaluation.

    Args:
        evaluation: of any metric: the true one, `kl` or `output_error`.
        metric: the one to score by, lower is better: its rise over that of the network as it is.

    Raises:
        ValueError: if there is no such metric, or the network as it is fails.

    Example:
        >>> from jaxcompress.search.policies import Setting, variant_table
        >>> params = {"w": jnp.array([[1.0], [0.4]])}
        >>> table = variant_table(lambda p, x: x @ p["w"], params, {"w": [Setting(bits=2), Setting(bits=4)]})
        >>> loss = lambda apply, p: jnp.square(apply(p, jnp.eye(2)) - params["w"]).sum()
        >>> sweep(Evaluation(table, loss)).values[0].round(3).tolist()
        [0.0, 0.16..., 0.001]
    """
    table = evaluation.table
    found = evaluation(alone_rows(table))
    if metric not in found:
        raise ValueError(f"policy: metric={metric!r} is none of what evaluate= returns: {sorted(found)}")
    rises = found[metric] - found[metric][0]
    if not np.isfinite(found[metric][0]):
        raise ValueError(f"policy: {metric!r} of the network as it is is {found[metric][0]}: check evaluate=, its data")
    rises = np.where(np.isfinite(rises), rises, np.inf)
    return PolicyScores(table, _by_decision(table, rises[1:]), f"rise of {metric}, each variant alone")


def second_order(table: VariantTable, curvature: Any) -> PolicyScores:
    """Scores every variant by the squared change of the weights times a curvature; nothing is evaluated.

    Args:
        table: the variants.
        curvature: of `jaxcompress.quantize.fisher`, `hessian_trace` or `second_moments`, or any object with
            ``score(path, difference)``, a ``name`` and ``in``.

    Raises:
        ValueError: if the curvature does not know a leaf, or a score is not finite. A group is scored as the sum of its
            members' dropped weights.

    Example:
        >>> from jaxcompress.search.policies import Setting, variant_table
        >>> params = {"w": jnp.array([[1.0], [0.4]])}
        >>> table = variant_table(lambda p, x: x @ p["w"], params, {"w": [Setting(bits=4)]})
        >>> curvature = jc.quantize.fisher(lambda p, x: jnp.mean(x @ p["w"]), params, [jnp.eye(2)])
        >>> second_order(table, curvature).name
        'Fisher information, per example x squared differences'
    """
    values = []
    for decision, variants in zip(table.leaves, table.variants, strict=True):
        _require_known(curvature, decision.path)
        whole = _dense(variants[0])
        scores = [float(curvature.score(decision.path, _difference(one, whole))) for one in variants[1:]]
        values.append(np.array([0.0, *scores]))
    values += [_dropped_units(table, place, curvature) for place in range(len(table.units))]
    for decision, own in zip(table.decisions, values, strict=True):
        if not np.isfinite(own).all():
            raise ValueError(f"policy: the scores of {decision.name!r} are not finite: {own.tolist()}")
    return PolicyScores(table, tuple(values), curvature.name)


def kl(
    fn: Callable[..., Any],
    params: Any,
    batches: Batches,
    *,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
) -> Callable[[Callable[..., Any], Any], jax.Array]:
    """An ``evaluate`` without labels: the mean KL divergence of the predictions from those of the network as it is.

    Args:
        fn: the model; its result are logits, classes along the last axis.
        params: the tree as it is now.
        batches: the data; kept, with the predictions.
        inputs: turns a batch into the arguments after ``params``, as in `jaxcompress.observe`.

    Raises:
        ValueError: if there are no batches.

    Example:
        >>> fn, params = (lambda p, x: x @ p["w"]), {"w": jnp.eye(2)}
        >>> float(kl(fn, params, [jnp.eye(2)])(fn, params))
        0.0
    """
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    given = [spread(batch) for batch in batches]
    if not given:
        raise ValueError("kl: batches= holds no batch")
    run = jax.jit(lift(fn))
    wanted = [jax.nn.log_softmax(run(params, *arguments).astype(jnp.float32)) for arguments in given]

    def evaluate(apply: Callable[..., Any], params: Any) -> jax.Array:
        total, count = jnp.zeros((), jnp.float32), 0
        for arguments, before in zip(given, wanted, strict=True):
            after = jax.nn.log_softmax(apply(params, *arguments).astype(jnp.float32))
            total = total + jnp.sum(jnp.exp(before) * (before - after))
            count += before.size // before.shape[-1]
        return total / count

    return evaluate


def _by_decision(table: VariantTable, values: np.ndarray) -> tuple[np.ndarray, ...]:
    ends = np.cumsum([count - 1 for count in table.cardinalities])
    return tuple(np.concatenate([[0.0], part]) for part in np.split(values, ends[:-1]))


def _require_known(curvature: Any, path: str) -> None:
    if path not in curvature:
        raise ValueError(f"policy: the curvature does not know {path!r}, which is decided: widen its where=")


def _dropped_units(table: VariantTable, place: int, curvature: Any) -> np.ndarray:
    """Of every number of units what the entries dropped from its members cost."""
    assert table.groups is not None
    unit = table.units[place]
    leaves = dict(zip(*flatten_with_paths(table.params)[:2], strict=True))
    scores = []
    for variant in range(len(unit.counts)):
        keep, total = table.groups.keep({unit.index: unit.units(variant)}), 0.0
        for (path, axis), kept in keep.items():
            if path in curvature:
                whole = _dense(leaves[path])
                gone = np.isin(np.arange(whole.shape[axis]), kept, invert=True)
                shape = [-1 if own == axis else 1 for own in range(whole.ndim)]
                total += float(curvature.score(path, jnp.where(gone.reshape(shape), whole, jnp.zeros_like(whole))))
        scores.append(total)
    return np.array(scores)


def _dense(leaf: Any) -> jax.Array:
    return dense(leaf) if is_compressed(leaf) else jnp.asarray(leaf)


def _difference(leaf: Any, whole: jax.Array) -> jax.Array:
    return _dense(leaf).astype(jnp.float32) - whole.astype(jnp.float32)
