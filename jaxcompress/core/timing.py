"""Measured times: medians of calls that were awaited."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_SAMPLES = 11  # an odd number: the median is one of them
_SAMPLE_SECONDS = 0.005  # calls are timed in runs of at least this length


def median_ms(fn: Callable[[Any], Any], argument: Any) -> float:
    """Milliseconds of ``fn(argument)``, awaited: the median of samples after two calls that are not counted.

    Example:
        >>> median_ms(jax.jit(jnp.sin), jnp.ones(8)) > 0
        True
    """
    return interleaved_ms([lambda: fn(argument)])[0]


def interleaved_ms(calls: Sequence[Callable[[], Any]], *, samples: int = _SAMPLES) -> list[float]:
    """Milliseconds of every call, awaited: medians of samples that are taken in turn.

    A busy moment of the machine so meets all of them, and what is compared was measured under the same conditions. Each
    is called twice before, which is not counted: the first call compiles, the second says how many make a sample of at
    least 5 ms.

    Args:
        calls: functions without arguments.
        samples: of each.

    Returns:
        Milliseconds of one call of each, in order.

    Raises:
        ValueError: if there are no calls or ``samples`` is below 1.

    Example:
        >>> import time
        >>> short, long = interleaved_ms([lambda: None, lambda: time.sleep(0.002)], samples=3)
        >>> short < long
        True
    """
    if not calls or samples < 1:
        raise ValueError(f"interleaved_ms: nothing to measure with {len(calls)} calls and samples={samples}")
    repeats = [_repeats(call) for call in calls]
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(samples):
        for call, count, times in zip(calls, repeats, taken, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                jax.block_until_ready(call())
            times.append((time.perf_counter() - began) / count)
    return [1e3 * statistics.median(times) for times in taken]


def filled(argument: Any) -> Any:
    """Zeros of a `jax.ShapeDtypeStruct` (integers: index 0; keys: ``jax.random.key(0)``); anything else as it is.

    The time of most programs does not depend on the numbers.
    """
    if not isinstance(argument, jax.ShapeDtypeStruct):
        return argument
    if jnp.issubdtype(argument.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), argument.shape)
    return jnp.zeros(argument.shape, argument.dtype)


def _repeats(call: Callable[[], Any]) -> int:
    once = 0.0
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        once = time.perf_counter() - began
    return max(1, round(_SAMPLE_SECONDS / max(once, 1e-9)))
