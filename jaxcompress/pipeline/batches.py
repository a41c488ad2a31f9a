"""Batches for training: drawn from arrays without replacement, or asked of a function, the same in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Batches(Protocol):
    """Where a training loop has its batches from: ``arrays`` and, for each step, what to ``pick`` from them."""

    arrays: Any

    def picks(self, first: int, steps: int) -> Any:
        """What `pick` needs for the steps ``first .. first + steps - 1``, stacked along a leading axis on the host."""
        ...

    def pick(self, arrays: Any, one: Any) -> Any:
        """The batch of one step. Traceable."""
        ...


class ArrayBatches:
    """Batches of a data set that is held as arrays: every epoch in a new order, each example at most once in it.

    The last ``n % batch_size`` examples of an order are left out. Batch ``i`` depends on the key and ``i`` alone, so
    that a run can go on from any step.

    Args:
        data: pytree of arrays with one leading axis of ``n`` examples.
        batch_size: examples in a batch; ``n`` at most are taken.
        key: orders the examples.

    Raises:
        ValueError: if the leading axes differ, there is no example, or a float array holds NaN or infinity.

    Example:
        >>> batches = ArrayBatches({"x": jnp.arange(4)}, batch_size=2, key=jax.random.key(0))
        >>> two = [batches.pick(batches.arrays, one)["x"] for one in batches.picks(0, 2)]
        >>> sorted(np.concatenate(two).tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, data: Any, *, batch_size: int, key: jax.Array) -> None:
        leaves = jax.tree.leaves(data)
        sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"data must be arrays with one common leading axis of examples, got sizes {sorted(sizes)}")
        self.arrays = jax.tree.map(jnp.asarray, data)
        self.examples = sizes.pop()
        self.batch_size = min(batch_size, self.examples)
        self.key = key
        self._orders: dict[int, np.ndarray] = {}

    def picks(self, first: int, steps: int) -> np.ndarray:
        """The indices of each batch, ``(steps, batch_size)``."""
        return np.stack([self._indices(step) for step in range(first, first + steps)])

    def pick(self, arrays: Any, one: jax.Array) -> Any:
        """The examples at the indices ``one``."""
        return jax.tree.map(lambda array: jnp.take(array, one, axis=0), arrays)

    def _indices(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self.examples // self.batch_size)
        if epoch not in self._orders:
            order = jax.random.permutation(jax.random.fold_in(self.key, epoch), self.examples)
            self._orders = {epoch: np.asarray(order)}
        return self._orders[epoch][batch * self.batch_size :][: self.batch_size]


class CalledBatches:
    """Batches that a function returns: ``batch_at(step)``, the same batch for the same step, all of one shape.

    Example:
        >>> batches = CalledBatches(lambda step: {"x": np.full(2, step)})
        >>> [one.tolist() for one in batches.picks(3, 2)["x"]]
        [[3, 3], [4, 4]]
    """

    def __init__(self, batch_at: Callable[[int], Any]) -> None:
        self.batch_at = batch_at
        self.arrays = None

    def picks(self, first: int, steps: int) -> Any:
        """The batches themselves, stacked."""
        return jax.tree.map(lambda *arrays: np.stack(arrays), *(self.batch_at(s) for s in range(first, first + steps)))

    def pick(self, arrays: Any, one: Any) -> Any:
        """The batch as it is."""
        del arrays
        return one


def batches_of(data: Any, *, batch_size: int, key: jax.Array) -> Batches:
    """`CalledBatches` of a function, `ArrayBatches` of anything else."""
    return CalledBatches(data) if callable(data) else ArrayBatches(data, batch_size=batch_size, key=key)
