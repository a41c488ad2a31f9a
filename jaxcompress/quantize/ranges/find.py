"""From the name of a range, or its options, to the scaling of an array."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples
from jaxcompress.quantize.ranges.entropy import Entropy
from jaxcompress.quantize.ranges.equalized import Equalized
from jaxcompress.quantize.ranges.extremes import AbsMax, MinMax
from jaxcompress.quantize.ranges.kmeans import KMeans
from jaxcompress.quantize.ranges.moving_average import MovingAverage
from jaxcompress.quantize.ranges.mse import MSE
from jaxcompress.quantize.ranges.percentile import Percentile
from jaxcompress.quantize.ranges.table import with_zero
from jaxcompress.solvers.rows import rows_of

Ranges: TypeAlias = str | Range

RANGES: dict[str, type[Range]] = {
    kind.name: kind for kind in (AbsMax, MinMax, Percentile, MSE, Entropy, MovingAverage, Equalized, KMeans)
}
"""The kinds of ranges by name."""


def range_of(ranges: Ranges, *, method: str = "quantize") -> Range:
    """The range of a name, with its default options; a `Range` as it is.

    Raises:
        ValueError: if there is none of that name; lists those that there are.
        TypeError: if it is neither a name nor a `Range`.

    Example:
        >>> range_of("percentile")
        Percentile(percentage=99.9)
    """
    if isinstance(ranges, Range):
        return ranges
    if not isinstance(ranges, str):
        raise TypeError(f"{method}: ranges must be a name or a Range such as MSE(steps=100), got {ranges!r}")
    if ranges not in RANGES:
        raise ValueError(f"{method}: ranges={ranges!r} is not known; there are {', '.join(RANGES)}")
    return RANGES[ranges]()


def required_statistics(ranges: Ranges, format: Format | None = None) -> tuple[str, ...]:
    """What `jaxcompress.observe` must gather for ranges of activations: its ``what=``.

    Args:
        ranges: a name or a `Range`.
        format: of the codes: an asymmetric grid may need more. None: a symmetric one.

    Example:
        >>> required_statistics("absmax"), required_statistics("mse"), required_statistics("moving_average")
        (('absmax',), ('histogram',), ('batch_ranges',))
    """
    return range_of(ranges).statistics(symmetric=format is None or format.symmetric)


def find_scaling(
    x: jax.Array,
    scale_shape: Sequence[int],
    format: Format,
    ranges: Ranges = "absmax",
    *,
    weights: jax.Array | None = None,
    support: jax.Array | None = None,
) -> Scaling:
    """Where a format lies best for an array: scales, zero points and tables of its groups.

    Args:
        x: finite floats of any shape.
        scale_shape: shape of the scale: as many axes as ``x``, the size of each dividing its
            (`jaxcompress.solvers.grid`). Static.
        format: `jaxcompress.quantize.formats.Format`, static.
        ranges: ``"absmax"``, ``"minmax"``, ``"percentile"``, ``"mse"``, ``"entropy"``; for format ``levels`` also
            ``"equalized"`` and ``"kmeans"``; or a `Range` with options, such as ``Percentile(99.5)``. Static.
        weights: nonnegative importance of every entry, of the shape of ``x`` (second moments of what it meets, a Fisher
            information). Entries of weight 0 do not count; a group of nothing but such is treated as if there were no
            weights. ``"absmax"`` and ``"minmax"`` take from them only what counts.
        support: bool, of the shape of ``x``, False where an entry is pruned: it does not count, and tables get a level
            that is exactly 0.

    Returns:
        The scaling, in float32 (float64 for float64 arrays). Groups of zeros get the scale 1 (tables: any).

    Raises:
        ValueError: if ``ranges`` is not known, or does not go with the format, or shapes do not fit.

    Example:
        >>> from jaxcompress.quantize.formats import format_of
        >>> x = jnp.array([[0.0, 0.5, -1.0, 0.75, 7.0]])
        >>> find_scaling(x, (1, 1), format_of("int", 4)).scale.tolist()
        [[1.0]]
        >>> find_scaling(x, (1, 1), format_of("levels", 1), "kmeans").table.tolist()
        [[[0.0078125, 0.875]]]
    """
    range, scale_shape = range_of(ranges, method="find_scaling"), tuple(scale_shape)
    for name, given in (("weights", weights), ("support", support)):
        if given is not None and given.shape != x.shape:
            raise ValueError(f"find_scaling: {name} must have the shape of x, {x.shape}, got {given.shape}")
    fitting = len(scale_shape) == x.ndim and all(
        part == whole or (part and whole % part == 0) for part, whole in zip(scale_shape, x.shape, strict=True)
    )
    if not fitting:
        raise ValueError(
            f"find_scaling: scale_shape must have the axes of x, each dividing, got {scale_shape} for {x.shape}"
        )
    return _find(x, weights, support, scale_shape=scale_shape, format=format, range=range)


@functools.partial(jax.jit, static_argnames=("scale_shape", "format", "range"))
def _find(
    x: jax.Array,
    weights: jax.Array | None,
    support: jax.Array | None,
    *,
    scale_shape: tuple[int, ...],
    format: Format,
    range: Range,
) -> Scaling:
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    if not x.size:
        return format.scaling(jnp.zeros(scale_shape, x.dtype), jnp.zeros(scale_shape, x.dtype))
    if support is not None:
        x = jnp.where(support, x, 0)
        weights = support.astype(x.dtype) if weights is None else jnp.where(support, weights, 0)
        if "zero_preserving" in {field.name for field in dataclasses.fields(range)}:
            range = dataclasses.replace(range, zero_preserving=True)  # type: ignore[call-arg]
    rows = rows_of(x, scale_shape)
    scaling = range.of_samples(Samples(rows, _relative(weights, scale_shape, x.dtype)), format)
    if support is not None and scaling.table is not None:
        scaling = scaling._replace(table=with_zero(scaling.table))
    return jax.tree.map(lambda field: field.reshape(*scale_shape, *field.shape[1:]), scaling)


def _relative(weights: jax.Array | None, scale_shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array | None:
    """The weights of every row over the greatest of it; ones where all are zero."""
    if weights is None:
        return None
    rows = rows_of(weights.astype(dtype), scale_shape)
    greatest = jnp.max(rows, axis=1, keepdims=True)
    return jnp.where(greatest > 0, rows / jnp.where(greatest > 0, greatest, 1), 1)
