"""A loss as a function of the weights that are asked about, compiled once for a shape of batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxcompress.core.lift import Static, merge_static, split_static
from jaxcompress.core.paths import Where, flatten_with_paths, is_weight, replace_at, select
from jaxcompress.core.tree import materialize

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Loss = Callable[[Any, Any], jax.Array]
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """``loss(params, batch)`` by the chosen weights; hashable, so that a program is compiled for it once.

    Attributes:
        loss: ``(params, batch) -> scalar``.
        params: what of the parameters is no array.
        batch: what of the batch is no array.
    """

    loss: Loss
    params: Static
    batch: Static

    def __call__(self, weights: Arrays, params: Any, batch: Any) -> jax.Array:
        """The loss with ``weights`` in place of the parameters of their paths."""
        (tree,), _ = merge_static(self.params, params)
        (data,), _ = merge_static(self.batch, batch)
        return self.loss(replace_at(tree, dict(weights)), data)


def objectives(
    loss: Loss, params: Any, batches: Iterable[Any], where: Where, sites: Sites | None, method: str
) -> Iterator[tuple[Objective, Arrays, Any, Any]]:
    """For every batch the objective, the weights, the arrays of the parameters, and those of the batch.

    Raises:
        ValueError: if there is no batch, or ``where`` fits nothing.
        TypeError: if a chosen leaf is not float.
    """
    rest = materialize(params)
    known = None if sites is None else frozenset(sites.weights())
    chosen = select(rest, where, default=is_weight if known is None else lambda path, leaf: path in known)
    by_path = dict(zip(*flatten_with_paths(rest)[:2], strict=True))
    for path in chosen:
        if not jnp.issubdtype(by_path[path].dtype, jnp.floating):
            raise TypeError(f"{method}: {path!r} is {by_path[path].dtype}, not float: leave it out of where=")
    weights = {path: jnp.asarray(by_path[path]) for path in chosen}
    static, arrays = split_static(loss, (rest,), {})
    batch = None
    for batch in batches:
        batch_static, batch_arrays = split_static(loss, (batch,), {})
        yield Objective(loss, static, batch_static), weights, arrays, batch_arrays
    if batch is None:
        raise ValueError(f"{method}: batches= gave no batch; there is nothing to differentiate")


def require_finite(found: Mapping[str, Any], number: int, method: str) -> None:
    """Raises ValueError if a result is not; names path and batch."""
    for path, values in found.items():
        if not bool(jnp.isfinite(values).all()):
            raise ValueError(
                f"{method}: what batch {number} gives at {path!r} is not finite: look for NaN or infinity in the data "
                "or in the loss"
            )


def wide(x: jax.Array) -> jax.Array:
    """An array in float32 at least."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
