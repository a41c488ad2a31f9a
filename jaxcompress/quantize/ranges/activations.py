"""Ranges of activations, from what `jaxcompress.observe` gathered at a site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.observe import Observed
from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Samples
from jaxcompress.quantize.ranges.find import Ranges, range_of


def find_activation_scaling(
    observed: Observed, format: Format, ranges: Ranges = "absmax", *, per_layer: bool = True
) -> Scaling:
    """Where a format lies best for the activations that met a weight at a site, as a whole.

    Args:
        observed: an entry of what `jaxcompress.observe` returns, with the statistics of `required_statistics`.
        format: of the codes.
        ranges: as in `find_scaling`, and ``"moving_average"``, over the batches.
        per_layer: a scaling for each entry of the stack axes (scanned layers, experts); False: one for all of them. The
            groups of a grouped convolution share one in any case.

    Returns:
        The scaling in float32, of the shape of the stack: ``()`` for a weight without stack axes, ``[layers]`` for a
        scanned one.

    Raises:
        ValueError: if ``ranges`` is not known, a statistic that it needs was not observed (names the site and
            ``what=``), the site is a lookup, or a layer met no data.

    Example:
        >>> import jaxcompress as jc
        >>> from jaxcompress.quantize.formats import format_of
        >>> stats = jc.observe(lambda w, x: x @ w, jnp.eye(2), [jnp.array([[0.5, -1.0], [0.25, 127.0]])], what="absmax")
        >>> find_activation_scaling(stats[""][0], format_of("int", 8)).scale.tolist()
        1.0
    """
    range = range_of(ranges, method="find_activation_scaling")
    needed = range.statistics(symmetric=format.symmetric)
    site = f"{observed.path!r} ({observed.primitive} at {observed.source})"
    if "row_counts" in observed.values:
        raise ValueError(f"find_activation_scaling: {site} is a lookup, which no activations meet")
    missing = [name for name in needed if name not in observed.values]
    if missing:
        raise ValueError(
            f"find_activation_scaling: ranges={range.name!r} needs {missing[0]!r}, which was not observed at {site}; "
            f"observed: {sorted(observed.values)}. Observe with what={needed!r} (see required_statistics)"
        )
    count = np.asarray(observed.count)
    layers = count.shape[: len(observed.stack)] if per_layer else ()
    if (count.reshape(math.prod(layers), -1).sum(1) == 0).any():
        raise ValueError(f"find_activation_scaling: a layer of {site} met no data while it was observed")
    found = {name: _GATHER[name](observed.values[name], math.prod(layers)) for name in needed}
    scaling = range.of_statistics(found, format)
    return jax.tree.map(lambda field: field.reshape(*layers, *field.shape[1:]), scaling)


def _extreme(reduce: Any) -> Any:
    return lambda value, groups: jnp.asarray(reduce(np.asarray(value).reshape(groups, -1), axis=1), jnp.float32)


def _batch_ranges(value: tuple[np.ndarray, np.ndarray], groups: int) -> tuple[np.ndarray, np.ndarray]:
    least, greatest = (np.asarray(end).reshape(len(end), groups, -1) for end in value)
    return least.min(2), greatest.max(2)


def _histogram(value: tuple[np.ndarray, np.ndarray], groups: int) -> Samples:
    """The bins of every group, on the widest width of its members: widths are powers of two."""
    counts, edges = (np.asarray(part, np.float64) for part in value)
    counts, edges = counts.reshape(groups, -1, counts.shape[-1]), edges.reshape(groups, -1, edges.shape[-1])
    bins = counts.shape[-1]
    widths = edges[..., bins // 2 + 1]  # zero is the edge in the middle
    width = widths.max(1)
    place = (np.arange(bins) - bins // 2)[None, None, :]
    joined = np.floor_divide(place, (width[:, None] / widths)[..., None]).astype(np.int64) + bins // 2
    total = np.zeros((groups, bins))
    np.add.at(total, (np.arange(groups)[:, None, None], joined), counts)
    centres = (np.arange(bins) + 0.5 - bins // 2) * width[:, None]
    total /= np.maximum(total.max(1, keepdims=True), 1)
    return Samples(jnp.asarray(centres, jnp.float32), jnp.asarray(total, jnp.float32), jnp.asarray(width, jnp.float32))


_GATHER: Mapping[str, Any] = {
    "absmax": _extreme(np.max),
    "min": _extreme(np.min),
    "max": _extreme(np.max),
    "batch_ranges": _batch_ranges,
    "histogram": _histogram,
}
