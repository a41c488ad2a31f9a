"""One compiled evaluation for all policies: a row of integers picks among the variants of every leaf."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.search.executors.executor import Executor
from jaxcompress.search.executors.measured import choose
from jaxcompress.search.executors.population import Program, executor_of
from jaxcompress.search.policies.decisions import GroupDecision
from jaxcompress.search.policies.table import VariantTable

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)

_GENERATIONS = 20  # calls of the program that a search will take, when executors are compared

Evaluate = Callable[..., Any]
"""``evaluate(apply, params) -> metrics``, or ``evaluate(apply, params, data)`` where data is given."""


class Evaluation:
    """The metrics of policies: compiled once, whatever their number; what was evaluated is not evaluated again.

    Args:
        table: the variants.
        evaluate: ``evaluate(apply, params) -> scalar`` (called ``error``) or a mapping of named scalars, traced;
            ``apply`` is ``lift(fn)``. With ``data`` it is ``evaluate(apply, params, data)``.
        data: a pytree of arrays, an argument of the program.
        executor: how many policies are evaluated: ``"map"``, ``"loop"``, ``"chunked"``, ``"vmap"``, ``"sharded"`` or an
            `jaxcompress.search.executors.Executor`; ``"auto"`` measures on the first policies.
        capacity: policies in one call of the program.

    Attributes:
        evaluations: policies evaluated so far, each counted once.
        executor: name of the one that is used; None before the first call.

    Example:
        >>> from jaxcompress.search.policies import Setting, variant_table
        >>> table = variant_table(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, {"w": [Setting(bits=4), Setting(bits=8)]})
        >>> evaluation = Evaluation(table, lambda apply, p: apply(p, jnp.ones((1, 2))).sum())
        >>> evaluation([[0], [1]])["error"].round(3).tolist()
        [2.0, 2.0]
    """

    def __init__(
        self,
        table: VariantTable,
        evaluate: Evaluate,
        *,
        data: Any = None,
        executor: str | Executor = "map",
        capacity: int = 128,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"capacity must be a positive int, got {capacity!r}")
        require_arguments(evaluate, data)
        self.table, self.capacity, self.evaluations = table, capacity, 0
        self.executor: str | None = None
        self._known: dict[bytes, dict[str, float]] = {}
        self._asked = executor if executor == "auto" else executor_of(executor)
        self._shared, self._program = shared_arrays(table, data), None

        def policy_metrics(row: jax.Array, shared: Any) -> dict[str, jax.Array]:
            tree = picked(table, row, shared["params"], shared["variants"], shared["kept"])
            given = () if shared["data"] is None else (shared["data"],)
            return scalars(evaluate(lift(table.fn), tree, *given))

        self._one = policy_metrics

    def __call__(self, rows: Any) -> dict[str, np.ndarray]:
        """The metrics of policies ``[n, decisions]``, float64 ``[n]`` by name; NaN where the evaluation gives NaN.

        Raises:
            ValueError: if the rows do not fit the table, or ``evaluate`` returns other than scalars.
            TypeError: if it cannot be traced.
        """
        rows = checked_rows(rows, self.table)
        new = list(dict.fromkeys(tuple(row) for row in rows.tolist() if _key(row) not in self._known))
        for start in range(0, len(new), self.capacity):
            some = np.array(new[start : start + self.capacity], np.int32)
            found = self._run(some)
            for i, row in enumerate(some):
                self._known[_key(row)] = {name: float(values[i]) for name, values in found.items()}
            self.evaluations += len(some)
        results = [self._known[_key(row)] for row in rows]
        return {name: np.array([one[name] for one in results]) for name in results[0]} if results else {}

    def _run(self, some: np.ndarray) -> dict[str, np.ndarray]:
        """One call of the program; the first one compiles it, and with ``"auto"`` measures which one it is to be."""
        full = np.concatenate([some, np.zeros((self.capacity - len(some), some.shape[1]), np.int32)])
        found = None
        if self._program is None:
            try:
                if isinstance(self._asked, str):
                    self._program, found, _ = choose(
                        self._one, full, len(some), self._shared, left=lambda seconds: _GENERATIONS * seconds
                    )
                else:
                    self._program = Program(self._one, self._asked, full, self._shared)
            except _NOT_TRACEABLE as error:
                raise TypeError(
                    "policy: evaluate= is compiled once and run for every policy, so it must be traceable: compute "
                    "with jax.numpy and return scalars as they are, without float(), np.asarray or branches on values"
                ) from error
            self.executor = self._program.name
        return self._program(full, len(some)) if found is None else found

    @property
    def known(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All policies evaluated so far, and their metrics."""
        rows = np.array([np.frombuffer(key, np.int32) for key in self._known], np.int32)
        return rows.reshape(-1, len(self.table.decisions)), self(rows) if len(rows) else {}


