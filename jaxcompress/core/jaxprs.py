"""Traces as data: what is inside an equation that calls, and the loop over equations that analyses share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

CALLS = frozenset(
    ("jit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"),
)
"""Primitives that hand all of their operands on to one body, and its results back."""


def walk_through(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    equation: Callable[[JaxprEqn, Sequence[Any]], Sequence[Any]],
    constant: Callable[[Any], Any],
) -> list[Any]:
    """Carries values of any kind through an open jaxpr, equation by equation.

    Args:
        jaxpr: the open jaxpr.
        consts: its constants, arrays.
        args: its arguments, already values of the walk.
        equation: what becomes of the values that one equation meets; called in the order of evaluation, once each.
        constant: the value that stands for an array or a literal. A literal gives a new one at every place it is used.

    Returns:
        The values of the results.
    """
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, map(constant, consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return constant(atom.val) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, equation(eqn, list(map(read, eqn.invars))), strict=True))
    return list(map(read, jaxpr.outvars))


def closed(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The open jaxpr and the constants of a jaxpr parameter, which may be open or closed."""
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def called(eqn: JaxprEqn) -> tuple[Any, Sequence[Any]]:
    """The body of one of the `CALLS`: an open jaxpr and its constants."""
    return closed(eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"])
