"""What a subnet costs, as a function of runtime counts: products of lengths that follow what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width
from jaxcompress.core.groups import Groups
from jaxcompress.search.supernet.units import Units

Lengths = tuple[int, tuple[tuple[int, int], ...]]
"""A length: what is fixed, and (set, indices that each of its units owns)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """A weighted sum of products of lengths.

    Attributes:
        fixed: float32 ``[lengths]``.
        per_unit: float32 ``[lengths, sets]``: a length is ``fixed + per_unit @ counts``.
        weights: float32 ``[products]``.
        factors: int32 ``[products, most factors]``: indices of lengths.
    """

    fixed: np.ndarray
    per_unit: np.ndarray
    weights: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, products: Sequence[tuple[float, Sequence[Lengths]]], sets: int) -> Products:
        """From weights and factors; shorter products are filled up with ones."""
        known: dict[Lengths, int] = {(1, ()): 0}
        rows = [[known.setdefault(length, len(known)) for length in factors] for _, factors in products]
        most = max(map(len, rows), default=0)
        per_unit = np.zeros((len(known), sets), np.float32)
        for place, (_, units) in enumerate(known):
            for index, each in units:
                per_unit[place, index] += each
        return cls(
            np.asarray([fixed for fixed, _ in known], np.float32),
            per_unit,
            np.asarray([weight for weight, _ in products], np.float32),
            np.asarray([row + [0] * (most - len(row)) for row in rows], np.int32).reshape(len(rows), most),
        )

    def total(self, counts: jax.Array) -> jax.Array:
        """The sum for ``counts`` ``[sets]``, float32."""
        wide = counts.astype(jnp.float32)
        lengths = self.fixed + jnp.sum(jnp.asarray(self.per_unit) * wide[None], axis=1)
        return jnp.sum(self.weights * jnp.prod(lengths[self.factors], axis=1))


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """FLOPs of one call at the analysed inputs, parameters and bytes, of any subnet."""

    flops: Products
    parameters: Products
    bytes: Products

    @classmethod
    def of(cls, groups: Groups, sets: Sequence[Units], repeated: Mapping[int, Sequence[bool]]) -> Costs:
        """Costs of a network.

        Args:
            groups: its groups.
            sets: what is elastic.
            repeated: for every set of layers, by its index, which contractions its scan repeats.
        """
        place = {units.group: index for index, units in enumerate(sets) if units.group is not None}

        def length(axis: tuple[int, Sequence[tuple[int, int]]]) -> Lengths:
            fixed, per_unit = axis
            fixed += sum(each * groups[group].size for group, each in per_unit if group not in place)
            return fixed, tuple((place[group], each) for group, each in per_unit if group in place)

        layered = {
            (member.path, member.axis): index
            for index, units in enumerate(sets)
            for member in units.members
            if units.group is None
        }
        leaves = []
        for path, axes in groups.axes.items():
            factors = [
                (0, ((layered[path, i], 1),)) if (path, i) in layered else length((axis.fixed, axis.per_unit))
                for i, axis in enumerate(axes)
            ]
            leaves.append((bit_width(groups.dtypes[path]) / 8, factors))
        work = []
        for number, one in enumerate(groups.work):
            inside = [index for index, flags in repeated.items() if flags[number]]
            times = 2.0 * one.times
            for index in inside:
                times /= sets[index].size
            factors = [length((axis.fixed, axis.per_unit)) for axis in one.axes]
            work.append((times, [*factors, *((0, ((index, 1),)) for index in inside)]))
        return cls(
            Products.of(work, len(sets)),
            Products.of([(1.0, factors) for _, factors in leaves], len(sets)),
            Products.of(leaves, len(sets)),
        )