def picked(
    table: VariantTable, row: jax.Array, params: Any, variants: Sequence[Any], kept: Sequence[Mapping[Any, jax.Array]]
) -> Any:
    """The parameters under one policy, dense where something is decided, inside of a program.

    Args:
        table: the variants, for what is static about them.
        row: int32 ``[decisions]``.
        params: the parameters as given.
        variants: of every decided leaf what `shared_arrays` made of its variants.
        kept: of every decided group its masks.
    """
    changes: dict[str, Any] = {}
    for column, decision in enumerate(table.leaves):
        changes[decision.path] = _pick(variants[column], row[column])
    if table.units:
        before = dict(zip(*flatten_with_paths(params)[:2], strict=True))
        for place, masks in enumerate(kept):
            column = len(table.leaves) + place
            for (path, axis), mask in masks.items():
                array = changes[path] if path in changes else dense(before[path])
                changes[path] = _masked(array, lax.dynamic_index_in_dim(mask, row[column], keepdims=False), axis)
    return replace_at(params, changes)


def shared_arrays(table: VariantTable, data: Any) -> dict[str, Any]:
    """What all policies share: parameters, variants, masks of the units, data."""
    made = [_stacked(variants) if table.storage == "dense" else tuple(variants) for variants in table.variants]
    return {
        "params": table.params,
        "variants": made,
        "kept": [_masks(table, unit) for unit in table.units],
        "data": data,
    }


def require_arguments(evaluate: Any, data: Any) -> None:
    """Refuses an ``evaluate`` that does not take what it will be given.

    Raises:
        TypeError: if it is no function, or of another number of arguments.
    """
    if not callable(evaluate):
        raise TypeError(f"policy: evaluate= must be a function (apply, params) -> metrics, got {evaluate!r}")
    given = (None, None) if data is None else (None, None, None)
    try:
        inspect.signature(evaluate).bind(*given)
    except TypeError as error:
        wanted = "(apply, params)" if data is None else "(apply, params, data), since data= is given"
        raise TypeError(f"policy: evaluate= must take {wanted}: {error}") from error
    except ValueError:  # a builtin without a signature
        return


def scalars(value: Any) -> dict[str, jax.Array]:
    """Metrics by name in float32; a single number is called ``error``.

    Raises:
        ValueError: if one of them is no scalar.
    """
    found = {}
    for name, number in (dict(value) if isinstance(value, Mapping) else {"error": value}).items():
        if not isinstance(number, bool | int | float | np.generic | np.ndarray | jax.Array):
            raise ValueError(f"policy: evaluate= must return scalars, got {number!r} for {name!r}")
        if jnp.shape(number):
            raise ValueError(
                f"policy: evaluate= must return scalars, got shape {jnp.shape(number)} for {name!r}: take the mean"
            )
        found[name] = jnp.asarray(number).astype(jnp.float32)
    return found


def checked_rows(rows: Any, table: VariantTable) -> np.ndarray:
    """Policies as int32 ``[n, decisions]``.

    Raises:
        ValueError: if they are of another shape, or name a variant that there is not.
    """
    found = np.asarray(rows, np.int64).reshape(-1, len(table.decisions)) if np.size(rows) == 0 else np.asarray(rows)
    if found.ndim != 2 or found.shape[1] != len(table.decisions) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"policies are rows of {len(table.decisions)} integers, one for each decision, got {found.dtype} of shape "
            f"{found.shape}"
        )
    if (found < 0).any() or (found >= np.array(table.cardinalities)).any():
        raise ValueError(f"policies name variants that there are not: of each decision there are {table.cardinalities}")
    return found.astype(np.int32)


def _key(row: Any) -> bytes:
    return np.asarray(row, np.int32).tobytes()


def _pick(variants: Any, number: jax.Array) -> jax.Array:
    if not isinstance(variants, tuple):
        return lax.dynamic_index_in_dim(variants, number, keepdims=False)
    return lax.switch(number, [lambda leaves, i=i: _dense(leaves[i]) for i in range(len(variants))], variants)


@jax.jit
def _stacked(variants: Sequence[Any]) -> jax.Array:
    return jnp.stack([_dense(one) for one in variants])


def _dense(leaf: Any) -> jax.Array:
    return dense(leaf) if is_compressed(leaf) else jnp.asarray(leaf)


def _masked(array: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
    shape = [-1 if own == axis else 1 for own in range(array.ndim)]
    return jnp.where(mask.reshape(shape), array, jnp.zeros((), array.dtype))


def _masks(table: VariantTable, unit: GroupDecision) -> dict[tuple[str, int], jax.Array]:
    """By path and axis: of every variant which indices stay, bool ``[variants, length]``."""
    assert table.groups is not None
    shapes = table.groups.shapes
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for member in table.groups[unit.index].members:
        found[member.path, member.axis] = []
    for variant in range(len(unit.counts)):
        keep = table.groups.keep({unit.index: unit.units(variant)})
        for (path, axis), masks in found.items():
            mask = np.ones(shapes[path][axis], bool)
            if (path, axis) in keep:
                mask = np.isin(np.arange(shapes[path][axis]), keep[path, axis])
            masks.append(mask)
    return {place: jnp.asarray(np.stack(masks)) for place, masks in found.items()}
