"""Functions with derivatives of their own: the author's rule, traced at the dense shapes and cut as everything else.

The small call has the cut body as its value. Its derivative is the cut trace of the original call's derivative, so that
a straight-through estimator, a stable ``logsumexp`` or a safe ``sqrt`` stay what their authors made them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.jaxprs import closed
from jaxcompress.core.shrink.cut import Keep, array_of, keep_of
from jaxcompress.core.shrink.propagate import Propagation
from jaxcompress.core.shrink.rules.control import body_of, rewrapped


def custom_jvp_call(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Re-wraps a `jax.custom_jvp` call."""
    call = _Call(run, eqn, values)
    small = jax.custom_jvp(call.primal)

    @small.defjvp
    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        def derivative(primals: Any, moving: Any) -> Any:
            outs, slopes = jax.jvp(call.original, tuple(primals), tuple(call.filled(moving, call.avals)))
            return outs, [slope for slope, out in zip(slopes, outs, strict=True) if _moves(out)]

        given = [t for t, aval in zip(tangents, call.avals, strict=True) if _moves(aval)]
        traced = jax.make_jaxpr(derivative)(call.avals, [aval for aval in call.avals if _moves(aval)])
        entering = rewrapped(primals, call.keeps) + rewrapped(given, _moving(call.keeps, call.avals))
        found = run.evaluate(traced.jaxpr, traced.consts, entering)
        outs = call.fitted(found, call.results)
        slopes = iter(call.fitted(found[len(outs) :], _moving(call.results, outs)))
        return outs, [next(slopes) if _moves(out) else np.zeros(out.shape, jax.dtypes.float0) for out in outs]

    return rewrapped(small(*map(array_of, values)), call.results)


def custom_vjp_call(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Re-wraps a `jax.custom_vjp` call."""
    call = _Call(run, eqn, values)
    small = jax.custom_vjp(call.primal)
    kept_residuals: list[Keep] = []

    @functools.cache
    def forward() -> tuple[Any, Any, Any]:
        traced, shapes = jax.make_jaxpr(lambda *args: jax.vjp(call.original, *args), return_shape=True)(*call.avals)
        return traced, *shapes

    def fwd(*arrays: Any) -> tuple[list[Any], list[Any]]:
        traced, shapes, _ = forward()
        found = run.evaluate(traced.jaxpr, traced.consts, rewrapped(arrays, call.keeps))
        kept_residuals[:] = [keep_of(value) for value in found[len(shapes) :]]
        return call.fitted(found, call.results), [array_of(value) for value in found[len(shapes) :]]

    def bwd(residuals: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
        _, shapes, pullback = forward()
        leaves, structure = jax.tree.flatten(pullback)

        def back(residuals: list[Any], given: list[Any]) -> list[Any]:
            found = jax.tree.unflatten(structure, residuals)(call.filled(given, shapes))
            return [c for c, aval in zip(found, call.avals, strict=True) if _moves(aval)]

        moving = [c for c, shape in zip(cotangents, shapes, strict=True) if _moves(shape)]
        traced = jax.make_jaxpr(back)(leaves, [shape for shape in shapes if _moves(shape)])
        entering = rewrapped(residuals, kept_residuals) + rewrapped(moving, _moving(call.results, shapes))
        found = iter(run.evaluate(traced.jaxpr, traced.consts, entering))
        return tuple(
            array_of(run.fit(eqn, next(found), keep)) if _moves(aval) else None
            for aval, keep in zip(call.avals, call.keeps, strict=True)
        )

    small.defvjp(fwd, bwd)
    return rewrapped(small(*map(array_of, values)), call.results)


class _Call:
    """One call: its original at the dense shapes, its body at the small ones."""

    def __init__(self, run: Propagation, eqn: JaxprEqn, values: Sequence[Any]):
        self.run, self.eqn = run, eqn
        self.keeps = [keep_of(value) for value in values]
        avals: list[Any] = [v.aval for v in eqn.invars]
        self.avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        self._body = body_of(run, eqn, eqn.params["call_jaxpr"])
        inner, consts = closed(eqn.params["call_jaxpr"])
        self.results = run.results(eqn, inner, consts, lambda: list(values), self.keeps)

    def original(self, *args: Any) -> list[Any]:
        """The call as it stands."""
        return list(bind(self.eqn, args))

    @property
    def primal(self) -> Callable[..., list[Any]]:
        """The cut body on arrays."""

        def value(*arrays: Any) -> list[Any]:
            return [array_of(out) for out in self._body(*rewrapped(arrays, self.keeps))]

        value.__name__ = str(self.eqn.params.get("name", self.eqn.primitive.name))
        return value

    def filled(self, moving: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
        """Puts ``float0`` where integers are."""
        given = iter(moving)
        return [next(given) if _moves(a) else np.zeros(a.shape, jax.dtypes.float0) for a in avals]

    def fitted(self, found: Sequence[Any], keeps: Sequence[Keep]) -> list[Any]:
        """The first of some values as arrays, cut to ``keeps``."""
        return [array_of(self.run.fit(self.eqn, value, keep)) for value, keep in zip(found, keeps, strict=False)]


def _moves(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _moving(keeps: Sequence[Keep], avals: Sequence[Any]) -> list[Keep]:
    return [keep for keep, aval in zip(keeps, avals, strict=True) if _moves(aval)]


RULES = {"custom_jvp_call": custom_jvp_call, "custom_vjp_call": custom_vjp_call}
