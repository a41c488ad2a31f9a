"""What a sparsity is shared over: the chosen leaves, how many entries each has and has to keep, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcompress.core.parts import Part, find_parts
from jaxcompress.core.paths import Where, matches
from jaxcompress.prune.masked import takes_mask

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Floor = int | float
Floors = Floor | Mapping[str, Floor] | None
Protect = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One leaf that takes part.

    Attributes:
        part: where it is, and what its axes mean.
        step: layers that a stacked leaf holds; each keeps the same number, so that the leaf's count is a multiple.
        least: entries that have to stay.
        protected: True if all of them have to, by ``protect=``.
        macs: multiply-accumulates of all its sites in one call; None without ``sites``.
    """

    part: Part
    step: int
    least: int
    protected: bool
    macs: int | None

    @property
    def path(self) -> str:
        """Its path."""
        return self.part.path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense leaf."""
        return tuple(self.part.array.shape)

    @property
    def size(self) -> int:
        """Entries of the dense leaf."""
        return math.prod(self.shape)


def find_layers(
    params: Any,
    *,
    where: Where = None,
    sites: Sites | None = None,
    floors: Floors = None,
    protect: Protect = None,
    method: str = "allocation",
) -> list[Layer]:
    """The leaves that a sparsity is shared over, in tree order.

    Args:
        params: tree of float arrays or leaves with one element per weight.
        where: which leaves, as for every pruning method.
        sites: what `jaxcompress.sites` found.
        floors: what each layer keeps at least: a float is a fraction of it, an int a number of entries; or a dict from
            globs to either, of which the first that fits counts.
        protect: globs of leaves that keep everything.
        method: name for errors.

    Raises:
        ValueError: if a glob fits nothing, a floor is out of range, or a leaf has factors instead of weights.
        TypeError: if a chosen leaf is not float.
    """
    parts = find_parts(params, where=where, sites=sites, method=method, whole=takes_mask)
    for part in parts:
        if part.fields:
            raise ValueError(
                f"{method}: {part.path!r} holds {part.name!r} in place of one element per weight: leave it out of "
                "where=, and give it a sparsity of its own"
            )
    paths = [part.path for part in parts]
    globs = [protect] if isinstance(protect, str) else list(protect or ())
    for name, wanted in (("protect", globs), ("floors", floors if isinstance(floors, Mapping) else ())):
        for glob in wanted:
            if not any(matches(path, glob) for path in paths):
                raise ValueError(f"{method}: {name}= names {glob!r}, which fits none of the chosen leaves: {paths}")
    return [_layer(part, floors, bool(globs) and matches(part.path, globs), sites, method) for part in parts]


def _layer(part: Part, floors: Floors, protected: bool, sites: Sites | None, method: str) -> Layer:
    shape, size = part.array.shape, math.prod(part.array.shape)
    step = math.prod(shape[axis] for axis in part.stack)
    floor: Floor = 0
    if isinstance(floors, Mapping):
        floor = next((value for glob, value in floors.items() if matches(part.path, glob)), 0)
    elif floors is not None:
        floor = floors
    whole = isinstance(floor, int)
    if isinstance(floor, bool) or not (0 <= floor <= (size if whole else 1)):
        raise ValueError(
            f"{method}: floors= must be an int from 0 to the size, or a float in [0, 1]; got {floor!r} for "
            f"{part.path!r} of size {size}"
        )
    asked = int(floor) if whole else math.ceil(floor * size)
    least = size if protected else min(size, -(-asked // step) * step)
    macs = None if sites is None else sum(site.macs for site in sites if site.path == part.path)
    return Layer(part, step, least, protected, macs)
