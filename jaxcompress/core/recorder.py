"""The listener behind `observe`: data at sites become statistics, rows of features under every weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core import statistics
from jaxcompress.core.interpreter import Interpreter, Use


class Recorder:
    """The listener that turns data at sites into statistics."""

    def __init__(self, paths: Sequence[str], what: tuple[str, ...]) -> None:
        """Watches the leaves at ``paths``."""
        self.paths = frozenset(paths)
        self.what = what
        self.uses: dict[tuple[str, int], Use] = {}

    def combine(self, a: Any, b: Any) -> Any:
        """See `Listener`."""
        return statistics.combine(a, b)

    def empty(self, like: Any) -> Any:
        """See `Listener`."""
        return statistics.empty(like)

    def across(self, found: Any, axes: tuple[str, ...]) -> Any:
        """See `Listener`."""
        return statistics.across(found, axes)

    def contraction(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, axes: dict[str, Any]) -> None:
        """Rows of ``x`` (its free axes) against the contracted features."""
        stack = len(axes["batch"][0])
        free = x.ndim - stack - len(axes["contract"][0])
        lead = x.shape[:stack]
        rows = x.shape[stack : stack + free]
        features = x.reshape(*lead, math.prod(rows), math.prod(x.shape[stack + free :]))
        results = out.reshape(*lead, math.prod(rows), math.prod(out.shape[stack + free :]))
        self._keep(run, use, features, results)

    def convolution(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, params: dict[str, Any]) -> None:
        """Rows are the patches under the kernel."""
        if use.origin.path in self.paths:
            rows = patches(x, use, params)
            features = out.shape[params["dimension_numbers"].out_spec[1]]
            groups = params["feature_group_count"]
            flat = jnp.moveaxis(out, params["dimension_numbers"].out_spec[1], -1).reshape(
                -1, groups, features // groups
            )
            self._keep(
                run, use, rows if groups > 1 else rows[0], jnp.moveaxis(flat, 1, 0) if groups > 1 else flat[:, 0]
            )

    def lookup(self, run: Interpreter, use: Use, indices: jax.Array) -> None:
        """How often each row was taken."""
        if use.origin.path not in self.paths or not use.lookup:
            return
        rows = use.shape[use.lookup[0]]
        flat = jnp.clip(indices.reshape(-1).astype(jnp.int32), 0, rows - 1)
        counts = jnp.zeros(rows, jnp.int32).at[flat].add(1)
        self._add(run, use, {"row_counts": counts, "count": jnp.sum(counts)})

    def _keep(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array) -> None:
        if use.origin.path in self.paths:
            self._add(run, use, statistics.collect(self.what, x, out))

    def _add(self, run: Interpreter, use: Use, found: dict[str, Any]) -> None:
        key = (use.origin.path or "", use.ordinal)
        self.uses[key] = use
        run.collect(key, found)


def patches(x: jax.Array, use: Use, params: Mapping[str, Any]) -> jax.Array:
    """Patches of an input under a kernel, ``[groups, rows, features]``; features in the order of the kernel's axes."""
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise ValueError(f"observe: {use.origin.path!r} is a convolution with batch groups, which has no patches")
    _, in_axis, *spatial = numbers.rhs_spec
    window = tuple(use.shape[axis] for axis in spatial)
    taken = lax.conv_general_dilated_patches(
        x,
        filter_shape=window,
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=lax.Precision.HIGHEST,
    )
    groups = params["feature_group_count"]
    channels = x.shape[numbers.lhs_spec[1]] // groups
    rows = jnp.moveaxis(taken, numbers.out_spec[1], -1).reshape(-1, groups, channels, *window)
    order = sorted(range(len(window) + 1), key=lambda i: (in_axis, *spatial)[i])
    rows = jnp.transpose(rows, (1, 0, *(2 + i for i in order)))
    return rows.reshape(groups, rows.shape[1], channels * math.prod(window))
