"""`explain`: what served every compressed leaf at every site, and what was made dense, where and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxcompress.core.interpreter import Use
from jaxcompress.core.leaf import CompressedArray, kind_name
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.sites import CONTRACTIONS, abstract_run
from jaxcompress.core.table import html_table, text_table


@dataclasses.dataclass(frozen=True)
class Line:
    """What happened to one leaf at one place.

    Attributes:
        path: path of the leaf.
        kind: its kind, nested kinds in brackets; ``dense`` for a plain array.
        shape: its dense shape.
        primitive: what consumed it; ``-`` when nothing did.
        served: True if it was consumed without a dense copy.
        how: the operation that served it, or why it was materialized.
        source: file and line of the user's code.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    primitive: str
    served: bool
    how: str
    source: str


class Explanation(Sequence[Line]):
    """Lines in the order of evaluation, then leaves that nothing consumed; prints as a table."""

    def __init__(self, lines: Sequence[Line]) -> None:
        """Holds the lines."""
        self._lines = tuple(lines)

    def __len__(self) -> int:
        """Number of lines."""
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        """A line, or a tuple of them for a slice."""
        return self._lines[index]

    def __iter__(self) -> Iterator[Line]:
        """Iterates over the lines."""
        return iter(self._lines)

    @property
    def materialized(self) -> tuple[Line, ...]:
        """The lines of compressed leaves that were made dense."""
        return tuple(line for line in self if line.kind != "dense" and line.primitive != "-" and not line.served)

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, [_row(line) for line in self], [self._summary()])

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, [_row(line) for line in self], [self._summary()])

    def _summary(self) -> str:
        served = sum(line.served and line.kind != "dense" for line in self)
        dense = len({line.path for line in self if line.kind == "dense"})
        return (
            f"{served} uses of compressed leaves served compressed, {len(self.materialized)} materialized; "
            f"{dense} leaves are dense."
        )


def explain(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> Explanation:
    """Tells what ``lift(fn)(params, *inputs, **kwargs)`` does with every leaf. Nothing is computed.

    Args:
        fn: a function that ``jit`` accepts (not lifted).
        params: its first argument, with compressed leaves.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        **kwargs: keyword arguments.

    Returns:
        One line per leaf and place. Dense leaves that are contracted or looked up are listed too, so that nothing that
        could have been compressed goes unseen.
    """
    run = abstract_run(fn, params, inputs, kwargs, follow=False)
    lines = [_line(use) for use in run.uses.values() if not _plain_elementwise(use)]
    seen = {line.path for line in lines}
    paths, leaves, _ = flatten_with_paths(params)
    idle = [
        Line(path, kind_name(leaf), leaf.shape, "-", False, "nothing consumed it", "-")
        for path, leaf in zip(paths, leaves, strict=True)
        if isinstance(leaf, CompressedArray) and path not in seen
    ]
    return Explanation([*lines, *idle])


def _plain_elementwise(use: Use) -> bool:
    return use.kind == "dense" and use.primitive not in (*CONTRACTIONS, "gather")


def _line(use: Use) -> Line:
    is_dense = use.kind == "dense"
    return Line(
        path=use.origin.path or "",
        kind=use.kind,
        shape=use.origin.shape,
        primitive=use.primitive,
        served=use.served and not is_dense,
        how="a dense array: no method was applied to it" if is_dense else use.reason,
        source=use.source,
    )


_COLUMNS = ("path", "kind", "shape", "primitive", "", "how", "source")


def _row(line: Line) -> tuple[str, ...]:
    state = "served" if line.served else "-" if line.kind == "dense" or line.primitive == "-" else "materialized"
    return line.path, line.kind, "x".join(map(str, line.shape)), line.primitive, state, line.how, line.source
