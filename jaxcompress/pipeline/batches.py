"""Batches for training: drawn from arrays without replacement, or asked of a function, the same in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Batches(Protocol):
    """Where a training loop has its batches from: what to `pick` at a step, and how to `take` that from ``arrays``."""

    arrays: Any

    def pick(self, step: int) -> Any:
        """What `take` needs for the batch of a step, on the host."""
        ...

    def take(self, arrays: Any, pick: Any) -> Any:
        """The batch. Traceable."""
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
        >>> two = [batches.take(batches.arrays, batches.pick(step))["x"] for step in (0, 1)]
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

    def pick(self, step: int) -> np.ndarray:
        """The indices of the examples, ``(batch_size,)``."""
        epoch, batch = divmod(step, self.examples // self.batch_size)
        if epoch not in self._orders:
            order = jax.random.permutation(jax.random.fold_in(self.key, epoch), self.examples)
            self._orders = {epoch: np.asarray(order)}
        return self._orders[epoch][batch * self.batch_size :][: self.batch_size]

    def take(self, arrays: Any, pick: jax.Array) -> Any:
        """The examples at the indices."""
        return jax.tree.map(lambda array: jnp.take(array, pick, axis=0), arrays)


class CalledBatches:
    """Batches that a function returns: ``batch_at(step)``, the same batch for the same step, all of one shape.

    Example:
        >>> CalledBatches(lambda step: {"x": np.full(2, step)}).pick(3)["x"].tolist()
        [3, 3]
    """

    def __init__(self, batch_at: Callable[[int], Any]) -> None:
        self.batch_at = batch_at
        self.arrays = None

    def pick(self, step: int) -> Any:
        """The batch itself."""
        return self.batch_at(step)

    def take(self, arrays: Any, pick: Any) -> Any:
        """The batch as it is."""
        del arrays
        return pick


def batches_of(data: Any, *, batch_size: int, key: jax.Array) -> Batches:
    """`CalledBatches` of a function, `ArrayBatches` of anything else."""
    return CalledBatches(data) if callable(data) else ArrayBatches(data, batch_size=batch_size, key=key)
