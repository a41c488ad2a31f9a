"""How long a shrunk function really takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.lift import merge_static, split_static
from jaxcompress.core.shrink import shrink

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups

_SAMPLES = 11  # an odd number: the median is one of them
_SAMPLE_SECONDS = 0.005  # calls are timed in runs of at least this length


def shrunk_latency_ms(groups: Groups, params: Any, units: Mapping[int, np.ndarray]) -> float:
    """Milliseconds of one call of the shrunk function at the analysed shapes: compiled, warm, the median of 11 samples.

    Inputs are zeros (integers too: index 0), keys are ``jax.random.key(0)``; the time of most programs does not depend
    on them.

    Args:
        groups: what `jaxcompress.groups` found.
        params: the tree it was found for, dense.
        units: units that stay, by index of the group; none of them: the dense function.
    """
    keep = groups.keep(units)
    small = shrink(groups.fn, params, keep) if keep else None
    fn, weights = (groups.fn, params) if small is None else (small.fn, small.params)
    static, arrays = split_static(fn, (weights, *groups.inputs), groups.kwargs)
    filled = [_filled(array) for array in arrays]

    def flat(arrays: list[Any]) -> Any:
        args, kwargs = merge_static(static, arrays)
        return fn(*args, **kwargs)

    return median_ms(jax.jit(flat), filled)


def median_ms(fn: Callable[[Any], Any], argument: Any) -> float:
    """Milliseconds of ``fn(argument)``, awaited: the median of samples after two calls that are not counted."""
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(fn(argument))
        once = time.perf_counter() - began
    calls = max(1, round(_SAMPLE_SECONDS / max(once, 1e-9)))
    samples = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(fn(argument))
        samples.append((time.perf_counter() - began) / calls)
    return 1e3 * statistics.median(samples)


def _filled(array: Any) -> Any:
    if not isinstance(array, jax.ShapeDtypeStruct):
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), array.shape)
    return jnp.zeros(array.shape, array.dtype)
