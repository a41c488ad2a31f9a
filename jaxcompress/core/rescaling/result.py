"""What `symmetries` returns: which scales of parameters leave a function as it is."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.core.table import html_table, text_table


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """Entries of one parameter that a symmetry scales.

    Attributes:
        path: path of the leaf.
        axes: its axes along which the scale differs: one, or several that go together (the layers of a stack and the
            channels of a layer, heads and their dimensions).
        exponent: the entries at ``units == u`` are multiplied by ``scales[u] ** exponent``.
        units: int array over ``axes``: the unit of every index, -1 where there is none.
        role: what the axes are there: ``"contracting"`` (a consumer of the scaled activation where the exponent is
            negative), ``"output"``, ``"gain"`` (what data is multiplied by), or ``"other"`` (biases, statistics).
    """

    path: str
    axes: tuple[int, ...]
    exponent: float
    units: np.ndarray
    role: str

    def factor(self, scales: jax.Array, ndim: int) -> jax.Array:
        """What the leaf is multiplied by: an array of its ``ndim`` axes, of length 1 along those not named."""
        return spread(scales, self.units, self.axes, self.exponent, ndim)


def spread(scales: jax.Array, units: ArrayLike, axes: Sequence[int], exponent: float, ndim: int) -> jax.Array:
    """Powers of scales laid out along some axes of an array of ``ndim``; 1 where the unit is -1."""
    powers = scales if exponent == 1 else 1 / scales if exponent == -1 else scales**exponent
    full = jnp.concatenate([powers, jnp.ones_like(powers[:1])])[jnp.asarray(units)]  # -1: the one at the end
    shape = [1] * ndim
    for axis, size in zip(axes, full.shape, strict=True):
        shape[axis] = size
    return full.reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Symmetry:
    """Units that may each be scaled by a positive factor, and the parameters that make up for each other.

    Attributes:
        size: number of units.
        members: what is scaled, and by which power.
    """

    size: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members that are multiplied by the scales."""
        return tuple(member for member in self.members if member.exponent > 0)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members that are divided by the scales."""
        return tuple(member for member in self.members if member.exponent < 0)

    def at(self, path: str) -> tuple[Member, ...]:
        """The members of one leaf.

        Raises:
            KeyError: if it has none.
        """
        found = tuple(member for member in self.members if member.path == path)
        if not found:
            raise KeyError(f"the symmetry does not scale {path!r}; it scales {[m.path for m in self.members]}")
        return found

    def tied(self, member: Member, wanted: jax.Array) -> jax.Array:
        """Scales of the units from scales wanted at the indices of a member: the geometric mean where a unit has many.

        Args:
            member: one of the members.
            wanted: positive, of the shape of ``member.units``; entries at -1 are not looked at.

        Returns:
            Array [size]; 1 for units that the member does not have.
        """
        units = jnp.asarray(np.where(member.units < 0, self.size, member.units).ravel())
        sums = jnp.zeros(self.size + 1, wanted.dtype).at[units].add(jnp.log(wanted.ravel()))
        counts = jnp.zeros(self.size + 1, wanted.dtype).at[units].add(1)
        return jnp.exp(sums / jnp.maximum(counts, 1))[:-1]

    def __repr__(self) -> str:
        """One line."""
        listed = ", ".join(f"{m.path}[{','.join(map(str, m.axes))}]^{m.exponent:g}" for m in self.members)
        return f"Symmetry({self.size} units: {listed})"


@dataclasses.dataclass(frozen=True)
class Excluded:
    """Axes of a weight that no symmetry scales, or not at all of their indices.

    Attributes:
        path: path of the leaf.
        axes: its axes.
        entries: number of indices along them that no symmetry scales.
        reason: what fixes the first of them, and where.
    """

    path: str
    axes: tuple[int, ...]
    entries: int
    reason: str


def apply(params: Any, symmetry: Symmetry, scales: ArrayLike) -> Any:
    """Scales the members of a symmetry; the function that it was found for computes the same.

    Args:
        params: the tree. Not changed. May be traced.
        symmetry: one of `symmetries`.
        scales: positive factors, one for each unit, or one for all. Powers of two round nothing.

    Returns:
        The tree with other members.

    Raises:
        ValueError: if a scale is not positive and finite (seen only outside ``jit``), or their number is wrong.
        TypeError: if a member is a compressed leaf.

    Example:
        >>> from jaxcompress.core.rescaling import symmetries
        >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}
        >>> (found,) = symmetries(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((5, 1)))
        >>> scaled = apply(params, found, jnp.array([2.0, 4.0]))
        >>> scaled["a"].tolist(), scaled["b"].tolist()
        ([[2.0, 4.0]], [[0.5], [0.25]])
    """
    factors = jnp.asarray(scales)
    if factors.shape not in ((), (symmetry.size,)):
        raise ValueError(f"apply: scales must have the shape ({symmetry.size},), got {factors.shape}")
    if not isinstance(factors, Tracer) and not bool(jnp.all((factors > 0) & jnp.isfinite(factors))):
        raise ValueError("apply: scales must be positive and finite: other factors do not pass a ReLU")
    factors = jnp.broadcast_to(factors, (symmetry.size,))
    paths, leaves, _ = flatten_with_paths(params)
    known = dict(zip(paths, leaves, strict=True))
    changed: dict[str, Any] = {}
    for member in symmetry.members:
        leaf = changed.get(member.path, known[member.path])
        if is_compressed(leaf):
            raise TypeError(f"apply: {member.path!r} is a {leaf.kind} leaf: rescale before compressing")
        changed[member.path] = _scaled(leaf, factors, member.units, member.axes, member.exponent)
    return replace_at(params, changed)


@functools.partial(jax.jit, static_argnames=("axes", "exponent"))
def _scaled(leaf: jax.Array, scales: jax.Array, units: jax.Array, axes: tuple[int, ...], exponent: float) -> jax.Array:
    factor = spread(scales, units, axes, exponent, leaf.ndim)
    wide = wider(leaf.dtype, factor.dtype)
    return (leaf.astype(wide) * factor.astype(wide)).astype(leaf.dtype)


class Symmetries(Sequence[Symmetry]):
    """Scale symmetries that together span all that were found; prints as a table.

    Attributes:
        excluded: axes of weights that are not scaled, and why.
        pairs: symmetries of another choice: each multiplies one weight and divides another, with few more members than
            that needs, and leaves gains as they are where it can.
    """

    def __init__(
        self,
        entries: Sequence[Symmetry],
        excluded: Sequence[Excluded],
        absorbing: Mapping[str, Symmetry],
        pairs: Sequence[Symmetry],
    ) -> None:
        """Holds what `symmetries` found."""
        self._entries = tuple(entries)
        self.excluded = tuple(excluded)
        self.pairs = tuple(pairs)
        self._absorbing = dict(absorbing)

    def __len__(self) -> int:
        """Number of symmetries."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """A symmetry, or a tuple of them for a slice."""
        return self._entries[index]

    def __iter__(self) -> Iterator[Symmetry]:
        """Iterates over the symmetries."""
        return iter(self._entries)

    def absorbing(self, path: str) -> Symmetry | None:
        """The symmetry that divides a weight along its contracted axes, and multiplies what makes its input.

        Of several the one that takes in the fewest weights: the gain of a normalization rather than the kernel before
        it. Other consumers of the same activation are divided too. Indices that nothing can absorb have the unit -1 in
        the weight's member.

        Returns:
            None if no index of the contracted axes can be scaled.
        """
        return self._absorbing.get(path)

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, self._rows(), self._notes())

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), self._notes())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for number, symmetry in enumerate(self):
            for i, member in enumerate(symmetry.members):
                head = (str(number), str(symmetry.size)) if i == 0 else ("", "")
                rows.append((*head, member.path, ",".join(map(str, member.axes)), f"{member.exponent:+g}"))
        return rows

    def _notes(self) -> list[str]:
        notes = [f"{len(self)} symmetries, {sum(s.size for s in self):,} units"]
        return notes + [
            f"excluded: {e.path} axes {','.join(map(str, e.axes))} ({e.entries}): {e.reason}" for e in self.excluded
        ]


_COLUMNS = ("symmetry", "units", "member", "axes", "exponent")


def entries_of(units: np.ndarray) -> int:
    """Number of indices without a unit."""
    return math.prod(units.shape) - int((units >= 0).sum())
