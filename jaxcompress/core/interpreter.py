"""Re-evaluates a traced function with compressed leaves alive.

The interpreter walks a jaxpr as `jax.core.eval_jaxpr` does. Equations without a lazy operand are bound untouched. For
the others a rule of `jaxcompress.core.rules` is asked first; where none fits, the operands are materialized and the
equation is bound as it stands, and that is recorded. `lift`, `sites`, `explain` and `observe` are this one walk with
different listeners.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.derived import constant, derive
from jaxcompress.core.leaf import CompressedArray, kind_name
from jaxcompress.core.view import Concat, Origin, Value, View, dense_value, is_lazy

Sink = dict[tuple[str, int], Any]


@dataclasses.dataclass(frozen=True)
class Use:
    """One place where a leaf met data.

    Attributes:
        origin: which leaf, and what its axes are in the parameter.
        kind: kind of the leaf, nested kinds in brackets.
        shape: shape of the leaf as it arrived (sliced, unstacked).
        dtype: its dense dtype.
        primitive: name of the consuming primitive.
        served: True when the kind computed it without a dense copy.
        reason: why it was materialized, or which operation served it.
        contract: leaf axes summed over.
        batch: leaf axes in step with axes of the data.
        lookup: leaf axes that indices select from.
        gone: parameter axes that no longer exist here (taken off by a scan or picked by an index).
        trips: how often enclosing scans run it; ``None`` when a ``while`` encloses it.
        macs: multiply-accumulates of one run.
        ordinal: how many uses of the same parameter were met before.
        source: file and line of the user's code.
    """

    origin: Origin
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    primitive: str
    served: bool
    reason: str
    contract: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    lookup: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    trips: int | None = 1
    macs: int = 0
    ordinal: int = 0
    source: str = ""


class Listener(Protocol):
    """What watches the data that meets the leaves (see `jaxcompress.core.observe`).

    It hands statistics to `Interpreter.collect` under keys ``(path, ordinal)``, and says how they merge.
    """

    def combine(self, a: Any, b: Any) -> Any:
        """Merges two statistics of one key."""
        ...

    def empty(self, like: Any) -> Any:
        """Statistics of no data, shaped as ``like``, which may be abstract."""
        ...

    def across(self, found: Any, axes: tuple[str, ...]) -> Any:
        """Merges over the devices of manual mesh axes."""
        ...

    def contraction(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, axes: dict[str, Any]) -> None:
        """A leaf was contracted with ``x`` and gave ``out``; ``axes`` holds contract and batch as `matmul` has them."""
        ...

    def convolution(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, params: dict[str, Any]) -> None:
        """A leaf was the kernel of a convolution of ``x``."""
        ...

    def lookup(self, run: Interpreter, use: Use, indices: jax.Array) -> None:
        """Entries of a leaf were taken by index."""
        ...


class Interpreter:
    """One walk over one traced call.

    Attributes:
        uses: what was consumed where, in order, each place once.
        sink: statistics of the current control-flow frame, by key; a listener adds to it with `collect`.
        trips: product of the lengths of the enclosing scans, ``None`` inside a ``while``.
    """

    def __init__(self, listener: Listener | None = None, *, follow: bool = False) -> None:
        """Starts a walk; with ``follow``, weights are followed through what depends on parameters alone."""
        self.listener = listener
        self.follow = follow
        self.uses: dict[tuple[Any, ...], Use] = {}
        self.sink: Sink = {}
        self.trips: int | None = 1
        self._stack: tuple[int, ...] = ()
        self._line = ""

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """Evaluates an open jaxpr; results may be lazy."""
        env: dict[Any, Value] = dict(
            zip(jaxpr.constvars, map(constant, consts) if self.follow else consts, strict=True)
        )
        env.update(zip(jaxpr.invars, args, strict=True))
        outer = source_info_util.current_name_stack()
        for eqn in jaxpr.eqns:
            values = [self._literal(v) if isinstance(v, Literal) else env[v] for v in eqn.invars]
            info = eqn.source_info
            with source_info_util.user_context(info.traceback, name_stack=outer + info.name_stack), eqn.ctx.manager:
                outs = self.equation(eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    def _literal(self, literal: Literal) -> Value:
        return constant(jnp.asarray(literal.val, jax.typeof(literal.val).dtype)) if self.follow else literal.val

    def equation(self, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
        """Evaluates one equation."""
        from jaxcompress.core.rules import RULES  # the rules name the interpreter in their signatures

        if not any(map(is_lazy, values)):
            return derive(eqn, values, bind(eqn, values)) if self.follow else bind(eqn, values)
        rule = RULES.get(eqn.primitive.name)
        outs = rule(self, eqn, values) if rule is not None else None
        if outs is not None:
            return outs
        outs = bind(eqn, [dense_value(value) for value in values])
        derived = derive(eqn, values, outs) if self.follow else outs
        carried = {out.origin.path for out in derived if isinstance(out, View)} - {None}
        for value in values:
            if not (carried and all(view.origin.path in carried for view in views(value))):
                self.record_dense(eqn, value, f"no rule for {eqn.primitive.name}" if rule is None else "")
        return derived

    # Records ----------------------------------------------------------------------------------------------------

    def record(self, eqn: JaxprEqn | None, view: View, *, served: bool, reason: str, **roles: Any) -> Use:
        """Notes a use of a leaf; the same equation visited again (JAX may trace a loop body twice) counts once."""
        kept = {atom.axis for atoms in view.layout for atom in atoms}
        origin = view.origin
        dropped = set(range(len(origin.shape))) - set(origin.axes)
        picked = {
            origin.axes[axis]
            for axis in range(view.leaf.ndim)
            if axis not in kept and origin.shape[origin.axes[axis]] > 1
        }
        key = (origin.path, *self._stack, id(eqn))
        use = Use(
            origin=origin,
            kind=kind_name(view.leaf),
            shape=view.leaf.shape,
            dtype=view.leaf.dtype,
            primitive="return" if eqn is None else eqn.primitive.name,
            served=served,
            reason=reason,
            gone=tuple(sorted(dropped | picked)),
            trips=self.trips,
            ordinal=self.ordinal(eqn, view),
            source=(eqn and user_line(eqn.source_info)) or self._line,
            **roles,
        )
        if origin.path is not None:
            self.uses[key] = use
        return use

    def ordinal(self, eqn: JaxprEqn | None, view: View) -> int:
        """How many uses of the same parameter were met before this one."""
        path = view.origin.path
        known = self.uses.get((path, *self._stack, id(eqn)))
        return known.ordinal if known else sum(other[0] == path for other in self.uses)

    def record_dense(self, eqn: JaxprEqn, value: Value, reason: str) -> None:
        """Notes that a value is about to be materialized for an equation."""
        for view in views(value):
            why = reason or f"{eqn.primitive.name} of this form has no compressed way"
            self.record(eqn, view, served=False, reason=why)

    def record_returned(self, value: Value) -> None:
        """Notes that a compressed leaf is a result of the whole call, which has to be dense."""
        for view in views(value):
            if view.leaf.kind != "dense":
                self.record(None, view, served=False, reason="results are dense arrays")

    def collect(self, key: tuple[str, int], statistics: Any) -> None:
        """Adds statistics to the current frame."""
        known = self.sink.get(key)
        self.sink[key] = (
            statistics if known is None or self.listener is None else self.listener.combine(known, statistics)
        )

    # Frames -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def frame(self, eqn: JaxprEqn, trips: int | None = 1) -> Iterator[Sink]:
        """Enters the body of a control-flow equation with an empty sink; yields that sink."""
        outer = self.sink, self.trips, self._stack, self._line
        self.sink = {}
        self.trips = None if trips is None or self.trips is None else self.trips * trips
        self._stack = (*self._stack, id(eqn))
        self._line = user_line(eqn.source_info) or self._line
        try:
            yield self.sink
        finally:
            self.sink, self.trips, self._stack, self._line = outer

    @contextlib.contextmanager
    def part(self, index: int) -> Iterator[None]:
        """Enters one part of a join, so that two parts of one leaf are two places."""
        outer = self._stack
        self._stack = (*outer, index)
        try:
            yield
        finally:
            self._stack = outer

    def absorb(self, sink: Sink) -> None:
        """Adds what a body's sink brought out to the current frame."""
        for key, statistics in sink.items():
            self.collect(key, statistics)


def bind(eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    """Binds an equation's primitive as it stands to dense values; always returns a sequence."""
    outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return outs if eqn.primitive.multiple_results else [outs]


def views(value: Value) -> list[View]:
    """The views inside a value."""
    if isinstance(value, View):
        return [value]
    return [view for part in value.parts for view in views(part)] if isinstance(value, Concat) else []


def user_line(info: Any) -> str:
    """``file:line (function)`` of the innermost frame outside installed packages, else the innermost outside JAX."""
    for frame in getattr(info.traceback, "frames", ()):
        if "site-packages" not in frame.file_name and "jaxcompress/core/" not in frame.file_name:
            return f"{os.path.basename(frame.file_name)}:{frame.line_num} ({frame.function_name})"
    return source_info_util.summarize(info)


def contraction_macs(x: jax.Array, leaf: CompressedArray, contract: Sequence[int], batch: Sequence[int]) -> int:
    """Multiply-accumulates of ``matmul``: every entry of ``x`` meets the free entries of the leaf."""
    return math.prod(x.shape) * math.prod(s for axis, s in enumerate(leaf.shape) if axis not in {*contract, *batch})
