"""The evaluation of one candidate made one of many: `population_evaluator`, and the program behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.executors.executor import Executor, One, describe, length
from jaxcompress.search.executors.local import Chunked, Loop, Map, Vmap
from jaxcompress.search.executors.sharded import Sharded

NAMES: dict[str, Callable[[], Executor]] = {
    "loop": Loop,
    "map": Map,
    "chunked": Chunked,
    "vmap": Vmap,
    "sharded": Sharded,
}

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


def executor_of(executor: str | Executor, *, argument: str = "executor") -> Executor:
    """The executor of a name, or the one given.

    Raises:
        ValueError: if there is none of that name; lists them.
        TypeError: if it is neither a name nor an `Executor`.
    """
    if isinstance(executor, Executor):
        return executor
    if not isinstance(executor, str):
        raise TypeError(f"{argument} must be a name or an Executor, got {executor!r}: one of {sorted(NAMES)}")
    if executor not in NAMES:
        raise ValueError(f"{argument}={executor!r} is not one of {sorted(NAMES)}; an Executor object is taken too")
    return NAMES[executor]()


class Program:
    """One compiled evaluation of populations of one size.

    Args:
        one: ``one(item, shared) -> results``, pure and traceable.
        executor: how it becomes a function of many.
        items: a population, for its shapes. Of NumPy arrays or local JAX arrays; keys as their data.
        shared: what all candidates share; placed once.

    Attributes:
        name: of the executor.
        compile_seconds: the compilation took; 0 where a call compiles.
        memory_bytes: that the compiler plans on each device for arguments, results and everything between; None where
            it does not say.
    """

    def __init__(self, one: One, executor: Executor, items: Any, shared: Any) -> None:
        self.name, self.executor = describe(executor), executor
        self.compile_seconds, self.memory_bytes = 0.0, None
        self._shared = executor.place(shared)
        function = executor.population(one)
        if executor.traced:
            began = time.perf_counter()
            function = jax.jit(function).lower(executor.place(items), self._count(1), self._shared).compile()
            self.compile_seconds = time.perf_counter() - began
            self.memory_bytes = _planned(function.memory_analysis())
        self._function = function

    def __call__(self, items: Any, count: int) -> Any:
        """The results of the first ``count`` items as NumPy arrays; those behind them are not to be read."""
        results = self._function(self.executor.place(items), self._count(count), self._shared)
        return jax.tree.map(np.asarray, results)

    def _count(self, count: int) -> Any:
        return self.executor.place(np.int32(count))


def population_evaluator(
    evaluate: Callable[..., Any], executor: str | Executor = "map"
) -> Callable[..., dict[str, jax.Array]]:
    """Turns the evaluation of one candidate into that of many.

    Args:
        evaluate: ``evaluate(genome, key)`` or, where data is given, ``evaluate(genome, key, data)``: a traceable
            function of one candidate (any pytree of arrays), its key and data that all share. Returns any pytree of
            arrays of constant shapes.
        executor: ``"loop"``, ``"map"``, ``"chunked"``, ``"vmap"``, ``"sharded"`` or an `Executor`.

    Returns:
        ``many(genomes, keys, data=None)``, whose genomes and keys lead with ``n``, and whose results do. It can be
        traced, unless the executor is ``"loop"``. It is compiled once for each ``n``.

    Raises:
        ValueError: on an executor that is none.

    Example:
        >>> many = population_evaluator(lambda genome, key: {"error": genome["x"] ** 2}, "chunked")
        >>> many({"x": jnp.array([1.0, 2.0, 3.0])}, jax.random.split(jax.random.key(0), 3))["error"].tolist()
        [1.0, 4.0, 9.0]
    """
    chosen = executor_of(executor)

    def one(item: tuple[Any, jax.Array], data: Any) -> Any:
        return evaluate(*item) if data is None else evaluate(*item, data)

    function = chosen.population(one)
    if chosen.traced:
        function = jax.jit(function)

    def many(genomes: Any, keys: jax.Array, data: Any = None) -> Any:
        items = (genomes, keys)
        return function(items, jnp.int32(length(items)), data)

    return many


def traced_once(one: One, items: Any, shared: Any) -> tuple[Any, Any]:
    """The jaxpr of one candidate and the shapes of its results.

    Raises:
        TypeError: if the evaluation looks at values while it is traced; names the way out.
    """
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), items)
    try:
        return jax.make_jaxpr(one, return_shape=True)(first, shared)
    except _NOT_TRACEABLE as error:
        raise TypeError(
            "evaluate= is compiled once and run for every candidate, so it must be traceable: compute with jax.numpy "
            "on the arrays of the genome, without float(), np.asarray or branches on values (jnp.where, jax.lax.cond). "
            "A function that has to be Python is marked so: evaluate=jaxcompress.search.python(evaluate)"
        ) from error


def _planned(analysis: Any) -> int | None:
    if analysis is None:
        return None
    parts = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    return int(sum(parts) - analysis.alias_size_in_bytes)
