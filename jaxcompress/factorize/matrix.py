"""How a kernel of any rank is read as a matrix from its contracted to its output axes, or the other way round."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxcompress.core.parts import Part


class Matrix(NamedTuple):
    """How an array is read as a matrix, or a stack of them.

    Attributes:
        stack: sizes of the stack axes.
        rows: sizes of the row axes.
        cols: sizes of the column axes.
        inputs_are_rows: True if the rows are the contracted axes.
    """

    stack: tuple[int, ...]
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    inputs_are_rows: bool = True

    @property
    def axes(self) -> tuple[int, int]:
        """Number of row and of column axes."""
        return len(self.rows), len(self.cols)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns of one matrix."""
        return math.prod(self.rows), math.prod(self.cols)


def matrix_of(part: Part, method: str) -> Matrix:
    """The reading of a part.

    Raises:
        ValueError: if its roles are not known, or its axes are not stack, rows, columns in this order.
    """
    roles = part.known_roles(method)
    sizes = tuple(tuple(part.array.shape[axis] for axis in axes) for axes in (roles.contracting, roles.output))
    stack = tuple(part.array.shape[axis] for axis in roles.stack)
    order = tuple(range(part.array.ndim))
    if order == (*roles.stack, *roles.contracting, *roles.output) and roles.output:
        return Matrix(stack, sizes[0], sizes[1], True)
    if order == (*roles.stack, *roles.output, *roles.contracting) and roles.output:
        return Matrix(stack, sizes[1], sizes[0], False)
    raise ValueError(
        f"{method}: {part.name!r} (shape {part.array.shape}) is no matrix from its contracted axes {roles.contracting} "
        f"to its output axes {roles.output}: each must be neighbours, after the stack axes {roles.stack}"
    )
