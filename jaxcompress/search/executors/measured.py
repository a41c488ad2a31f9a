"""The executor `auto`: chosen by what the first generation takes, in time and memory."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.executors.executor import Executor, One, describe
from jaxcompress.search.executors.local import Chunked, Map, Vmap
from jaxcompress.search.executors.population import Program
from jaxcompress.search.executors.sharded import Sharded

CLEARLY = 1.2  # how many times faster what rounds differently has to be
PATIENCE = 3.0  # how many times what a trial costs has to be left of the search
SIZES = (8, 64)
SHORT = 0.1  # seconds; shorter generations are timed three times


@dataclasses.dataclass(frozen=True)
class Trial:
    """One executor on the first generation.

    Attributes:
        name: of the executor.
        seconds: for the generation, compilation not counted; None if it was not run.
        compile_seconds: of the compilation.
        memory_bytes: that the compiler plans on each device; None where it does not say.
        note: why it was not run.
    """

    name: str
    seconds: float | None
    compile_seconds: float
    memory_bytes: int | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ExecutorChoice:
    """Which executor a search took, and why.

    Attributes:
        name: of the executor.
        reason: in words.
        trials: what was measured; empty where nothing had to be.
    """

    name: str
    reason: str
    trials: tuple[Trial, ...] = ()

    def __str__(self) -> str:
        return text_table(*self._table()) if self.trials else f"{self.name}: {self.reason}"

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [
            [
                trial.name,
                trial.note if trial.seconds is None else f"{1e3 * trial.seconds:.3g}",
                f"{trial.compile_seconds:.2f}",
                "?" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e6:,.1f}",
            ]
            for trial in self.trials
        ]
        return ["executor", "generation, ms", "compiled, s", "memory, MB"], rows, [f"{self.name}: {self.reason}"]


def choose(
    one: One, items: Any, count: int, shared: Any, *, left: Callable[[float], float]
) -> tuple[Program, Any, ExecutorChoice]:
    """Evaluates the first generation by one executor after the other and takes the fastest that fits into memory.

    What computes other bits than `Map` (`Vmap`, `Chunked`) must be clearly faster. Others are tried only while what is
    left of the search is long against what a trial costs. With several processes it is `Sharded`, unmeasured: their
    clocks would not agree.

    Args:
        one: as in `Executor`.
        items: the generation.
        count: how many of them to evaluate.
        shared: what they share.
        left: from the seconds of a generation to those that the search will still take.

    Returns:
        The program, its results, and what there is to tell.
    """
    if jax.process_count() > 1:
        program = Program(one, Sharded(), items, shared)
        return program, program(items, count), ExecutorChoice("sharded", "there are several processes")
    best: tuple[float, Program, Any] | None = None
    trials: list[Trial] = []
    reason = "the fastest"
    for executor in _worth_trying(len(jax.tree.leaves(items)[0])):
        cost = max((trial.compile_seconds + (trial.seconds or 0.0) for trial in trials), default=0.0)
        if best is not None and left(best[0]) < PATIENCE * cost:
            reason = "what is left of the search is too short to try others"
            break
        program = Program(one, executor, items, shared)
        needed, there = _needed(program), _free_bytes()
        if best is not None and needed is not None and needed > there:
            note = f"{there / 1e6:,.0f} MB are free"
            trials.append(Trial(program.name, None, program.compile_seconds, program.memory_bytes, note))
            continue
        seconds, results = _timed(program, items, count)
        trials.append(Trial(program.name, seconds, program.compile_seconds, program.memory_bytes))
        if best is None or seconds * (CLEARLY if isinstance(executor, Vmap | Chunked) else 1.0) < best[0]:
            best = (seconds, program, results)
    assert best is not None
    return best[1], best[2], ExecutorChoice(best[1].name, reason, tuple(trials))


def executor_named(name: str) -> Executor | None:
    """The executor that `choose` called so, if it is one of those it tries.

    Example:
        >>> executor_named("chunked(8)")
        Chunked(size=8)
    """
    known = [Map(), Sharded(), Vmap(), *map(Chunked, SIZES)]
    return next((executor for executor in known if describe(executor) == name), None)


def _worth_trying(n: int) -> Iterator[Executor]:
    yield Map()
    if n == 1:
        return
    if jax.device_count() > 1:
        yield Sharded()
    yield from (Chunked(size) for size in SIZES if size < n)
    yield Vmap()


def _timed(program: Program, items: Any, count: int) -> tuple[float, Any]:
    """The least time of a few calls, and the results."""
    seconds, results = [], None
    for _ in range(3):
        began = time.perf_counter()
        results = program(items, count)
        seconds.append(time.perf_counter() - began)
        if seconds[0] > SHORT:
            break
    return min(seconds), results


def _needed(program: Program) -> int | None:
    """Bytes on the fullest device; devices of a CPU share one memory."""
    together = (
        jax.local_device_count() if isinstance(program.executor, Sharded) and jax.default_backend() == "cpu" else 1
    )
    return None if program.memory_bytes is None else program.memory_bytes * together


def _free_bytes() -> float:
    """Of the first device; of the machine where the device does not say."""
    found = jax.local_devices()[0].memory_stats()
    if found and "bytes_limit" in found:
        return found["bytes_limit"] - found.get("bytes_in_use", 0)
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")
