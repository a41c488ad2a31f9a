"""`sites`: where the parameters of a function meet data, and what the axes of each mean there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.interpreter import Interpreter, Use
from jaxcompress.core.lift import array_paths, evaluate, split_static
from jaxcompress.core.table import html_table, text_table
from jaxcompress.core.tag import tagged

CONTRACTIONS = ("dot_general", "conv_general_dilated", "ragged_dot_general")


@dataclasses.dataclass(frozen=True)
class Site:
    """One place where a parameter meets data. Axes are those of the whole dense parameter.

    Attributes:
        path: path of the leaf.
        primitive: ``dot_general``, ``conv_general_dilated``, ``gather``, or the name of another primitive (an
            elementwise
            use, or one in which the roles are not known).
        contracting: axes summed over.
        output: axes that appear in the result.
        stack: axes along which the data, or a scan, go in step (layers, experts, batched kernels).
        lookup: axes that indices select from.
        trips: how often enclosing scans run the site; ``None`` inside a ``while`` loop (not known before it runs).
        macs: multiply-accumulates, times the trips where they are known; 0 where not a contraction.
        bytes: bytes of the dense parameter.
        shape: shape of the dense parameter.
        dtype: its dtype.
        source: file and line of the user's code.
        spatial: those of the contracting axes along which a convolution slides.
    """

    path: str
    primitive: str
    contracting: tuple[int, ...]
    output: tuple[int, ...]
    stack: tuple[int, ...]
    lookup: tuple[int, ...]
    trips: int | None
    macs: int
    bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype
    source: str
    spatial: tuple[int, ...] = ()


class Sites(Sequence[Site]):
    """The sites of a function, in the order of evaluation; prints as a table."""

    def __init__(self, entries: Sequence[Site], unused: Sequence[str] = ()) -> None:
        """Holds sites, and the paths of parameters that met nothing."""
        self._entries = tuple(entries)
        self.unused = tuple(unused)

    def __len__(self) -> int:
        """Number of sites."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """A site, or a tuple of them for a slice."""
        return self._entries[index]

    def __iter__(self) -> Iterator[Site]:
        """Iterates over the sites."""
        return iter(self._entries)

    def at(self, path: str) -> tuple[Site, ...]:
        """The sites of one leaf: several where it is tied or used twice.

        Raises:
            KeyError: if no leaf of that path met data.
        """
        found = tuple(site for site in self if site.path == path)
        if not found:
            raise KeyError(f"no site at {path!r}; there are sites at {sorted({site.path for site in self})}")
        return found

    def weights(self) -> tuple[str, ...]:
        """Paths of the float leaves that are contracted with data or looked up: the default of every tree method."""
        met = (site for site in self if site.contracting or site.lookup)
        return tuple(dict.fromkeys(site.path for site in met if jnp.issubdtype(site.dtype, jnp.floating)))

    def axes(self, path: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The roles ``(stack, contracting, output)`` of a leaf's axes, by its first contraction.

        A leaf that is only looked up has its looked-up axes as contracting (a lookup is a product with a one-hot row).

        Raises:
            KeyError: if the leaf has no site.
            ValueError: if it is neither contracted nor looked up, or if two contractions stack it differently.
        """
        found = self.at(path)
        contracted = [site for site in found if site.contracting]
        chosen = contracted or [site for site in found if site.lookup]
        if not chosen:
            raise ValueError(
                f"{path!r} meets no contraction and no lookup, only {sorted({s.primitive for s in found})}"
            )
        if len({site.stack for site in chosen}) > 1:
            raise ValueError(f"{path!r} has different stack axes at its sites: {[(s.source, s.stack) for s in chosen]}")
        first = chosen[0]
        return first.stack, first.contracting or first.lookup, first.output

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, [_row(site) for site in self], self._notes())

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, [_row(site) for site in self], self._notes())

    def _notes(self) -> list[str]:
        return [f"never used: {', '.join(self.unused)}"] if self.unused else []


def sites(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> Sites:
    """Lists every place where a parameter leaf meets data in ``fn(params, *inputs, **kwargs)``.

    Nothing is computed: ``fn`` is traced at the shapes of its arguments, which may be `jax.ShapeDtypeStruct`.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static, as for `jaxcompress.lift`.
        params: its first argument: a pytree; leaves may be compressed.
        *inputs: further positional arguments.
        **kwargs: keyword arguments.

    Returns:
        The sites, in the order of evaluation. Tied parameters have several.

    Example:
        >>> found = sites(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, jnp.ones((5, 3)))
        >>> found[0].contracting, found[0].output, found[0].macs
        ((0,), (1,), 30)
    """
    run = abstract_run(fn, params, inputs, kwargs, follow=True)
    entries = [_site(use) for use in run.uses.values()]
    used = {site.path for site in entries}
    static, arrays = split_static(fn, (params,), {})
    names = [p for p, a in zip(array_paths(static), arrays, strict=True) if jnp.issubdtype(a.dtype, jnp.floating)]
    return Sites(entries, [name for name in names if name not in used])


def abstract_run(
    fn: Callable[..., Any], params: Any, inputs: Sequence[Any], kwargs: Any, *, follow: bool
) -> Interpreter:
    """Walks a call at abstract values, dense float parameters tracked like leaves; ``follow`` as in `Interpreter`."""
    run = Interpreter(follow=follow)
    static, arrays = split_static(fn, (tagged(params), *inputs), kwargs)
    jax.eval_shape(lambda values: evaluate(run, fn, static, values), arrays)
    return run


def _site(use: Use) -> Site:
    origin = use.origin

    def whole(axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted(origin.axes[axis] for axis in axes))

    contracting, lookup = whole(use.contract), whole(use.lookup)
    stack = tuple(sorted({*whole(use.batch), *use.gone}))
    known = bool(use.contract or use.batch or use.lookup)
    taken = {*contracting, *lookup, *stack}
    return Site(
        path=origin.path or "",
        primitive=use.primitive,
        contracting=contracting,
        output=tuple(axis for axis in range(len(origin.shape)) if axis not in taken) if known else (),
        stack=stack,
        lookup=lookup,
        trips=use.trips,
        macs=use.macs * (use.trips or 1),
        bytes=math.prod(origin.shape) * use.dtype.itemsize,
        shape=origin.shape,
        dtype=use.dtype,
        source=use.source,
        spatial=whole(use.contract[1:]) if use.primitive == "conv_general_dilated" else (),
    )


_COLUMNS = (
    "path",
    "primitive",
    "shape",
    "contracting",
    "output",
    "stack",
    "lookup",
    "trips",
    "MACs",
    "bytes",
    "source",
)


def _row(site: Site) -> tuple[str, ...]:
    axes = (site.contracting, site.output, site.stack, site.lookup)
    return (
        site.path,
        site.primitive,
        "x".join(map(str, site.shape)),
        *(",".join(map(str, group)) or "-" for group in axes),
        "?" if site.trips is None else str(site.trips),
        *(f"{number:,}" if isinstance(number, int) else str(number) for number in (site.macs, site.bytes)),
        site.source,
    )
