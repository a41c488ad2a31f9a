"""What the axes of an array mean where it meets data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Roles:
    """What the axes of an array mean where it meets data; ``spatial`` are the contracting axes of a sliding window."""

    stack: tuple[int, ...]
    contracting: tuple[int, ...]
    output: tuple[int, ...]
    spatial: tuple[int, ...] = ()

    @property
    def feature(self) -> int:
        """The innermost contracting axis that no window slides along: the input features of a convolution."""
        return [axis for axis in self.contracting if axis not in self.spatial][-1]

    def of_field(self, axes: Sequence[int | None]) -> Roles | None:
        """Roles of a field whose axes run along these dense ones; an axis of its own is the other end of a product.

        Returns:
            None where it is not known: a field with axes of its own that holds both sides of the product, or none.

        Example:
            >>> Roles(stack=(), contracting=(0,), output=(1,)).of_field((None, 1))
            Roles(stack=(), contracting=(0,), output=(1,), spatial=())
        """
        own = tuple(position for position, axis in enumerate(axes) if axis is None)
        stack, contracting, output, spatial = (
            tuple(position for position, axis in enumerate(axes) if axis is not None and axis in wanted)
            for wanted in (self.stack, self.contracting, self.output, self.spatial)
        )
        if not own:
            return Roles(stack, contracting, output, spatial)
        if bool(contracting) == bool(output):
            return None
        return Roles(stack, contracting, own) if contracting else Roles(stack, own, output)
