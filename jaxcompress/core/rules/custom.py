"""Functions with derivatives of their own: the primal is lifted, the derivative stays the author's.

Inlining such a call would differentiate its implementation instead. So the call is wrapped anew: its value comes from
the lifted primal, its derivative from the original call after materialization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter, bind
from jaxcompress.core.rules.control import body_of
from jaxcompress.core.view import Value, dense_value


def custom_jvp_call(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
    """Re-wraps a `jax.custom_jvp` call."""
    body = body_of(run, eqn, eqn.params["call_jaxpr"])
    if run.listener is not None:  # statistics are not differentiated, and may not leave a wrapped call
        return _inlined(run, body, values)
    original = _original(eqn)
    call = jax.custom_jvp(lambda *args: _dense_outs(body, args))

    @call.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        return jax.jvp(original, primals, tangents)

    return call(*values)


def custom_vjp_call(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
    """Re-wraps a `jax.custom_vjp` call."""
    body = body_of(run, eqn, eqn.params["call_jaxpr"])
    if run.listener is not None:
        return _inlined(run, body, values)
    original = _original(eqn)
    call = jax.custom_vjp(lambda *args: _dense_outs(body, args))
    call.defvjp(lambda *args: jax.vjp(original, *args), lambda pullback, cotangents: pullback(cotangents))
    return call(*values)


def _original(eqn: JaxprEqn) -> Any:
    return lambda *args: list(bind(eqn, [dense_value(arg) for arg in args]))


def _dense_outs(body: Any, args: Sequence[Value]) -> list[jax.Array]:
    return [dense_value(out) for out in body(*args)[0]]


def _inlined(run: Interpreter, body: Any, values: Sequence[Value]) -> Sequence[Value]:
    outs, sink = body(*values)
    run.absorb(sink)
    return outs


RULES = {"custom_jvp_call": custom_jvp_call, "custom_vjp_call": custom_vjp_call}
