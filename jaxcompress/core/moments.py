"""What `observe` found at a weight, laid out like the weight: for methods that fit weights to the data they meet.

Such a method sees every weight as a batch of matrices ``[features, outputs]``: contracted axes flattened in their order
(those along which a convolution slides come first, so that neighbours are input features), output axes flattened in
theirs, stack axes and the groups of a grouped convolution as the batch. What an axis means is
known from the observations alone, so that these methods take kernels of any rank without ``sites=``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.observe import Observed
from jaxcompress.core.parts import Roles
from jaxcompress.core.statistics import MERGES

Statistics = Mapping[str, Sequence[Observed]]
_OUTERMOST = {"max": -math.inf, "min": math.inf}


@dataclasses.dataclass(frozen=True)
class Matrices:
    """How an array is read as a batch of matrices from its contracted to its output axes.

    Attributes:
        shape: of the array.
        roles: of its axes.
        groups: of a grouped convolution, whose outputs are split among them in their order; else 1.
    """

    shape: tuple[int, ...]
    roles: Roles
    groups: int = 1

    @property
    def batch(self) -> int:
        """Number of matrices."""
        return self._size(self.roles.stack) * self.groups

    @property
    def features(self) -> int:
        """Rows of a matrix: entries of the contracted axes."""
        return self._size(self.roles.contracting)

    @property
    def outputs(self) -> int:
        """Columns of a matrix: entries of the output axes, of one group."""
        return self._size(self.roles.output) // self.groups

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Sizes of the contracted axes, in the order in which they are flattened."""
        return tuple(self.shape[axis] for axis in self._contracting)

    def split(self, array: jax.Array) -> jax.Array:
        """The array as ``[batch, features, outputs]``.

        Example:
            >>> layout = Matrices((2, 5, 3), Roles(stack=(0,), contracting=(2,), output=(1,)))
            >>> layout.split(jnp.zeros((2, 5, 3))).shape
            (2, 3, 5)
        """
        moved = jnp.transpose(array, self._order).reshape(-1, self.features, self.groups, self.outputs)
        return jnp.swapaxes(moved, 1, 2).reshape(self.batch, self.features, self.outputs)

    def join(self, matrices: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        grouped = matrices.reshape(-1, self.groups, self.features, self.outputs)
        moved = jnp.swapaxes(grouped, 1, 2).reshape(tuple(self.shape[axis] for axis in self._order))
        return jnp.transpose(moved, np.argsort(self._order).tolist())

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.roles.stack, *self._contracting, *self.roles.output)

    @property
    def _contracting(self) -> tuple[int, ...]:
        """The contracted axes with those of a sliding window first."""
        return tuple(sorted(self.roles.contracting, key=lambda axis: (axis not in self.roles.spatial, axis)))

    def feature_order(self) -> np.ndarray | None:
        """For each row of a matrix its place among the features as observed; None where that is the same."""
        observed = self.roles.contracting  # in the order of the axes
        if self._contracting == observed:
            return None
        places = np.arange(self.features).reshape([self.shape[axis] for axis in observed])
        return places.transpose([observed.index(axis) for axis in self._contracting]).reshape(-1)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)


def observed_paths(stats: Statistics, name: str) -> tuple[str, ...]:
    """Paths of the leaves at which a statistic was observed."""
    return tuple(path for path in stats if any(name in entry.values for entry in stats[path]))


def matrices_of(path: str, shape: Sequence[int], stats: Statistics, *, method: str) -> Matrices:
    """How a weight is read as matrices, by the sites at which it was observed.

    Raises:
        ValueError: if it was not observed in a contraction, or is contracted along different axes at different sites.
    """
    entries = _contractions(path, stats, method)
    first = entries[0]
    if any(entry.contracting != first.contracting for entry in entries):
        raise ValueError(
            f"{method}: {path!r} is contracted along different axes at {[(e.source, e.contracting) for e in entries]}: "
            "leave it out with where="
        )
    stacks = {tuple(sorted({*entry.stack, *entry.picked} - {*entry.contracting})) for entry in entries}
    groups = {entry.count.shape[len(entry.stack) :] for entry in entries}
    if len(stacks) > 1 or len(groups) > 1:
        raise ValueError(f"{method}: {path!r} is stacked differently at its sites: leave it out with where=")
    (stack,), (group,) = stacks, groups
    output = tuple(axis for axis in range(len(shape)) if axis not in {*stack, *first.contracting})
    return Matrices(tuple(shape), Roles(stack, first.contracting, output, first.spatial), math.prod(group))


