"""Executors on one device: a loop in Python, a loop in the program, chunks, everything side by side.

`Loop`, `Map` and `Sharded` give the same bits, because they run the same loop around the same body: a `while` whose
number of rounds the compiler does not know, so that it never unrolls a short one. `Vmap` and `Chunked` compute the same
numbers in other orders (a batched product sums differently) and agree up to rounding only.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.search.executors.executor import Executor, One, Population, length


@dataclasses.dataclass(frozen=True)
class Map(Executor):
    """One candidate after another inside of one program: a loop over the first ``count`` of them."""

    def population(self, one: One) -> Population:
        """See `Executor`."""
        return lambda items, count, shared: one_by_one(one, items, count, shared)


@dataclasses.dataclass(frozen=True)
class Vmap(Executor):
    """All candidates side by side: `jax.vmap`. Fast where one candidate does not fill the device, and hungry."""

    def population(self, one: One) -> Population:
        """See `Executor`."""
        return lambda items, count, shared: jax.vmap(one, in_axes=(0, None))(items, shared)


@dataclasses.dataclass(frozen=True)
class Chunked(Executor):
    """Chunks of candidates one after another, those of a chunk side by side: the memory of ``size`` candidates.

    Not `lax.map` with ``batch_size``, of which a wrong result on GPUs has been reported (jax issue 27591).

    Args:
        size: candidates in a chunk. The last one is filled up with copies.

    Raises:
        ValueError: for a size that is no positive int.
    """

    size: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"Chunked(size=) must be a positive int, got {self.size!r}")

    def population(self, one: One) -> Population:
        """See `Executor`."""

        def chunks(items: Any, count: Any, shared: Any) -> Any:
            n = length(items)
            size = min(self.size, n)
            places = filled_up(n, -(-n // size) * size).reshape(-1, size)
            together = jax.vmap(one, in_axes=(0, None))
            results = one_by_one(together, jax.tree.map(lambda x: x[places], items), -(-count // size), shared)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], results)

        return chunks


@dataclasses.dataclass(frozen=True)
class Loop(Executor):
    """One candidate after another, a call of a program for each: can be interrupted between any two of them."""

    traced = False

    def population(self, one: One) -> Population:
        """See `Executor`."""

        @jax.jit
        def single(items: Any, count: jax.Array, shared: Any) -> Any:
            return one_by_one(one, items, count, shared)

        def loop(items: Any, count: Any, shared: Any) -> Any:
            n = length(items)
            singles = [jax.tree.map(partial(_only, i), items) for i in range(int(count))]
            done = [jax.device_get(single(item, np.int32(1), shared)) for item in singles]
            shapes = jax.eval_shape(single, jax.tree.map(partial(_only, 0), items), np.int32(1), shared)
            rest = jax.tree.map(lambda x: np.zeros((n - len(done), *x.shape[1:]), x.dtype), shapes)
            return jax.tree.map(lambda *parts: np.concatenate(parts), *done, rest)

        return loop


def one_by_one(one: One, items: Any, count: Any, shared: Any) -> Any:
    """Results of the first ``count`` items by a loop, zeros for the rest.

    The barrier hides a constant ``count`` from the compiler: it would unroll a loop of one round, fuse its body with
    what is around, and round differently.
    """
    n = length(items)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], items), shared)
    nothing = jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), shapes)

    def body(i: jax.Array, results: Any) -> Any:
        item = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), items)
        return jax.tree.map(lambda rows, row: rows.at[i].set(row), results, one(item, shared))

    return lax.fori_loop(0, lax.optimization_barrier(jnp.asarray(count, jnp.int32)), body, nothing)


def filled_up(n: int, to: int) -> jax.Array:
    """Places of ``n`` items and of as many copies of the last one as are missing.

    Example:
        >>> filled_up(3, 5).tolist()
        [0, 1, 2, 2, 2]
    """
    return jnp.minimum(jnp.arange(to), n - 1)


def _only(i: int, array: Any) -> Any:
    return array[i : i + 1]
