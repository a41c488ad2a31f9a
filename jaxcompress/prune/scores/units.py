"""The entries of a unit: which members of a group count, and sums over what a unit owns of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import dense
from jaxcompress.core.paths import flatten_with_paths, matches
from jaxcompress.core.sites import CONTRACTIONS
from jaxcompress.core.sites import sites as find_sites

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups, Member
    from jaxcompress.core.sites import Sites

Side = Literal["producer", "consumer"]
Reduce = Literal["sum", "mean", "max", "l2"]
Members = Literal["kernels", "producers", "consumers", "all"] | str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class AxisRoles:
    """Which axes of the weights produce the units of a group, and which consume them.

    Attributes:
        sites: where the parameters meet data.
        sides: by (path, axis), the sides that the axis is on: the output axes of a kernel and the columns of an
            embedding produce, contracted axes consume; axes of biases, scales and statistics do neither.
    """

    sites: Sites
    sides: Mapping[tuple[str, int], frozenset[Side]]

    @classmethod
    def of(cls, groups: Groups, params: Any, sites: Sites | None = None) -> AxisRoles:
        """Reads them from the sites, which are found by a trace of the analysed function if they are not given."""
        found = find_sites(groups.fn, params, *groups.inputs, **groups.kwargs) if sites is None else sites
        sides: dict[tuple[str, int], set[Side]] = {}

        def note(path: str, axes: Sequence[int], side: Side) -> None:
            for axis in axes:
                sides.setdefault((path, axis), set()).add(side)

        for site in found:
            output = site.output
            if (
                site.primitive in CONTRACTIONS and not site.contracting
            ):  # over an axis of length 1, which sites leave out
                output = tuple(axis for axis in range(len(site.shape)) if axis not in site.stack)
            elif not (site.contracting or site.lookup):
                continue
            note(site.path, site.contracting, "consumer")
            note(site.path, output, "producer")
        return cls(found, {key: frozenset(found) for key, found in sides.items()})

    def members(self, group: Group, which: Members) -> tuple[Member, ...]:
        """The members of a group that count; all of them where none is of the kind asked for.

        Args:
            group: a group.
            which: ``"producers"``: kernels and embeddings by their output axes (the filters of a unit);
                ``"consumers"``: kernels by their contracted axes; ``"kernels"``: both; ``"all"``: biases, scales and
                statistics too; or globs over paths, which choose strictly.
        """
        if which == "all":
            return group.members
        wanted = {"producers": {"producer"}, "consumers": {"consumer"}, "kernels": {"producer", "consumer"}}
        if isinstance(which, str) and which in wanted:
            kinds = wanted[which]
            found = tuple(m for m in group.members if kinds & self.sides.get((m.path, m.axis), frozenset()))
            return found or group.members
        return tuple(member for member in group.members if matches(member.path, which))


def unit_sums(
    arrays: Mapping[str, jax.Array], members: Sequence[tuple[str, int]], positions: Sequence[Any]
) -> jax.Array:
    """Sums of all entries that each unit owns. Call it under ``jit``.

    Args:
        arrays: by path.
        members: (path, axis) of each member.
        positions: per member int ``[units, m]``: the indices along the axis that each unit owns.

    Returns:
        ``[units]``.

    Example:
        >>> unit_sums({"w": jnp.arange(8.0).reshape(4, 2)}, [("w", 0)], [jnp.array([[0, 1], [2, 3]])]).tolist()
        [6.0, 22.0]
    """
    each = [
        _along(arrays[path], axis, "sum")[jnp.asarray(owned)].sum(1)
        for (path, axis), owned in zip(members, positions, strict=True)
    ]
    return sum(each[1:], start=each[0])


def unit_totals(
    arrays: Mapping[str, jax.Array], members: Mapping[int, Sequence[Member]], how: Reduce = "sum"
) -> dict[int, np.ndarray]:
    """The same on the host, for the members of many groups: one program, then float64.

    Args:
        arrays: by path.
        members: per group those that count; a group without any is left out.
        how: ``"sum"``, ``"max"``, ``"l2"`` (root of the sum of squares), or ``"mean"`` over all entries of a unit.

    Returns:
        By group float64 ``[units]``.
    """
    axes = tuple(dict.fromkeys((m.path, m.axis) for found in members.values() for m in found))
    lines = dict(zip(axes, map(_on_host, _lines(dict(arrays), axes=axes, how=how)), strict=True))
    totals = {}
    for index, found in members.items():
        if not found:
            continue
        owned = [lines[m.path, m.axis][m.positions] for m in found]  # [units, m] each
        if how == "max":
            totals[index] = np.max([values.max(1) for values in owned], axis=0)
            continue
        total = np.sum([values.sum(1) for values in owned], axis=0)
        entries = sum(arrays[m.path].size // arrays[m.path].shape[m.axis] * m.positions.shape[1] for m in found)
        totals[index] = np.sqrt(total) if how == "l2" else total / entries if how == "mean" else total
    return totals


def dense_arrays(params: Any, members: Iterable[Sequence[Member]]) -> dict[str, jax.Array]:
    """The dense arrays that some members are axes of, by path.

    Raises:
        KeyError: if the tree has no such path.
    """
    paths, leaves, _ = flatten_with_paths(params)
    by_path = dict(zip(paths, leaves, strict=True))
    wanted = dict.fromkeys(member.path for found in members for member in found)
    missing = [path for path in wanted if path not in by_path]
    if missing:
        raise KeyError(f"params has no leaf at {missing[0]!r}, which groups has; the paths are {paths}")
    return {path: jnp.asarray(dense(by_path[path])) for path in wanted}


def _on_host(line: jax.Array) -> np.ndarray:
    return np.asarray(line, np.float64)


@partial(jax.jit, static_argnames=("axes", "how"))
def _lines(arrays: dict[str, jax.Array], *, axes: tuple[tuple[str, int], ...], how: Reduce) -> list[jax.Array]:
    return [_along(arrays[path], axis, how) for path, axis in axes]


def _along(array: jax.Array, axis: int, how: Reduce) -> jax.Array:
    """Reduces over every other axis; of ``"l2"`` the squares are summed."""
    others = tuple(other for other in range(array.ndim) if other != axis)
    if how == "max":
        return array.max(others)
    return (jnp.square(array) if how == "l2" else array).sum(others)
