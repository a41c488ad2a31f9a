"""Adaptive embeddings: rows in bands by frequency, rare ones narrow, each with its projection to full width."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.cluster.embeddings.table import Fields, Options, Table, dot
from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import ArrayOrLeaf, FieldOp, leaf_kind

BANDS = 6
"""Most bands a table may have."""


def _bands(fields: Fields) -> list[tuple[jax.Array, jax.Array | None]]:
    """Each band's rows and its projection (None: they have the full width already)."""
    return [(fields[f"band{b}"], fields.get(f"projection{b}")) for b in range(BANDS) if f"band{b}" in fields]


def _take(fields: Fields, indices: jax.Array) -> jax.Array:
    bands = _bands(fields)
    slots = jnp.take(fields["slot"], indices, axis=0, mode="clip").astype(jnp.int32) if "slot" in fields else indices
    widths = sum(rows.shape[1] for rows, projection in bands if projection is not None)
    held = sum(rows.shape[0] * rows.shape[1] for rows, projection in bands if projection is not None)
    count = indices.shape[0]  # may be symbolic
    if isinstance(count, int) and count * widths >= held:  # as many products as decoding the bands whole
        whole = [rows if projection is None else _product(rows, projection) for rows, projection in bands]
        return jnp.take(jnp.concatenate(whole), slots, axis=0, mode="clip")
    out, start = None, 0
    for rows, projection in bands:
        taken = jnp.take(rows, slots - start, axis=0, mode="clip")
        taken = taken if projection is None else _product(taken, projection)
        inside = jnp.broadcast_to((slots >= start)[:, None], taken.shape)
        out = taken if out is None else jnp.where(inside, taken, out)
        start += rows.shape[0]
    assert out is not None
    return out


def _product(rows: jax.Array, projection: jax.Array) -> jax.Array:
    return jnp.matmul(rows, projection, precision=jax.lax.Precision.HIGHEST)


def _head(fields: Fields, x: jax.Array, options: Options) -> jax.Array:
    near = Options(options.precision)
    scores = [
        dot(x if projection is None else dot(x, projection, near, transposed=True), rows, options, transposed=True)
        for rows, projection in _bands(fields)
    ]
    joined = jnp.concatenate(scores, axis=1)
    return jnp.take(joined, fields["slot"], axis=1, mode="clip") if "slot" in fields else joined


def _mix(fields: Fields, x: jax.Array, options: Options) -> jax.Array:
    bands = _bands(fields)
    total = sum(rows.shape[0] for rows, _ in bands)
    if "slot" in fields:
        x = jnp.zeros((x.shape[0], total), x.dtype).at[:, fields["slot"]].add(x)
    out, start = None, 0
    for rows, projection in bands:
        own = x[:, start : start + rows.shape[0]]
        near = options if projection is None else Options(options.precision)
        mixed = dot(own, rows, near)
        mixed = mixed if projection is None else dot(mixed, projection, options)
        out = mixed if out is None else out + mixed
        start += rows.shape[0]
    assert out is not None
    return out


_TRAINABLE = tuple(f"{name}{b}" for b in range(BANDS) for name in ("band", "projection"))


