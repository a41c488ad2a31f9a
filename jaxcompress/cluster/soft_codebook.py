"""The leaf kind of weights that train while they are drawn to a few shared values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.cluster.codebook import Codebook
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.core.leaf import CompressedArray, FieldOp, dense, leaf_kind
from jaxcompress.solvers.blocks import from_blocks, to_blocks
from jaxcompress.solvers.rows import from_rows, rows_of
from jaxcompress.solvers.soft_kmeans import nearest_error, soft_kmeans, soft_values
from jaxcompress.solvers.units import unit_of
from jaxcompress.solvers.vector_kmeans import nearest_vectors


@leaf_kind("dkm", trainable=("values", "codebook", "temperature"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SoftCodebook(CompressedArray):
    """Float weights that act as mixtures of the centroids of a soft k-means of themselves (DKM).

    Wherever the leaf is used, the centroids are found from the weights as they are, from `codebook` on, and each weight
    (or block of weights) is replaced by the mean of the centroids under its attention to them: the loss sees nearly
    clustered weights, and its gradient moves each weight towards the centroid that serves the loss. All of it is
    differentiable. `jaxcompress.cluster.snap` makes the table and the codes that it has come to.

    Attributes:
        values: the float weights that train.
        codebook: where the iteration starts; laid out as in `ProductCodebook`. It trains with the weights.
        temperature: of the attention, one for each table, in units of the mean squared distance to the nearest entry of
            the codebook: well below 1 it is a hard assignment. Its gradient is zero.
        counts: bool, where pruned weights are left out; absent where all count.
        block: length of a block along each axis that is no stack axis; ones for shared scalars.
        iterations: steps of soft k-means in each use.
        dtype: dtype of the dense array.

    References:
        Cho et al., 2022, section 3. https://arxiv.org/abs/2108.12659
    """

    sealed = "a weight in training: snap it first (jc.cluster.snap), or leave it out of where="

    values: jax.Array
    codebook: jax.Array
    temperature: jax.Array
    counts: jax.Array | None = None
    block: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    iterations: int = dataclasses.field(default=5, metadata={"static": True})
    dtype: np.dtype = dataclasses.field(default=np.dtype("float32"), metadata={"static": True})

    @property
    def levels(self) -> int:
        """Number of entries of a table."""
        return self.codebook.shape[-2]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of a block along every dense axis: 1 along the stack."""
        return (*(1,) * (len(self.values.shape) - len(self.block)), *self.block)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """All fields run along the dense axes; levels and entries are the tables' own."""
        axes = tuple(range(len(self.values.shape)))
        held = {"values": axes, "codebook": (*axes, None, None), "temperature": axes}
        return held if self.counts is None else {**held, "counts": axes}

    def divides(self, axis: int) -> bool:
        """Along axes each index of which has a table of its own: elsewhere the centroids follow from all values."""
        return self.codebook.shape[axis] == self.values.shape[axis] and self.lengths[axis] == 1

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """Of stack axes; the others are axes of `block`."""
        return super().axis_positions(axis) if axis < len(self.values.shape) - len(self.block) else None

    def move_to_front(self, axis: int) -> Self | None:
        """Of axes that divide, which become axes of the stack."""
        if not self.divides(axis):
            return None
        at = axis - (len(self.values.shape) - len(self.block))
        moved = {name: jnp.moveaxis(dense(field), axis, 0) for name, field in self.components().items()}
        return self.replace(**moved, block=self.block if at < 0 else self.block[:at] + self.block[at + 1 :])

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Along axes that divide."""
        return super().map_axis(axis, fn) if self.divides(axis) else None

    def materialize(self) -> jax.Array:
        """The weights as mixtures of the centroids."""
        return _mixtures(self)

    def settled(self) -> Self:
        """The leaf whose iteration starts where it ends now."""
        return self.replace(codebook=_settled(self).reshape(self.codebook.shape).astype(self.codebook.dtype))

    def coded(self) -> CompressedArray:
        """The centroids as a table, and for each weight or block the code of the nearest."""
        codes, centroids = _coded(self)
        sizes = self.codebook.shape[:-2]
        places = tuple(size // length for size, length in zip(self.values.shape, self.lengths, strict=True))
        codes = from_rows(codes, places, sizes).astype(jnp.uint8 if self.levels <= 256 else jnp.uint16)
        table = centroids.reshape(self.codebook.shape).astype(self.codebook.dtype)
        if any(length != 1 for length in self.block):
            return ProductCodebook(codes, table, self.block, self.dtype)
        stack = len(self.values.shape) - len(self.block)
        one = all(size == 1 for size in sizes[stack:])
        return Codebook(codes, table.reshape(*(sizes[:stack] if one else sizes), self.levels), self.dtype)

    def astype(self, dtype: Any) -> Self:
        """The same weights and tables with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def _centroids(self, x: jax.Array, counts: jax.Array | None, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``[tables, levels, d]``, and the temperatures in squared distances; both in units of the table."""
        start = self.codebook.reshape(len(x), *self.codebook.shape[-2:]).astype(x.dtype) / unit

        def of_table(x: jax.Array, start: jax.Array, relative: jax.Array, counts: jax.Array | None) -> Any:
            unit = nearest_error(lax.stop_gradient(x), lax.stop_gradient(start), weights=counts)
            least = 1e-6 * jnp.mean(jnp.square(lax.stop_gradient(x))) + jnp.finfo(x.dtype).tiny  # a table that is met
            temperature = lax.stop_gradient(relative) * jnp.maximum(unit, least)
            options = {"temperature": temperature, "iterations": self.iterations}
            return soft_kmeans(x, start, weights=counts, **options), temperature

        return jax.vmap(of_table)(x, start, self.temperature.reshape(len(x)).astype(x.dtype), counts)

    def _rows(self) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """The blocks under each table ``[tables, blocks, d]``, which of their entries count, and the tables' units."""
        wide = self.values.astype(jnp.float64 if self.values.dtype == jnp.float64 else jnp.float32)
        counts = None if self.counts is None else self._of_tables(self.counts).astype(wide.dtype)
        x = self._of_tables(wide)
        x = x if counts is None else jnp.where(counts > 0, x, 0)
        unit = jax.vmap(unit_of)(x)[:, None, None]
        return x / unit, counts, unit

    def _of_tables(self, array: jax.Array) -> jax.Array:
        blocks = to_blocks(array, self.lengths)
        return jax.vmap(lambda entry: rows_of(entry, self.codebook.shape[:-2]), in_axes=-1, out_axes=-1)(blocks)

    def _placed(self, rows: jax.Array) -> jax.Array:
        places = tuple(size // length for size, length in zip(self.values.shape, self.lengths, strict=True))
        return from_blocks(from_rows(rows, places, self.codebook.shape[:-2]), self.lengths)


@jax.jit
def _mixtures(leaf: SoftCodebook) -> jax.Array:
    x, counts, unit = leaf._rows()
    found = leaf._centroids(x, counts, unit)
    soft = jax.vmap(lambda x, c, t, w: soft_values(x, c, temperature=t, weights=w))(x, *found, counts)
    return leaf._placed(soft * unit).astype(leaf.dtype)


@jax.jit
def _settled(leaf: SoftCodebook) -> jax.Array:
    x, counts, unit = leaf._rows()
    return leaf._centroids(x, counts, unit)[0] * unit


@jax.jit
def _coded(leaf: SoftCodebook) -> tuple[jax.Array, jax.Array]:
    """Codes ``[tables, blocks]`` and centroids."""
    x, counts, unit = leaf._rows()
    centroids, _ = leaf._centroids(x, counts, unit)
    centroids = (centroids * unit).astype(leaf.codebook.dtype)
    stored = centroids.astype(x.dtype) / unit
    return jax.vmap(lambda x, c, w: nearest_vectors(x, c, weights=w))(x, stored, counts), centroids
