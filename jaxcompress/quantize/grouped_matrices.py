"""Weights as matrices whose features are sorted by the scale they share, whatever the axes of the array are.

Methods that go from group to group see ``[layers, parts, features, outputs]``: ``parts`` are the groups of a grouped
convolution, and neighbouring features share a scale. Scales are ``[layers, parts, groups, outputs]``, or ``[layers, 1,
1, 1]`` where one serves a whole layer, so that within a layer every function of `jaxcompress.quantize.formats` takes
them as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.moments import Matrices
from jaxcompress.quantize.formats import Scaling


@dataclasses.dataclass(frozen=True)
class GroupedMatrices:
    """A layout with the shape of its scales.

    Attributes:
        layout: of the weight.
        scale_shape: of its scales, as `jaxcompress.core.granularity.scale_shape` gives it.
    """

    layout: Matrices
    scale_shape: tuple[int, ...]

    @property
    def layers(self) -> int:
        """Number of layers of a stack."""
        return self.layout.batch // self.layout.groups

    @property
    def groups(self) -> int:
        """Number of groups of features with scales of their own."""
        return Matrices(self.scale_shape, self.layout.roles).features

    @property
    def shared(self) -> bool:
        """True if all outputs of a layer share their scales."""
        return all(self.scale_shape[axis] == 1 for axis in self.layout.roles.output)

    @property
    def layer_scale_shape(self) -> tuple[int, int, int]:
        """Shape of the scales of a layer: ``(parts, groups, outputs)``."""
        return (1, self.groups, 1) if self.shared else (self.layout.groups, self.groups, self.layout.outputs)

    def order(self) -> np.ndarray:
        """The features sorted by group: entry ``i`` is the place of the ``i``-th one among the layout's."""
        layout = self.layout
        axes = sorted(layout.roles.contracting, key=lambda axis: (axis not in layout.roles.spatial, axis))
        grid = np.arange(self.groups).reshape([self.scale_shape[axis] for axis in axes])
        for position, axis in enumerate(axes):
            grid = np.repeat(grid, layout.shape[axis] // self.scale_shape[axis], position)
        return np.argsort(grid.reshape(-1), kind="stable")

    def split(self, array: jax.Array) -> jax.Array:
        """An array of the weight's shape as ``[layers, parts, features, outputs]``.

        Example:
            >>> from jaxcompress.core.parts import Roles
            >>> view = GroupedMatrices(Matrices((3, 4, 6), Roles((0,), (2,), (1,))), (3, 4, 2))
            >>> view.split(jnp.ones((3, 4, 6))).shape
            (3, 1, 6, 4)
        """
        return self._sorted(self._layers(self.layout.split(array)), 2)

    def split_moment(self, moment: jax.Array) -> jax.Array:
        """A second moment ``[batch, features, features]`` as ``[layers, parts, features, features]``."""
        return self._sorted(self._sorted(self._layers(moment), 2), 3)

    def split_features(self, features: jax.Array) -> jax.Array:
        """A value per layer and feature, ``[layers, features]``, with the features sorted."""
        return self._sorted(features, 1)

    def join(self, matrices: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        restored = matrices if self._is_sorted else jnp.take(matrices, np.argsort(self.order()), axis=2)
        return self.layout.join(restored.reshape(self.layout.batch, *matrices.shape[2:]))

    def join_scaling(self, scaling: Scaling) -> Scaling:
        """The scaling of all layers, along the axes of the weight."""
        zero_point, table = scaling.zero_point, scaling.table
        return Scaling(
            self._join_field(scaling.scale),
            None if zero_point is None else self._join_field(zero_point),
            None if table is None else self._join_table(table),
        )

    def _join_field(self, field: jax.Array) -> jax.Array:
        """``[layers, parts, groups, outputs]`` in the scale's shape."""
        rows = Matrices(self.scale_shape, self.layout.roles, 1 if self.shared else self.layout.groups)
        return rows.join(field.reshape(rows.batch, rows.features, rows.outputs))

    def _join_table(self, table: jax.Array) -> jax.Array:
        """Tables have one more axis, of levels."""
        return jnp.stack([self._join_field(level) for level in jnp.moveaxis(table, -1, 0)], -1)

    @property
    def _is_sorted(self) -> bool:
        order = self.order()
        return bool((order == np.arange(order.size)).all())

    def _layers(self, batch: jax.Array) -> jax.Array:
        return batch.reshape(self.layers, self.layout.groups, *batch.shape[1:])

    def _sorted(self, array: jax.Array, axis: int) -> jax.Array:
        return array if self._is_sorted else jnp.take(array, self.order(), axis=axis)


def same_layers(views: Sequence[GroupedMatrices]) -> bool:
    """True if weights have as many layers and input features as each other, as those that share an input do."""
    return len({(view.layers, view.layout.features, view.layout.groups) for view in views}) == 1
