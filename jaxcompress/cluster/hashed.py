"""The leaf kind of HashedNets: an array whose entries share a few values, chosen by a hash of their place."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.cluster.xxhash import bucket_of, sign_of
from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, dense, leaf_kind
from jaxcompress.core.roles import Roles

Axes = tuple[tuple[int, ...], tuple[int, ...]]
BLOCK = 2**18  # most virtual weights that a product holds at once, but for one slice of the widest free axis


@leaf_kind("hashed", trainable=("values",), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Hashed(CompressedArray):
    """An array with ``w[i, j] = sign(i, j) * values[bucket(i, j)]``: ``buckets`` floats and a seed are all it holds.

    The bucket and the sign are two independent hashes (XXH32) of the place: ``i`` counts the first core axis, ``j`` the
    others flattened. The gradient of a value is the sum of the signed gradients of the weights that share it. Products
    build the virtual array block by block, backwards too. The layers of a stack share one hash and have values of their
    own.

    Attributes:
        values: float, the stack axes followed by the buckets; an array, or a leaf again (int8 values).
        core_shape: the dense shape without the stack axes.
        seed: of both hashes.
    """

    values: ArrayOrLeaf
    core_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    free = True

    @classmethod
    def create(cls, values: ArrayOrLeaf, core_shape: Sequence[int], seed: int = 0) -> Self:
        """Checks the fields.

        Args:
            values: float, ``stack + (buckets,)``.
            core_shape: dense shape without the stack axes, static.
            seed: of the hashes, ``0 <= seed < 2**32``, static.

        Raises:
            TypeError: if the values are not float.
            ValueError: if there is no bucket, an axis is missing or too long to be hashed, or the seed is out of range.

        Example:
            >>> leaf = Hashed.create(jnp.array([1.0, 2.0]), (2, 3))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[2.0, -1.0, -2.0], [2.0, -2.0, 2.0]], 64)
        """
        core = tuple(int(size) for size in core_shape)
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise TypeError(f"values must be float, got {values.dtype}")
        if not values.shape or not values.shape[-1]:
            raise ValueError(f"values must have the shape (stack axes, buckets) with a bucket, got {values.shape}")
        if not core or core[0] >= 2**32 or math.prod(core[1:]) >= 2**32:
            raise ValueError(f"core_shape must have an axis, and fewer than 2**32 rows and columns, got {core}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {seed}")
        return cls(values if isinstance(values, CompressedArray) else jnp.asarray(values), core, int(seed))

    @classmethod
    def init(
        cls,
        key: jax.Array,
        shape: Sequence[int],
        *,
        buckets: int,
        stack_ndim: int = 0,
        fan_in: int | None = None,
        scale: float = 1.0,
        seed: int = 0,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Random values to train from.

        A virtual weight has the variance of its bucket, and signs make products of different weights uncorrelated, so
        that buckets of variance ``scale / fan_in`` give the layer the outputs that a dense one of this initialization
        has.

        Args:
            key: randomness.
            shape: dense shape, stack axes first.
            buckets: number of values per layer of the stack.
            stack_ndim: number of leading axes that hold separate layers.
            fan_in: number of weights that meet in one output; by default all core axes but the last.
            scale: 1 (LeCun), 2 before a ReLU (He).
            seed: of the hashes.
            dtype: of the values.

        Example:
            >>> leaf = Hashed.init(jax.random.key(0), (300, 100), buckets=3000)
            >>> leaf.shape, bool(abs(leaf.materialize().std() * 300**0.5 - 1) < 0.05)
            ((300, 100), True)
        """
        stack, core = tuple(shape[:stack_ndim]), tuple(shape[stack_ndim:])
        fan_in = math.prod(core[:-1]) if fan_in is None else fan_in
        if buckets < 1 or fan_in < 1 or not scale > 0:
            raise ValueError(f"buckets, fan_in and scale must be positive, got {buckets}, {fan_in} and {scale}")
        deviation = jnp.asarray(math.sqrt(scale / fan_in), dtype)
        return cls.create(jax.random.normal(key, (*stack, buckets), dtype) * deviation, core, seed)

    @classmethod
    def fit(
        cls, w: jax.Array, *, buckets: int, stack_ndim: int = 0, seed: int = 0, weights: jax.Array | None = None
    ) -> Self:
        """The leaf nearest to an array in the (weighted) squared error; see `bucket_means`."""
        flat = w.reshape(-1, *w.shape[stack_ndim:])
        mass = None if weights is None else weights.reshape(flat.shape)
        means = jax.vmap(lambda w, mass: bucket_means(w, buckets=buckets, seed=seed, weights=mass))(flat, mass)
        return cls.create(means.reshape(*w.shape[:stack_ndim], buckets), w.shape[stack_ndim:], seed)

    @property
    def buckets(self) -> int:
        """Number of values of one layer."""
        return self.values.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Stack axes, then the core's."""
        return (*self.values.shape[:-1], *self.core_shape)

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the values."""
        return self.values.dtype

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate layers."""
        return len(self.values.shape) - 1

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The values hold the stack axes; buckets run along none."""
        return {"values": (*range(self.stack_ndim), None)}

    def field_roles(self, name: str, roles: Roles) -> Roles:
        """The buckets are entries of one layer without an order: a scale for them all, or for groups of them."""
        return Roles(tuple(range(self.stack_ndim)), (self.stack_ndim,), ())

    def astype(self, dtype: Any) -> Self | None:
        """The same hashes of values in another dtype."""
        values = self.values.astype(dtype)
        return None if values is None else self.replace(values=values)

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Stack axes alone: no slice of the values gives a slice of a layer."""
        return super().map_axis(axis, fn) if axis < self.stack_ndim else None

    def materialize(self) -> jax.Array:
        """The virtual array."""
        return self._taken(0, jnp.arange(self.core_shape[0]))

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array | None:
        """The entries at some indices of a core axis; no others are hashed."""
        core = axis - self.stack_ndim
        return self._taken(core, jnp.clip(indices, 0, self.core_shape[core] - 1)) if core >= 0 else None

    def _taken(self, core_axis: int, indices: jax.Array) -> jax.Array:
        return _virtual(dense(self.values), indices, axis=core_axis, shape=self.core_shape, seed=self.seed)

    # Products ---------------------------------------------------------------------------------------------------

    def matmul(
        self, x: jax.Array, *, contract: Axes, batch: Axes, precision: Any = None, preferred_element_type: Any = None
    ) -> jax.Array | None:
        """A product block by block along the widest free core axis; without one that has to be cut, a dense product."""
        if x.dtype != self.dtype:
            return None
        options = {"precision": precision, "preferred_element_type": preferred_element_type}
        axis, blocks = self._blocks(contract[1], batch[1])
        if blocks == 1:
            return lax.dot_general(x, self.materialize(), (contract, batch), **options)
        core = axis - self.stack_ndim
        length = self.core_shape[core]
        width = -(-length // blocks)

        @jax.checkpoint  # backwards the block is hashed again instead of kept
        def product(first: jax.Array) -> jax.Array:
            block = self._taken(core, jnp.minimum(first + jnp.arange(width), length - 1))
            return lax.dot_general(x, block, (contract, batch), **options)

        out = lax.map(product, jnp.arange(blocks) * width)
        free = [a for a in range(self.ndim) if a not in {*contract[1], *batch[1]}]
        at = out.ndim - 1 - len(free) + free.index(axis)
        out = jnp.moveaxis(out, 0, at)
        out = out.reshape(*out.shape[:at], blocks * width, *out.shape[at + 2 :])
        return lax.slice_in_dim(out, 0, length, axis=at)

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """In how many blocks the virtual array is built."""
        del x
        axis, blocks = self._blocks(contract[1], batch[1])
        if blocks == 1:
            return f"hashed matmul, its {self.size:,} virtual weights at once"
        held = self.size // self.shape[axis] * -(-self.shape[axis] // blocks)
        return f"hashed matmul, its virtual weights in {blocks} blocks of {held:,}"

    def _blocks(self, contract: Sequence[int], batch: Sequence[int]) -> tuple[int, int]:
        """The axis to cut and into how many blocks; one block where nothing has to be, or can be, cut."""
        free = [axis for axis in range(self.stack_ndim, self.ndim) if axis not in {*contract, *batch}]
        if not free or self.size <= BLOCK:
            return 0, 1
        axis = max(free, key=lambda axis: self.shape[axis])
        width = max(1, BLOCK * self.shape[axis] // self.size)
        return axis, -(-self.shape[axis] // width)


@functools.partial(jax.jit, static_argnames=("buckets", "seed"))
def bucket_means(w: jax.Array, *, buckets: int, seed: int = 0, weights: jax.Array | None = None) -> jax.Array:
    """The values of the nearest `Hashed` array: the signed (weighted) mean of the entries of each bucket.

    The squared error is a sum over buckets of ``sum(weights * (w - sign * value)**2)``, and each term is least at the
    weighted mean of ``sign * w``.

    Args:
        w: float array, one layer.
        buckets: number of values, static.
        seed: of the hashes, static.
        weights: how much each entry counts, not negative; None: all the same. A bucket that nothing falls into, or
            nothing that counts, is zero.

    Returns:
        ``[buckets]``, in the dtype of ``w``, summed in float32 or wider.

    Example:
        >>> w = Hashed(jnp.array([1.0, 2.5]), (2, 3)).materialize()
        >>> bucket_means(w, buckets=2).tolist()
        [1.0, 2.5]
    """
    words = _places(w.shape, 0, jnp.arange(w.shape[0]), w.shape)
    work = wider(w.dtype, jnp.float32)
    signed = w.astype(work) * sign_of(words, seed, work)
    mass = jnp.ones(w.shape, work) if weights is None else weights.astype(work)
    bucket = bucket_of(words, buckets, seed)
    none = jnp.zeros((buckets,), work)
    total, count = none.at[bucket].add(mass * signed), none.at[bucket].add(mass)
    some = count > none
    return jnp.where(some, total / jnp.where(some, count, jnp.ones_like(count)), none).astype(w.dtype)


@functools.partial(jax.jit, static_argnames=("axis", "shape", "seed"))
def _virtual(values: jax.Array, indices: jax.Array, *, axis: int, shape: tuple[int, ...], seed: int) -> jax.Array:
    """The virtual arrays of values ``stack + (buckets,)``, at some indices of one core axis."""
    words = _places(_replaced(shape, axis, indices.shape[0]), axis, indices, shape)
    shared = jnp.take(values, bucket_of(words, values.shape[-1], seed), axis=-1, mode="clip")
    sign = sign_of(words, seed, values.dtype)
    return shared * sign.reshape((1,) * (values.ndim - 1) + sign.shape)


def _replaced(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _places(sizes: Sequence[int], axis: int, indices: jax.Array, shape: Sequence[int]) -> list[jax.Array]:
    """The two words that are hashed, for an array of ``sizes``: ``indices`` along one axis, all of the others."""

    def along(a: int) -> jax.Array:
        index = (indices if a == axis else jnp.arange(sizes[a])).astype(jnp.uint32)
        return lax.broadcast_in_dim(index, tuple(sizes), (a,))

    column = jnp.zeros(tuple(sizes), jnp.uint32)
    for a in range(1, len(sizes)):
        column = column * jnp.uint32(shape[a]) + along(a)
    return [along(0), column]
