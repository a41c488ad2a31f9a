"""`observe`: one pass over data that gathers, per site, what calibration methods need."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core import statistics
from jaxcompress.core.interpreter import Interpreter, Use
from jaxcompress.core.lift import Static, evaluate, split_static
from jaxcompress.core.paths import Where, matches
from jaxcompress.core.recorder import Recorder
from jaxcompress.core.sites import Sites, sites
from jaxcompress.core.tag import tagged


@dataclasses.dataclass(frozen=True)
class Observed:
    """Statistics of the data that met one leaf at one site.

    ``features`` are the contracted axes of the leaf flattened in their order (for a convolution: the patch under the
    kernel); ``stack`` are the axes along which leaf and data go in step (scanned layers, experts, feature groups).

    Attributes:
        path: path of the leaf.
        primitive: what consumed it.
        source: file and line of the user's code.
        contracting: axes of the parameter that are contracted; of a lookup the axis looked up.
        stack: axes of the parameter that the leading axes of the statistics run along, in their order. A grouped
            convolution has one more such axis after these, its groups, which no axis of the kernel is.
        picked: of further axes that do not reach the site (``kernels[3]``) the index that was taken; ``None`` where it
            is not known (a traced index, a slice of a slice), and where indices of the axes above are in another order
            than in the parameter, or some are missing.
        spatial: those of the contracting axes along which a convolution slides.
        ordinal: how many uses of the leaf the call met before this one: what `CompressedArray.at_site` is told.
        count: rows of data seen, per stack entry.
        values: the statistics asked for, by name: ``mean`` and ``mean_abs`` (of absolute values) [stack..., features],
            ``second_moment`` [stack..., features, features] (divided by the count), ``output_second_moment``,
            ``absmax``, ``min``, ``max``, ``histogram`` as (counts [stack..., bins], edges [stack..., bins + 1]),
            ``batch_ranges`` as (least, greatest) entry of every batch, each [batches, stack...], infinities where a
            batch did not reach the site; ``output_rows`` [stack..., rows, outputs], some rows of what every batch gave
            (the same ones at every call, NaN where it did not reach the site); ``row_counts`` of a lookup [rows].
    """

    path: str
    primitive: str
    source: str
    contracting: tuple[int, ...]
    count: np.ndarray
    values: Mapping[str, Any]
    stack: tuple[int, ...] = ()
    picked: Mapping[int, int | None] = dataclasses.field(default_factory=dict)
    spatial: tuple[int, ...] = ()
    ordinal: int = 0

    def __getitem__(self, name: str) -> Any:
        """A statistic by name."""
        if name not in self.values:
            raise KeyError(f"{name!r} was not observed at {self.path!r}; observed: {sorted(self.values)} (see what=)")
        return self.values[name]


class Observations(Mapping[str, tuple[Observed, ...]]):
    """Observed sites by path of the leaf; several per leaf where it is tied or used twice."""

    def __init__(self, entries: Sequence[Observed]) -> None:
        """Holds the observed sites."""
        self._by_path: dict[str, tuple[Observed, ...]] = {}
        for entry in entries:
            self._by_path[entry.path] = (*self._by_path.get(entry.path, ()), entry)

    def __getitem__(self, path: str) -> tuple[Observed, ...]:
        """The sites of one leaf."""
        if path not in self._by_path:
            raise KeyError(f"nothing was observed at {path!r}; there are observations at {list(self._by_path)}")
        return self._by_path[path]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the paths."""
        return iter(self._by_path)

    def __len__(self) -> int:
        """Number of leaves observed."""
        return len(self._by_path)


def observe(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    what: str | Sequence[str] = ("second_moment", "mean", "mean_abs", "absmax"),
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    where: Where = None,
    leaves_per_pass: int | None = None,
    **kwargs: Any,
) -> Observations:
    """Runs ``fn`` over batches and gathers statistics of what meets every weight.

    Works inside ``scan`` (weights sliced by the scan get stacked statistics, constant ones a sum), ``while``, ``cond``,
    ``remat``, ``vmap`` and ``shard_map`` (merged over devices). Compiled once per shape of batch.

    Args:
        fn: a function that ``jit`` accepts, or ``lift`` of one.
        params: its first argument; leaves may be compressed.
        batches: the data. Iterated once, or once per pass with ``leaves_per_pass``.
        what: names out of ``second_moment``, ``mean``, ``mean_abs``, ``absmax``, ``min``, ``max``, ``histogram``,
            ``batch_ranges``, ``output_second_moment``, ``output_rows``. Lookups always give ``row_counts``.
        inputs: turns a batch into the positional arguments after ``params``. Default: a tuple is spread, anything
            else is
            the only argument.
        where: which leaves; default all that are contracted or looked up.
        leaves_per_pass: bounds the memory: no more leaves than this are observed at once, in several passes.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        `Observations`, by path.

    Raises:
        ValueError: if no batch came, a chosen leaf never met data in any batch, or data was not finite or
            so large that sums overflow; names the site.
    """
    watch = Observer(fn, what=what, inputs=inputs, where=where, leaves_per_pass=leaves_per_pass, **kwargs)
    return watch(params, batches)


