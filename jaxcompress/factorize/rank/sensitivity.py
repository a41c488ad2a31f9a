"""How much rank each weight needs: every one factorized alone, at every rank of a grid, in one compiled program."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import dense
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at
from jaxcompress.core.table import html_table, text_table
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.rank.budget import budget, choose
from jaxcompress.factorize.rank.candidate import Candidate, Spectrum
from jaxcompress.factorize.rank.planned import Planning, Ranks
from jaxcompress.factorize.rank.rule import RankRule
from jaxcompress.factorize.svd import svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Better: TypeAlias = Literal["lower", "higher"]
GRID = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)  # of the largest rank that saves something

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RankSensitivity:
    """The curves that `rank_sensitivity` found; prints as a table.

    Attributes:
        candidates: the weights scanned.
        ranks: the ranks of each, ascending, ``[weights, levels]``.
        values: what ``evaluate`` returned with that weight alone at that rank, ``[weights, levels]``.
        dense: what it returned with nothing factorized.
        better: whether ``"lower"`` or ``"higher"`` values are better.
    """

    candidates: tuple[Candidate, ...]
    ranks: np.ndarray
    values: np.ndarray
    dense: float
    better: Better = "lower"

    @property
    def drops(self) -> np.ndarray:
        """How much worse than dense, ``[weights, levels]``; NaN counts as infinite."""
        sign = 1 if self.better == "lower" else -1
        return np.nan_to_num(sign * (self.values - self.dense), nan=np.inf, posinf=np.inf)

    def within(self, max_drop: float) -> Ranks:
        """For every weight the least rank from which on it alone costs no more; those that need more stay dense.

        Nothing is said of weights factorized together, whose losses add up.
        """
        worst = np.maximum.accumulate(self.drops[:, ::-1], axis=1)[:, ::-1]  # at this rank or a larger one
        found = {}
        for one, ranks, drops in zip(self.candidates, self.ranks, worst, strict=True):
            fits = ranks[drops <= max_drop]
            if fits.size:
                found[one.path] = int(fits[0])
        return Ranks(found, candidates=self.candidates, rule=f"each alone within {max_drop:g} of dense")

    def within_budget(
        self,
        *,
        parameters: float | None = None,
        bytes: float | None = None,
        flops: float | None = None,
        or_dense: bool = True,
    ) -> Ranks:
        """The ranks of the grid that lose least within a budget, if losses add up.

        Args:
            parameters: as in `jaxcompress.factorize.budget`.
            bytes: likewise.
            flops: likewise.
            or_dense: whether weights may stay dense.
        """
        rule = budget(parameters=parameters, bytes=bytes, flops=flops, or_dense=or_dense)
        losses = []
        for one, ranks, drops in zip(self.candidates, self.ranks, self.drops, strict=True):
            table = np.zeros(min(one.shape) + 1)
            table[ranks] = np.maximum(np.minimum(drops, 1e30), 0)
            losses.append(table)
        options = [sorted(set(row.tolist())) for row in self.ranks]
        found = choose(self.candidates, losses, rule, method="within_budget", options=options)
        chosen = {one.path: rank for one, rank in zip(self.candidates, found, strict=True) if rank is not None}
        return Ranks(chosen, candidates=self.candidates, rule=f"least sum of losses, {rule}")

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        columns = ["path", "matrix", *(f"level {i + 1}" for i in range(self.ranks.shape[1]))]
        rows = [
            [one.path, "x".join(map(str, one.shape)), *(f"{v:.4g} at {r}" for r, v in zip(*row, strict=True))]
            for one, *row in zip(self.candidates, self.ranks, self.values, strict=True)
        ]
        return columns, rows, [f"with one weight alone at a rank; dense: {self.dense:.4g}"]


def rank_sensitivity(
    fn: Callable[..., Any],
    params: Any,
    evaluate: Callable[[Callable[..., Any], Any], Any],
    *,
    ranks: Sequence[int | float] = GRID,
    method: Callable[..., Any] | None = None,
    better: Better = "lower",
    traced: bool = True,
    where: Where = None,
    sites: Sites | None = None,
) -> RankSensitivity:
    """Evaluates the network with one weight at a time at each rank of a grid.

    Every weight is factorized once, at its largest rank that saves something; smaller ranks are masks over its columns.
    Weights and ranks are runtime numbers of one program, which is compiled once.

    Args:
        fn: the model, ``fn(params, *inputs)``, any function that ``jit`` accepts.
        params: tree of float arrays or leaves. Not changed.
        evaluate: ``evaluate(apply, params) -> scalar``; ``apply`` is ``lift(fn)``. It is traced, unless ``traced`` is
            False. `output_error` makes one from batches without labels.
        ranks: the grid: integers, or fractions in ``(0, 1]`` of the largest rank that saves something; for each weight
            bounded by that.
        method: ``method(params, rank=...) -> params`` with `LowRank` leaves whose leading columns are the factors of
            smaller ranks: `svd` (the default, with ``where`` and ``sites``) or ``functools.partial`` of
            `whitened_svd`.
        better: whether ``"lower"`` or ``"higher"`` values are better.
        traced: False calls ``evaluate`` as plain Python, once for every weight and rank, with `LowRank` leaves.
        where: which leaves, for the default method.
        sites: likewise.

    Returns:
        The curves; `RankSensitivity.within` and `RankSensitivity.within_budget` make ranks of them.

    Raises:
        ValueError: if ``ranks`` is empty or out of range, ``evaluate`` returns other than a scalar, no weight has a
            rank that saves something, or ``where`` and ``sites`` are given beside ``method``.
        TypeError: if ``evaluate`` cannot be traced; or ``method`` makes other leaves.

    Example:
        >>> params = {"a": jnp.diag(jnp.array([4.0, 3.0, 0.0, 0.0])), "b": jnp.eye(4)}
        >>> fn = lambda p, x: x @ p["a"] @ p["b"]
        >>> evaluate = jc.factorize.output_error(fn, params, [jnp.eye(4)])
        >>> found = rank_sensitivity(fn, params, evaluate, ranks=[1], where="a")
        >>> round(float(found.values[0, 0]), 2)
        0.36
    """
    if method is not None and (where is not None or sites is not None):
        raise ValueError(
            "rank_sensitivity: where= and sites= are those of svd: bind them to method= (functools.partial)"
        )
    if better not in ("lower", "higher"):
        raise ValueError(f"rank_sensitivity: better must be 'lower' or 'higher', got {better!r}")
    solve = functools.partial(svd, where=where, sites=sites) if method is None else method
    planning = Planning(_Largest())
    solve(params, rank=planning)
    candidates = [one for one, rank in planning.found if rank]
    if not candidates:
        raise ValueError("rank_sensitivity: none of the chosen weights has a rank that saves something")
    grid = np.array([_levels(one, ranks) for one in candidates])
    thin = solve(params, rank={one.path: one.largest for one in candidates})
    thin = dict(zip(*flatten_with_paths(thin)[:2], strict=True))
    leaves = [_checked(one, thin[one.path]) for one in candidates]
    rows = np.full((1 + grid.size, len(candidates)), -1, np.int32)  # -1: dense
    for i, (at, rank) in enumerate(zip(np.repeat(np.arange(len(grid)), grid.shape[1]), grid.reshape(-1), strict=True)):
        rows[i + 1, at] = rank
    static = _Static(fn, evaluate, tuple(one.path for one in candidates))
    values = _traced(params, leaves, rows, static) if traced else _called(params, leaves, rows, static)
    return RankSensitivity(tuple(candidates), grid, values[1:].reshape(grid.shape), float(values[0]), better)


@dataclasses.dataclass(frozen=True)
class _Largest(RankRule):
    """The largest rank that saves something."""

    version: ClassVar[int] = 1

    def rank_of_one(self, candidate: Candidate, spectrum: Spectrum, *, method: str) -> int | None:
        return candidate.largest or None


@dataclasses.dataclass(frozen=True)
class _Static:
    """What a program is compiled for, besides shapes."""

    fn: Callable[..., Any]
    evaluate: Callable[..., Any]
    paths: tuple[str, ...]


def _levels(one: Candidate, ranks: Sequence[int | float]) -> list[int]:
    if not len(ranks):
        raise ValueError("rank_sensitivity: ranks= must name some ranks, got none")
    found = []
    for rank in ranks:
        if isinstance(rank, bool) or not rank > 0 or (not isinstance(rank, int) and rank > 1):
            raise ValueError(f"rank_sensitivity: ranks= must be positive integers or fractions in (0, 1], got {rank!r}")
        count = rank if isinstance(rank, int) else math.ceil(rank * one.largest)
        found.append(min(count, one.largest))
    return sorted(found)


def _is_lowrank(x: Any) -> bool:
    return isinstance(x, LowRank)


def _checked(one: Candidate, leaf: Any) -> Any:
    if sum(map(_is_lowrank, jax.tree.leaves(leaf, is_leaf=_is_lowrank))) != 1:
        raise TypeError(
            f"rank_sensitivity: method= must put one LowRank leaf at {one.path!r}, got {type(leaf).__name__}"
        )
    return leaf


def _at_rank(leaf: Any, rank: jax.Array) -> Any:
    """The leaf with the columns of its factor from ``rank`` on set to zero."""

    def masked(x: Any) -> Any:
        if not _is_lowrank(x):
            return x
        u = dense(x.u)
        return x.replace(u=jnp.where(lax.broadcasted_iota(jnp.int32, u.shape, u.ndim - 1) < rank, u, 0))

    return jax.tree.map(masked, leaf, is_leaf=_is_lowrank)


def _traced(params: Any, leaves: list[Any], rows: np.ndarray, static: _Static) -> np.ndarray:
    try:
        return np.asarray(_evaluated(params, leaves, jnp.asarray(rows), static=static), np.float64)
    except _NOT_TRACEABLE as error:
        raise TypeError(
            "rank_sensitivity: evaluate= is compiled once and run for every rank, so it must be traceable: compute "
            "with jax.numpy and return the scalar as it is; or pass traced=False, which calls it as it stands"
        ) from error


@functools.partial(jax.jit, static_argnames="static")
def _evaluated(params: Any, leaves: list[Any], rows: jax.Array, *, static: _Static) -> jax.Array:
    apply = lift(static.fn)
    weights = dict(zip(*flatten_with_paths(params)[:2], strict=True))

    def weight(path: str, leaf: Any, rank: jax.Array) -> jax.Array:
        return lax.cond(rank >= 0, lambda: dense(_at_rank(leaf, rank)), lambda: dense(weights[path]))

    def one(ranks: jax.Array) -> jax.Array:
        changes = {path: weight(path, leaf, rank) for path, leaf, rank in zip(static.paths, leaves, ranks, strict=True)}
        return _scalar(static.evaluate(apply, replace_at(params, changes)))

    return lax.map(one, rows)


def _called(params: Any, leaves: list[Any], rows: np.ndarray, static: _Static) -> np.ndarray:
    apply, found = lift(static.fn), []
    for ranks in rows:
        changes = {
            path: jax.tree.map(functools.partial(_cut, rank=rank), leaf, is_leaf=_is_lowrank)
            for path, leaf, rank in zip(static.paths, leaves, ranks.tolist(), strict=True)
            if rank >= 0
        }
        found.append(float(static.evaluate(apply, replace_at(params, changes))))
    return np.array(found)


def _cut(x: Any, *, rank: int) -> Any:
    if not _is_lowrank(x):
        return x
    v = jax.lax.slice_in_dim(dense(x.v), 0, rank, axis=x.stack_ndim)
    return x.replace(u=dense(x.u)[..., :rank], v=v)


def _scalar(value: Any) -> jax.Array:
    if jnp.shape(value):
        raise ValueError(
            f"rank_sensitivity: evaluate= must return a scalar, got shape {jnp.shape(value)}: take the mean"
        )
    return jnp.asarray(value).astype(jnp.float32)