def statistic_of(path: str, layout: Matrices, stats: Statistics, name: str, *, method: str) -> jax.Array:
    """A statistic of the rows that met each matrix of a weight: ``[batch, features, ...]``.

    Sites that share a matrix (a tied weight, a layer called twice) are merged: means (``mean``, ``second_moment``) are
    averaged by the rows they saw, of extremes (``absmax``, ``min``, ``max``) the outermost counts.

    Raises:
        ValueError: if the statistic was not observed, belongs to only a part of the contracted axes, or to a layer of
            the stack that is not known; or if a layer met no data.
    """
    sizes = tuple(layout.shape[axis] for axis in layout.roles.stack)
    rows, found = np.zeros((*sizes, layout.groups), np.int64), []
    for entry in _contractions(path, stats, method):
        value, count = _in_order(path, entry, layout, name, method)
        at = _position(path, entry, layout, method)
        rows[at] += count
        found.append((at, value, count))
    if (rows == 0).any():
        missing = np.argwhere(rows == 0)[0][: len(sizes)].tolist()
        raise ValueError(f"{method}: no data met layer {missing} of {path!r} while it was observed")
    (_, value, count), *others = found
    merged, order = _merged(found, rows, MERGES[name]) if others else value, layout.feature_order()
    merged = merged.reshape(layout.batch, *value.shape[count.ndim :])
    if order is not None:
        for axis in range(1, merged.ndim):
            merged = jnp.take(merged, order, axis=axis)
    return merged


def _merged(found: Sequence[tuple[Any, jax.Array, np.ndarray]], rows: np.ndarray, how: str) -> jax.Array:
    """Statistics of several sites, each with its place in the stack and its counts of rows."""
    features = found[0][1].shape[found[0][2].ndim :]
    total = jnp.full((*rows.shape, *features), _OUTERMOST.get(how, 0), jnp.float32)
    for at, value, count in found:
        weight = jnp.asarray(count, jnp.float32).reshape(count.shape + (1,) * len(features))
        if how in _OUTERMOST:
            value = jnp.where(weight > 0, value, jnp.full((), _OUTERMOST[how], value.dtype))
            total = total.at[at].max(value) if how == "max" else total.at[at].min(value)
        else:
            total = total.at[at].add(value * weight)
    if how in _OUTERMOST:
        return total
    return total / jnp.asarray(rows, jnp.float32).reshape(rows.shape + (1,) * len(features))


def _contractions(path: str, stats: Statistics, method: str) -> list[Observed]:
    """The sites of a leaf at which it is contracted (a lookup meets indices, not data)."""
    entries = [entry for entry in stats[path] if "row_counts" not in entry.values] if path in stats else []
    if not entries:
        raise ValueError(
            f"{method}: {path!r} was not observed in a contraction. Observed were {list(stats)}: observe it too, or "
            "leave it out with where="
        )
    return entries


def _in_order(path: str, entry: Observed, layout: Matrices, name: str, method: str) -> tuple[jax.Array, np.ndarray]:
    """A statistic and its counts with the stack axes in the order of the layout, and an axis of groups after them."""
    if name not in entry.values:
        raise ValueError(f"{method}: needs what={name!r}, and at {path!r} {sorted(entry.values)} were observed")
    value, count = jnp.asarray(entry[name]), np.asarray(entry.count)
    if value.shape[count.ndim] != layout.features:
        raise ValueError(
            f"{method}: only a part of {path!r} is contracted at {entry.source} ({value.shape[count.ndim]} of "
            f"{layout.features} features): leave it out with where="
        )
    order = tuple(int(i) for i in np.argsort(entry.stack))
    rest = tuple(range(len(order), count.ndim))
    value = jnp.transpose(value, (*order, *range(len(order), value.ndim)))
    count = np.transpose(count, (*order, *rest))
    if len(rest) == 0:
        value, count = jnp.expand_dims(value, count.ndim), np.expand_dims(count, count.ndim)
    return value, count


def _position(path: str, entry: Observed, layout: Matrices, method: str) -> tuple[int | slice, ...]:
    """Where in the stack the data of one site belong."""
    unknown = [axis for axis, index in entry.picked.items() if index is None]
    if unknown:
        raise ValueError(
            f"{method}: which index along axis {unknown[0]} of {path!r} is used at {entry.source} is not known: pick "
            "layers by constant indices, scan over them, or hold them as separate leaves"
        )
    picked: dict[int, int | None] = dict(entry.picked)
    indices = [picked.get(axis) for axis in layout.roles.stack]
    return tuple(slice(None) if index is None else index for index in indices)
