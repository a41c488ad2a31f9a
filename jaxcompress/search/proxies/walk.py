"""A walk over a traced function in which values are more than arrays, and in which something is summed on the way.

Subclasses say what becomes of one equation; this class knows how equations nest. Control flow is entered: a scan stays
a scan, a branch that is not taken adds nothing, so that a proxy of a network whose operations are chosen by a genome
(`jax.lax.switch`) is that of the operations that run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.interpreter import bind, user_line
from jaxcompress.core.jaxprs import CALLS, called, closed

Key = tuple[tuple[int, int], ...]  # place of an equation: its number in the jaxpr and the branch, of all frames


class Walk:
    """Evaluates a jaxpr equation by equation, and threads a sum through it."""

    def __init__(self) -> None:
        """Starts outside of all bodies."""
        self._frames: Key = ()
        self.line = ""  # of the user's code, for messages

    def entered(self, value: Any) -> Any:
        """What an array (a constant, an argument, a literal) is in this walk."""
        return value

    def equation(self, eqn: JaxprEqn, values: Sequence[Any], key: Key, total: Any) -> tuple[Sequence[Any], Any]:
        """One equation without a body: its results, and the sum with what it adds."""
        del key
        return bind(eqn, values), total

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], total: Any) -> tuple[list[Any], Any]:
        """Evaluates an open jaxpr; ``args`` are values of this walk, ``consts`` arrays."""
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, map(self.entered, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for number, eqn in enumerate(jaxpr.eqns):
            values = [self._read(env, v) for v in eqn.invars]
            outer, self.line = self.line, user_line(eqn.source_info) or self.line
            with eqn.ctx.manager:
                outs, total = self._nested(eqn, values, number, total)
            self.line = outer
            env.update(zip(eqn.outvars, outs, strict=True))
        return [self._read(env, v) for v in jaxpr.outvars], total

    def _read(self, env: dict[Any, Any], v: Any) -> Any:
        """The value of a variable; of a literal a NumPy array: what is known before anything runs."""
        return self.entered(np.asarray(v.val, jax.typeof(v.val).dtype)) if isinstance(v, Literal) else env[v]

    def _nested(self, eqn: JaxprEqn, values: Sequence[Any], number: int, total: Any) -> tuple[Sequence[Any], Any]:
        name = eqn.primitive.name
        if name in CALLS:
            return self._body(called(eqn), number, 0)(values, total)
        rules = {"scan": self._scan, "while": self._while, "cond": self._cond}
        if name in rules:
            return rules[name](eqn, values, number, total)
        return self.equation(eqn, values, (*self._frames, (number, 0)), total)

    def _body(
        self, opened: tuple[Any, Sequence[Any]], number: int, branch: int
    ) -> Callable[..., tuple[list[Any], Any]]:
        inner, consts = opened

        def evaluate(values: Sequence[Any], total: Any) -> tuple[list[Any], Any]:
            outer = self._frames
            self._frames = (*outer, (number, branch))
            try:
                return self.evaluate(inner, consts, values, total)
            finally:
                self._frames = outer

        return evaluate

    def _scan(self, eqn: JaxprEqn, values: Sequence[Any], number: int, total: Any) -> tuple[Sequence[Any], Any]:
        params = eqn.params
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        consts, carry, xs = values[:first], list(values[first:last]), list(values[last:])
        body = self._body(closed(params["jaxpr"]), number, 0)

        def step(state: Any, x: Any) -> Any:
            outs, total = body([*consts, *state[0], *map(self.sliced, x)], state[1])
            return (outs[: last - first], total), outs[last - first :]

        stacked = [self.stacked(x) for x in xs]
        (carry, total), ys = lax.scan(
            step, (_arrays(carry), total), stacked, length=params["length"], reverse=params["reverse"]
        )
        return [*carry, *map(self.unstacked, ys)], total

    def _while(self, eqn: JaxprEqn, values: Sequence[Any], number: int, total: Any) -> tuple[Sequence[Any], Any]:
        params = eqn.params
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        test = self._body(closed(params["cond_jaxpr"]), number, 0)
        body = self._body(closed(params["body_jaxpr"]), number, 1)

        def running(state: Any) -> Any:
            return self.plain(test([*values[:first], *state[0]], state[1])[0][0])

        def step(state: Any) -> Any:
            return body([*values[first:last], *state[0]], state[1])

        return lax.while_loop(running, step, (_arrays(list(values[last:])), total))

    def _cond(self, eqn: JaxprEqn, values: Sequence[Any], number: int, total: Any) -> tuple[Sequence[Any], Any]:
        bodies = [self._body(closed(branch), number, index) for index, branch in enumerate(eqn.params["branches"])]
        if eqn.params.get("branches_platforms"):  # `lax.platform_dependent`: any of them computes the same
            return bodies[-1](values[1:], total)
        branches = [lambda total, body=body: jax.tree.map(jnp.asarray, body(values[1:], total)) for body in bodies]
        return lax.switch(jnp.asarray(self.plain(values[0]), jnp.int32), branches, total)

    def plain(self, value: Any) -> Any:
        """The array that a value stands for."""
        return value

    def stacked(self, value: Any) -> Any:
        """A value whose leading axis a scan slices: every field needs that axis."""
        return value

    def sliced(self, value: Any) -> Any:
        """A slice of a `stacked` value as a value."""
        return value

    def unstacked(self, value: Any) -> Any:
        """The stacked results of a scan as one value."""
        return value


def _arrays(values: list[Any]) -> list[Any]:
    return jax.tree.map(jnp.asarray, values)
