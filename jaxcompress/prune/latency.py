"""How long a shrunk function really takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxcompress.core.lift import merge_static, split_static
from jaxcompress.core.shrink import shrink
from jaxcompress.core.timing import filled, median_ms

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups


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

    def flat(arrays: list[Any]) -> Any:
        args, kwargs = merge_static(static, arrays)
        return fn(*args, **kwargs)

    return median_ms(jax.jit(flat), [filled(array) for array in arrays])