class Observer:
    """`observe` that compiles once for many calls, ``observer(params, batches)``, with parameters of one structure.

    Args:
        fn: as for `observe`, and so the others.
        what: statistics.
        inputs: turns a batch into arguments.
        where: which leaves.
        leaves_per_pass: how many at once.
        **kwargs: keyword arguments of ``fn``.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        what: str | Sequence[str],
        inputs: Callable[[Any], tuple[Any, ...]] | None = None,
        where: Where = None,
        leaves_per_pass: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.what = (what,) if isinstance(what, str) else tuple(what)
        unknown = [name for name in self.what if name not in statistics.STATISTICS]
        if unknown:
            raise ValueError(f"observe: what={unknown[0]!r} is not known; there are {sorted(statistics.STATISTICS)}")
        self.fn, self.kwargs, self.where, self.leaves_per_pass = fn, kwargs, where, leaves_per_pass
        self.inputs = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
        self.passes: list[_Pass] | None = None

    def __call__(self, params: Any, batches: Iterable[Any]) -> Observations:
        """One pass over the batches, or several with ``leaves_per_pass``; see `observe`."""
        if self.leaves_per_pass is not None and iter(batches) is batches:
            raise ValueError(
                "observe: leaves_per_pass= needs batches that can be iterated again (a list), not an iterator"
            )
        entries: list[Observed] = []
        turn = 0
        while self.passes is None or turn < len(self.passes):
            number = -1
            for number, batch in enumerate(batches):
                args = self.inputs(batch)
                if self.passes is None:
                    found = sites(self.fn, params, *args, **self.kwargs)
                    chosen = _passes(found, self.where, self.leaves_per_pass)
                    self.passes = [_Pass(self.fn, paths, self.what) for paths in chosen]
                self.passes[turn].add(params, args, self.kwargs, number)
            if number < 0 or self.passes is None:
                raise ValueError("observe: batches= gave no batch; there is nothing to observe")
            entries += self.passes[turn].finish()
            turn += 1
        return Observations(entries)


def _passes(found: Sites, where: Where, size: int | None) -> list[tuple[str, ...]]:
    weights = found.weights()
    if where is None:
        wanted = weights
    elif callable(where):
        wanted = tuple(path for path in weights if where(path, found.at(path)[0]))
    else:
        wanted = tuple(path for path in weights if matches(path, where))
    if not wanted:
        raise ValueError(f"observe: where={where!r} matches no weight. The weights are:\n  " + "\n  ".join(weights))
    size = size or len(wanted)
    return [wanted[i : i + size] for i in range(0, len(wanted), size)]


class _Program:
    """What a pass compiles, and where its statistics belong."""

    def __init__(self, alive: Callable[[], Any], paths: tuple[str, ...], what: tuple[str, ...]) -> None:
        self.recorder = Recorder(paths, what)

        def step(static: Static, arrays: Any) -> dict[tuple[str, int], Any]:
            run = Interpreter(self.recorder, follow=True)
            evaluate(run, alive(), static, arrays)
            return run.sink

        self.step = jax.jit(step, static_argnums=0)


_PROGRAMS: dict[int, dict[Any, _Program]] = {}  # by identity of a function, or of a method's object, while it lives


def _program(fn: Any, paths: tuple[str, ...], what: tuple[str, ...], static: Static, arrays: Any) -> _Program:
    """The same program for every call of one structure with arrays of the same shapes."""
    owner = getattr(fn, "__self__", fn)
    try:
        alive = weakref.WeakMethod(fn) if inspect.ismethod(fn) else weakref.ref(fn)
        if id(owner) not in _PROGRAMS:
            weakref.finalize(owner, _PROGRAMS.pop, id(owner), None)
    except TypeError:  # an object without weak references cannot be followed to its end
        return _Program(lambda: fn, paths, what)
    shapes = tuple((jax.tree.structure(a), *((x.shape, x.dtype) for x in jax.tree.leaves(a))) for a in arrays)
    key = (getattr(fn, "__func__", None), paths, what, static, shapes)
    programs = _PROGRAMS.setdefault(id(owner), {})
    if key not in programs:
        programs[key] = _Program(alive, paths, what)
    return programs[key]


class _Pass:
    """One pass over the batches for some of the leaves."""

    def __init__(self, fn: Callable[..., Any], paths: tuple[str, ...], what: tuple[str, ...]) -> None:
        self.fn = fn
        self.paths = paths
        self.what = what
        self.program: _Program | None = None
        self.total: dict[tuple[str, int], Any] = {}

    def add(self, params: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> None:
        """Adds one batch."""
        static, arrays = split_static(self.fn, (tagged(params), *args), kwargs)
        if self.program is None:
            self.program = _program(self.fn, self.paths, self.what, static, arrays)
        uses = self.program.recorder.uses
        found = self.program.step(static, arrays)
        for key in (key for key in uses if key in found):  # in the order of evaluation
            host = statistics.to_host(found[key])
            bad = int(np.sum(host.get("nonfinite", 0)))
            if bad:
                use = uses[key]
                raise ValueError(
                    f"observe: {bad} values that are not finite met {use.origin.path!r} ({use.primitive} at "
                    f"{use.source}) in batch {number}; look for NaN or inf in the data or in an earlier layer"
                )
            self.total[key] = statistics.combine(self.total[key], host) if key in self.total else host

    def finish(self) -> list[Observed]:
        """The statistics over all batches."""
        reached = {key for key, found in self.total.items() if np.sum(found["count"]) > 0}
        uses = {} if self.program is None else self.program.recorder.uses
        seen = [key for key in uses if key in reached]
        for path in self.paths:
            if not any(key[0] == path for key in seen):
                raise ValueError(
                    f"observe: {path!r} never met data in any batch (a branch that was not taken, or a method "
                    "that was not called). Give batches that reach it, or leave it out with where=."
                )
        total, self.total = self.total, {}
        sums = [{name: value for name, value in total[key].items() if name in _SUMS} for key in seen]
        means, finite = _means(sums, [np.maximum(total[key]["count"], 1).astype(np.float32) for key in seen])
        for key, ok in zip(seen, finite, strict=True):
            if not ok:
                raise ValueError(
                    f"observe: sums over what met {key[0]!r} ({uses[key].primitive} at {uses[key].source}) overflow "
                    "float32: multiply the data or an earlier layer by a constant below 1"
                )
        return [_observed(uses[key], total[key] | mean) for key, mean in zip(seen, means, strict=True)]


_SUMS = frozenset(name for name, statistic in statistics.STATISTICS.items() if statistic.merge == "sum")


@jax.jit
def _means(
    sums: list[dict[str, jax.Array]], rows: list[jax.Array]
) -> tuple[list[dict[str, jax.Array]], list[jax.Array]]:
    """Sums over rows, divided by their number; and whether all of a site are finite."""
    means = [
        {name: value / count.reshape(count.shape + (1,) * (value.ndim - count.ndim)) for name, value in own.items()}
        for own, count in zip(sums, rows, strict=True)
    ]
    finite = [jnp.all(jnp.array([jnp.isfinite(value).all() for value in own.values()], bool)) for own in means]
    return means, finite


def _observed(use: Use, found: dict[str, Any]) -> Observed:
    count = found["count"]
    values = {name: value for name, value in found.items() if name not in ("count", "nonfinite")}
    if "histogram" in values:
        values["histogram"] = (values["histogram"][0], statistics.bin_edges(values["histogram"][1]))
    origin = use.origin
    axes = tuple(sorted(origin.axes[axis] for axis in (use.contract or use.lookup)))
    scanned = tuple(sorted(set(range(len(origin.shape))) - set(origin.axes)))
    stack = (*scanned, *(origin.axes[axis] for axis in use.batch))
    indexed = dict(origin.picked)
    picked = {axis: indexed.get(axis) for axis in use.gone if axis not in scanned}
    picked |= {axis: None for axis in (*stack, *axes) if axis in indexed}  # in another order, or in part
    slides = use.contract[1:] if use.primitive == "conv_general_dilated" else ()
    spatial = tuple(sorted(origin.axes[axis] for axis in slides))
    return Observed(
        origin.path or "", use.primitive, use.source, axes, count, values, stack, picked, spatial, use.ordinal
    )
