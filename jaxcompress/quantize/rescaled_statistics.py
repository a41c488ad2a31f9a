"""What `observe` would have found at weights whose inputs are rescaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.observe import Observed
from jaxcompress.quantize.input_channels import of_features

EXTREMES = ("absmax", "min", "max")


def rescaled_statistics(
    stats: Statistics, scales: Mapping[str, tuple[Matrices, jax.Array]]
) -> dict[str, tuple[Observed, ...]]:
    """The extremes of data that are divided by scales before they meet a weight.

    Args:
        stats: of `jaxcompress.observe`.
        scales: by path of the weight: its layout, and positive scales ``[layers, channels]``.

    Returns:
        The sites of these weights with ``absmax``, ``min`` and ``max``, as far as these were observed. Of other
        statistics those of rescaled data do not follow.

    Example:
        >>> from jaxcompress.core.moments import matrices_of
        >>> stats = jc.observe(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 1))}, [jnp.array([[3.0, -2.0]])])
        >>> layout = matrices_of("w", (2, 1), stats, method="example")
        >>> rescaled_statistics(stats, {"w": (layout, jnp.array([[1.0, 0.1]]))})["w"][0]["absmax"].tolist()
        [3.0, 20.0]
    """
    return {
        path: tuple(
            entry if "row_counts" in entry.values else _rescaled(entry, layout, 1 / own) for entry in stats[path]
        )
        for path, (layout, own) in scales.items()
    }


def _rescaled(entry: Observed, layout: Matrices, factor: jax.Array) -> Observed:
    by = _at_site(entry, layout, factor)
    values: dict[str, Any] = {name: jnp.asarray(entry[name]) * by for name in EXTREMES if name in entry.values}
    return dataclasses.replace(entry, values=values)


def _at_site(entry: Observed, layout: Matrices, factor: jax.Array) -> jax.Array:
    """A factor ``[layers, channels]`` as the statistics of a site lie: ``[stack..., 1 for the groups, features]``."""
    features, order = of_features(layout, factor), layout.feature_order()
    if order is not None:
        features = features[:, np.argsort(order)]
    stacked = features.reshape(*(layout.shape[axis] for axis in layout.roles.stack), layout.features)
    picked = dict(entry.picked)
    here = stacked[tuple(picked.get(axis, slice(None)) for axis in layout.roles.stack)]
    left = sorted(entry.stack)
    here = jnp.transpose(here, (*(left.index(axis) for axis in entry.stack), len(left)))
    return jnp.expand_dims(here, len(left)) if np.ndim(entry.count) > len(left) else here
