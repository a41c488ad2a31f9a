"""The input that each weight multiplies: its mean square, from what `jaxcompress.observe` saw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.moments import Statistics, matrices_of, statistic_of


def mean_square_inputs(path: str, shape: tuple[int, ...], stats: Statistics, method: str) -> jax.Array:
    """Mean square of the input feature that every weight multiplies, over all rows at all sites of a leaf.

    A row is what one product saw: an example, a token, a patch under a kernel. A lookup is a product with a one-hot
    row, so that its mean squares are the frequencies of the indices.

    Args:
        path: of the leaf.
        shape: its dense shape.
        stats: what `jaxcompress.observe` gathered, with ``second_moment``.
        method: name for errors.

    Returns:
        float32, of the shape of the leaf.

    Raises:
        ValueError: if nothing was observed of the leaf, or not what its axes need.
    """
    seen = stats.get(path, ())
    if seen and all("row_counts" in entry.values for entry in seen):
        return _frequencies(path, shape, stats, method)
    layout = matrices_of(path, shape, stats, method=method)
    moment = statistic_of(path, layout, stats, "second_moment", method=method)
    squares = jnp.diagonal(moment, axis1=1, axis2=2)[:, :, None]  # [batch, features, 1]
    return layout.join(jnp.broadcast_to(squares, (layout.batch, layout.features, layout.outputs)))


def _frequencies(path: str, shape: tuple[int, ...], stats: Statistics, method: str) -> jax.Array:
    entries = stats[path]
    axes = {entry.contracting for entry in entries}
    if len(axes) > 1 or any(entry.stack or entry.picked for entry in entries):
        raise ValueError(f"{method}: {path!r} is looked up along several axes, or stacked: leave it out with where=")
    ((axis,),) = axes
    counts = np.sum([np.asarray(entry["row_counts"], np.float64) for entry in entries], axis=0)
    frequency = np.expand_dims(counts / counts.sum(), [other for other in range(len(shape)) if other != axis])
    return jnp.broadcast_to(jnp.asarray(frequency, jnp.float32), shape)
