"""The diagonal of the empirical Fisher information: mean squared gradients, example by example."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.paths import Where
from jaxcompress.quantize.second_order.diagonal import Diagonal
from jaxcompress.quantize.second_order.differentiable import Arrays, Loss, Objective, objectives, require_finite, wide

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def fisher(
    loss: Loss,
    params: Any,
    batches: Iterable[Any],
    *,
    per: Literal["example", "batch"] = "example",
    chunk: int = 8,
    where: Where = None,
    sites: Sites | None = None,
) -> Diagonal:
    """The mean of the squared gradient of every weight.

    Per example it is the diagonal of the empirical Fisher information (with the labels of the data), which near a
    minimum of a log-likelihood approximates that of the Hessian. Per batch, the noise of examples averages out before
    it is squared: cheaper, and smaller by about the size of a batch.

    Args:
        loss: ``(params, batch) -> scalar``, a function that ``jit`` accepts; with ``per="example"`` it is given batches
            of one.
        params: tree of float arrays or leaves; compressed ones arrive dense. Not changed.
        batches: the data, iterated once. With ``per="example"`` all arrays of a batch share their leading axis.
        per: ``"example"`` or ``"batch"``.
        chunk: how many examples are differentiated side by side; memory grows with it, the result is the same.
        where: leaves: globs over paths or a predicate; by default those that ``sites`` show as contraction weights or
            embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The diagonal by path: a curvature for `sensitivity`, and ``weights=`` of `jaxcompress.cluster.kmeans`.

    Raises:
        ValueError: if ``per`` or ``chunk`` is out of range, there is no batch, ``where`` fits nothing, or a gradient is
            not finite.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> loss = lambda p, x: jnp.mean(x @ p["w"])
        >>> fisher(loss, {"w": jnp.ones((2, 1))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])["w"].tolist()
        [[5.0], [2.0]]

    References:
        Kim et al., 2024 (SqueezeLLM), section 4.1. https://arxiv.org/abs/2306.07629; Theis et al., 2018.
        https://arxiv.org/abs/1801.05787
    """
    if per not in ("example", "batch"):
        raise ValueError(f"fisher: per must be 'example' or 'batch', got {per!r}")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"fisher: chunk must be a positive integer, got {chunk!r}")
    totals: dict[str, jax.Array] = {}
    count = 0
    for number, (objective, weights, arrays, batch) in enumerate(
        objectives(loss, params, batches, where, sites, "fisher")
    ):
        examples = _examples(batch) if per == "example" else None
        squares = _squares(objective, weights, arrays, batch, None if examples is None else min(chunk, examples))
        require_finite(squares, number, "fisher")
        totals = {path: totals[path] + square if number else square for path, square in squares.items()}
        count += examples or 1
    return Diagonal({path: total / count for path, total in totals.items()}, name=f"Fisher information, per {per}")


def _examples(arrays: Sequence[Any]) -> int:
    sizes = {np.shape(array)[:1] for array in arrays}
    if len(sizes) != 1 or not (size := sizes.pop()) or not size[0]:
        raise ValueError(
            "fisher: per='example' needs batches whose arrays share their leading axis; got the shapes "
            f"{[np.shape(array) for array in arrays]}"
        )
    return size[0]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _squares(objective: Objective, weights: Arrays, params: Any, batch: Any, chunk: int | None) -> dict[str, jax.Array]:
    """Sums of squared gradients over the batch."""
    gradient = jax.grad(objective)
    if chunk is None:
        return {path: jnp.square(wide(g)) for path, g in gradient(weights, params, batch).items()}
    size = batch[0].shape[0]
    index = np.arange(-(-size // chunk) * chunk)  # the last chunk is filled up with the last example, which counts once
    rows = jnp.asarray(np.minimum(index, size - 1).reshape(-1, chunk))
    counts = jnp.asarray((index < size).reshape(-1, chunk))

    def add(totals: dict[str, jax.Array], turn: Any) -> tuple[dict[str, jax.Array], None]:
        chosen, counted = turn
        examples = [jnp.take(jnp.asarray(array), chosen, axis=0)[:, None] for array in batch]
        found = jax.vmap(lambda example: gradient(weights, params, example))(examples)
        return {path: totals[path] + _sum_of_squares(wide(g), counted) for path, g in found.items()}, None

    start = {path: jnp.zeros(weight.shape, wide(weight).dtype) for path, weight in weights.items()}
    return lax.scan(add, start, (rows, counts))[0]


def _sum_of_squares(gradients: jax.Array, counted: jax.Array) -> jax.Array:
    kept = counted.reshape(-1, *(1,) * (gradients.ndim - 1))
    return jnp.sum(jnp.where(kept, jnp.square(gradients), jnp.zeros_like(gradients)), axis=0)
