"""Re-evaluates a traced function with cut values.

The walk over the jaxpr is that of `jaxcompress.core.interpreter`: equations without a cut operand are bound as they
stand, for the others the rule of the primitive says how the cut passes through. What has no rule is an error, never a
guess.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.interpreter import bind, user_line
from jaxcompress.core.shrink.cut import Keep, Kept, array_of, is_cut, keep_of, take, value_of

WAY_OUT = "Leave that axis out of keep, or cut everything that meets it alike"


class Propagation:
    """One walk over one traced call."""

    def __init__(self) -> None:
        self._even: dict[int, tuple[Any, frozenset[int]]] = {}  # arrays that are constant along some axes, by identity
        self._results: dict[Any, tuple[Any, Any]] = {}
        self._line = ""

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Evaluates an open jaxpr; values may be cut."""
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        outer = source_info_util.current_name_stack()
        for eqn in jaxpr.eqns:
            values = [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars]
            info = eqn.source_info
            with source_info_util.user_context(info.traceback, name_stack=outer + info.name_stack), eqn.ctx.manager:
                outs = self.equation(eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        """Evaluates one equation."""
        from jaxcompress.core.shrink.rules import RULES  # the rules name this class in their signatures

        if not any(map(is_cut, values)):
            outs = bind(eqn, values)
            if eqn.primitive.name == "broadcast_in_dim":
                self._note_broadcast(eqn, outs[0])
            return outs
        rule = RULES.get(eqn.primitive.name)
        if rule is None:
            self.fail(eqn, "no rule says how a cut passes through it", [k for v in values for k in keep_of(v)])
        return rule(self, eqn, values)

    # Cutting on demand ------------------------------------------------------------------------------------------

    def fit(self, eqn: JaxprEqn, value: Any, keep: Sequence[Kept | None]) -> Any:
        """Cuts what is whole to ``keep``; an axis that is cut must be cut alike."""
        own = keep_of(value)
        array = array_of(value)
        for axis, (held, wanted) in enumerate(zip(own, keep, strict=True)):
            if held is None:
                array = array if wanted is None else self._take(array, axis, wanted)
            elif wanted is None:
                self.fail(eqn, f"axis {axis} must be whole here", [held])
            elif not held.same(wanted):
                met = held.meet(wanted)
                if met is None or not met.same(wanted):
                    self.fail(eqn, f"axis {axis} keeps different indices in two values", [held, wanted])
                array = take(array, axis, np.searchsorted(held.indices, wanted.indices))
        return value_of(array, keep)

    def join(self, eqn: JaxprEqn, keeps: Sequence[Kept | None], what: str) -> Kept | None:
        """What axes that meet keep: whole ones follow the cut one; two different cuts are an error."""
        found: Kept | None = None
        for kept in keeps:
            if found is None or kept is None or kept is found:
                found = kept if found is None else found
                continue
            met = found.meet(kept)
            if met is None:
                self.fail(eqn, f"{what} keeps different indices in two operands", [found, kept])
            found = met
        return found

    def whole(self, eqn: JaxprEqn, value: Any, axes: Sequence[int], what: str) -> None:
        """Refuses a cut along some axes."""
        keep = keep_of(value)
        if any(keep[axis] is not None for axis in axes):
            self.fail(eqn, f"{what} must be whole", [keep[axis] for axis in axes])

    def _take(self, array: Any, axis: int, kept: Kept) -> Any:
        alive, even = self._even.get(id(array), (None, frozenset()))
        if alive is None or alive() is not array or axis not in even:
            return take(array, axis, kept.indices)
        out = jax.lax.slice_in_dim(array, 0, len(kept), axis=axis)  # any entries will do: XLA folds this into the copy
        self.note_even(out, even)
        return out

    def _note_broadcast(self, eqn: JaxprEqn, out: Any) -> None:
        operand = shapes_in(eqn)[0]
        moved = {
            axis
            for size, axis in zip(operand, eqn.params["broadcast_dimensions"], strict=True)
            if size == out.shape[axis]
        }
        self.note_even(out, frozenset(range(out.ndim)) - moved)

    def note_even(self, array: Any, axes: frozenset[int]) -> None:
        """Remembers that an array is constant along some axes: any of its entries there are those asked for."""
        self._even[id(array)] = (weakref.ref(array), axes)

    # Bodies -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def frame(self, eqn: JaxprEqn) -> Iterator[None]:
        """Enters the body of an equation: errors inside name its line where they have none of their own."""
        outer = self._line
        self._line = user_line(eqn.source_info) or outer
        try:
            yield
        finally:
            self._line = outer

    def results(
        self,
        eqn: JaxprEqn,
        jaxpr: Any,
        consts: Sequence[Any],
        values: Callable[[], Sequence[Any]],
        keeps: Sequence[Keep],
    ) -> list[Keep]:
        """What the results of a body keep: an abstract walk, with ``values()`` as arguments, which keep ``keeps``."""
        key = (id(jaxpr), tuple(keeps))
        if key not in self._results:

            def walk() -> list[Any]:
                with self.frame(eqn):
                    return self.evaluate(jaxpr, consts, values())

            self._results[key] = (jaxpr, [keep_of(out) for out in jax.eval_shape(walk)])
        return self._results[key][1]

    # Errors -----------------------------------------------------------------------------------------------------

    def fail(self, eqn: JaxprEqn, why: str, keeps: Sequence[Kept | None] = ()) -> NoReturn:
        """Raises an error that names the primitive, the user's line, what was kept and the way out."""
        line = user_line(eqn.source_info) or self._line
        shown = list(dict.fromkeys(repr(kept) for kept in keeps if kept is not None))
        kept = "; kept: " + " and ".join(shown) if shown else ""
        raise ValueError(f"shrink: {eqn.primitive.name} at {line}: {why}{kept}. {WAY_OUT}.")


def shapes_in(eqn: JaxprEqn) -> list[tuple[Any, ...]]:
    """Dense shapes of the operands of an equation."""
    avals: list[Any] = [v.aval for v in eqn.invars]
    return [tuple(aval.shape) for aval in avals]


def shape_out(eqn: JaxprEqn) -> tuple[Any, ...]:
    """Dense shape of the first result of an equation."""
    aval: Any = eqn.outvars[0].aval
    return tuple(aval.shape)
