"""Measured times: medians of real calls on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def latency_ms(fn: Callable[..., Any], *args: Any, seconds: float = 0.3, calls: int = 200) -> float:
    """Median time of a compiled call until its result is there, compilation not counted.

    Args:
        fn: traceable function of arrays (lift it first if arguments are compressed).
        *args: its arguments.
        seconds: time to spend measuring; three calls are made in any case.
        calls: calls at most.

    Returns:
        Milliseconds.

    Example:
        >>> latency_ms(jnp.sin, jnp.ones(8), calls=3) > 0
        True
    """
    compiled = jax.jit(fn)
    jax.block_until_ready(compiled(*args))
    return median_ms(lambda: jax.block_until_ready(compiled(*args)), seconds=seconds, calls=calls)


def load_ms(load: Callable[[], Any], *, seconds: float = 0.3, calls: int = 20) -> float:
    """Median time until ``load()`` has returned parameters and they are on their device, in milliseconds.

    Example:
        >>> load_ms(lambda: jnp.ones(8), calls=3) > 0
        True
    """
    return median_ms(lambda: jax.block_until_ready(load()), seconds=seconds, calls=calls)


def median_ms(call: Callable[[], Any], *, seconds: float, calls: int) -> float:
    """Median milliseconds of ``call()``: at least three calls, at most ``calls``, for about ``seconds``.

    Example:
        >>> median_ms(lambda: time.sleep(0.001), seconds=0.0, calls=3) >= 1.0
        True
    """
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (len(times) < calls and time.perf_counter() < end):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)