@leaf_kind("banded_rows", trainable=_TRAINABLE, priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BandedRows(Table):
    """A table in bands: row i is row ``slot[i]`` of the bands ``band_b @ projection_b``, one below the other.

    Frequent rows get wide bands, rare ones narrow bands. A band without projection holds its rows in full. Without
    ``slot`` the rows are in the order of the bands (sorted by frequency, most frequent first, as many vocabularies
    are). A tied head projects the data to each band's width and multiplies there.

    Attributes:
        slot: integers, ``stack + (rows,)``; or None: row i is row i of the bands.
        band0 ... band5: float, ``stack + (rows of the band, width)``; arrays, or leaves again. Those not needed are
            None.
        projection0 ... projection5: float, ``stack + (width, dim)``, or None.
    """

    main = "band0"

    slot: jax.Array | None
    band0: ArrayOrLeaf
    projection0: ArrayOrLeaf | None = None
    band1: ArrayOrLeaf | None = None
    projection1: ArrayOrLeaf | None = None
    band2: ArrayOrLeaf | None = None
    projection2: ArrayOrLeaf | None = None
    band3: ArrayOrLeaf | None = None
    projection3: ArrayOrLeaf | None = None
    band4: ArrayOrLeaf | None = None
    projection4: ArrayOrLeaf | None = None
    band5: ArrayOrLeaf | None = None
    projection5: ArrayOrLeaf | None = None

    take = staticmethod(_take)
    head = staticmethod(_head)
    mix = staticmethod(_mix)

    @classmethod
    def create(cls, bands: Sequence[tuple[ArrayOrLeaf, ArrayOrLeaf | None]], slot: jax.Array | None = None) -> Self:
        """Checks the bands.

        Args:
            bands: one to six pairs of rows, float ``stack + (rows of the band, width)``, and their projection, float
                ``stack + (width, dim)``; None where the width is the full one.
            slot: where each row is in the bands, integers ``stack + (rows,)``; None: in their order.

        Raises:
            TypeError: if the bands are not of one float dtype, or ``slot`` is not of integers.
            ValueError: if the shapes do not fit, or a slot is out of range (seen only outside ``jit``).

        Example:
            >>> wide, narrow = jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])
            >>> leaf = BandedRows.create([(wide, None), (narrow, jnp.array([[1.0, -1.0]]))], jnp.array([2, 0, 1]))
            >>> leaf.materialize().tolist()
            [[4.0, -4.0], [1.0, 2.0], [3.0, -3.0]]
        """
        if not 1 <= len(bands) <= BANDS:
            raise ValueError(f"bands must be one to {BANDS}, got {len(bands)}")
        parts = [part for band in bands for part in band if part is not None]
        dtypes = {jnp.dtype(part.dtype) for part in parts}
        if len(dtypes) > 1 or not jnp.issubdtype(parts[0].dtype, jnp.floating):
            raise TypeError(f"bands and projections must be of one float dtype, got {sorted(map(str, dtypes))}")
        rows, dim = 0, (bands[0][0] if bands[0][1] is None else bands[0][1]).shape[-1]
        stack = bands[0][0].shape[:-2]
        for number, (table, projection) in enumerate(bands):
            full = table.shape if projection is None else projection.shape
            fits = min(table.ndim, len(full)) >= 2 and table.shape[:-2] == full[:-2] == stack and full[-1] == dim
            if not fits or (projection is not None and table.shape[-1] != projection.shape[-2]):
                raise ValueError(
                    f"band {number} must have the shape stack + (rows, width) and its projection stack + (width, dim) "
                    f"with the stack {stack} and dim {dim}; got {table.shape} and "
                    f"{None if projection is None else projection.shape}"
                )
            rows += table.shape[-2]
        if slot is not None:
            slot = jnp.asarray(slot)
            if not jnp.issubdtype(slot.dtype, jnp.integer):
                raise TypeError(f"slot must be of integers, got {slot.dtype}")
            if slot.ndim != len(stack) + 1 or slot.shape[:-1] != stack:
                raise ValueError(f"slot must have the shape stack + (rows,) with the stack {stack}, got {slot.shape}")
            if not isinstance(slot, Tracer) and slot.size and not _within(np.asarray(slot), rows):
                raise ValueError(f"slot must be in [0, {rows}), got {int(np.min(slot))} to {int(np.max(slot))}")
        names = {f"band{b}": table for b, (table, _) in enumerate(bands)}
        names |= {f"projection{b}": projection for b, (_, projection) in enumerate(bands)}
        return cls(slot=slot, **names)  # pyright: ignore[reportArgumentType]

    @classmethod
    def init(
        cls,
        key: jax.Array,
        rows: int,
        dim: int,
        *,
        cutoffs: Sequence[int],
        widths: Sequence[int],
        deviation: float | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Random bands to train from, whose rows have entries of standard deviation ``deviation`` (``dim**-0.5``).

        Args:
            key: randomness.
            rows: of the table, sorted by frequency.
            dim: of the table.
            cutoffs: where the second band and the later ones begin.
            widths: one per band, at most ``dim``; a band of that width has no projection.
            deviation: of the entries of a row.
            dtype: of the fields.

        Example:
            >>> leaf = BandedRows.init(jax.random.key(0), 1000, 16, cutoffs=(100, 400), widths=(16, 8, 2))
            >>> leaf.shape, leaf.band2.shape, leaf.projection2.shape
            ((1000, 16), (600, 2), (2, 16))
        """
        deviation = dim**-0.5 if deviation is None else deviation
        sizes = band_sizes(rows, dim, cutoffs, widths)
        bands = []
        for size, width, own in zip(sizes, widths, jax.random.split(key, len(sizes)), strict=True):
            first, second = jax.random.split(own)
            table = jax.random.normal(first, (size, width), dtype) * jnp.asarray(deviation, dtype)
            projection = jax.random.normal(second, (width, dim), dtype) * jnp.asarray(width**-0.5, dtype)
            bands.append((table, None if width == dim else projection))
        return cls.create(bands)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Slots hold the rows; projections, and bands without one, the dimensions."""
        n = self.stack_ndim
        lead = tuple(range(n))
        held: dict[str, tuple[int | None, ...]] = {} if self.slot is None else {"slot": (*lead, n)}
        for b in range(BANDS):
            if getattr(self, f"band{b}") is not None:
                projected = getattr(self, f"projection{b}") is not None
                held[f"band{b}"] = (*lead, None, None if projected else n + 1)
                held |= {f"projection{b}": (*lead, None, n + 1)} if projected else {}
        return held

    def core_shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        rows = sum(table.shape[-2] for b in range(BANDS) if (table := getattr(self, f"band{b}")) is not None)
        last = self.band0 if self.projection0 is None else self.projection0
        return rows if self.slot is None else self.slot.shape[-1], last.shape[-1]

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Rows too, by their slots."""
        if axis != self.stack_ndim or self.slot is None:
            return super().map_axis(axis, fn)
        return self.replace(slot=fn(self.slot, axis))

    def field_bits(self, name: str) -> int:
        """A slot needs as many bits as the number of rows in the bands asks for."""
        if name != "slot":
            return bit_width(getattr(self, name).dtype)
        rows = sum(table.shape[-2] for b in range(BANDS) if (table := getattr(self, f"band{b}")) is not None)
        return (rows - 1).bit_length()


def band_sizes(rows: int, dim: int, cutoffs: Sequence[int], widths: Sequence[int]) -> list[int]:
    """How many rows each band has.

    Raises:
        ValueError: if the cutoffs do not ascend inside the table, or the widths do not fit.

    Example:
        >>> band_sizes(1000, 16, (100, 400), (16, 8, 2))
        [100, 300, 600]
    """
    edges = [0, *cutoffs, rows]
    if any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"cutoffs must ascend between 0 and the {rows} rows, got {tuple(cutoffs)}")
    if len(widths) != len(edges) - 1 or len(widths) > BANDS or not all(1 <= width <= dim for width in widths):
        raise ValueError(
            f"widths must be {len(edges) - 1} integers from 1 to {dim}, one per band (at most {BANDS}), got "
            f"{tuple(widths)}"
        )
    return [b - a for a, b in itertools.pairwise(edges)]


def _within(slots: np.ndarray, rows: int) -> bool:
    return bool(slots.min() >= 0 and slots.max() < rows)
