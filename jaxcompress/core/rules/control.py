"""Control flow: bodies are entered with leaves alive, and statistics find their way out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var

from jaxcompress.core.interpreter import Interpreter, Sink
from jaxcompress.core.jaxprs import closed
from jaxcompress.core.view import Value, View, dense_value, is_lazy


def body_of(
    run: Interpreter, eqn: JaxprEqn, jaxpr: Any, trips: int | None = 1
) -> Callable[..., tuple[list[Any], Sink]]:
    """A Python function that evaluates a body: ``(*values) -> (results, sink)``."""
    inner, consts = closed(jaxpr)

    def body(*values: Value) -> tuple[list[Any], Sink]:
        with run.frame(eqn, trips) as sink:
            outs = run.evaluate(inner, consts, values)
        return outs, sink

    return body


def jit(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A nested ``jit`` stays one; the shardings it asked for become constraints."""
    params = eqn.params
    body = body_of(run, eqn, params["jaxpr"])
    body.__name__ = params["name"]
    values = [_constrained(value, s) for value, s in zip(values, params["in_shardings"], strict=True)]
    outs, sink = jax.jit(body, inline=params["inline"])(*values)
    run.absorb(sink)
    return [_constrained(out, s) for out, s in zip(outs, params["out_shardings"], strict=True)]


def _constrained(value: Value, sharding: Any) -> Value:
    asked = isinstance(sharding, jax.sharding.Sharding) and not is_lazy(value)
    return lax.with_sharding_constraint(value, sharding) if asked else value


def closed_call(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A plain call is evaluated in place."""
    outs, sink = body_of(run, eqn, eqn.params["call_jaxpr"])(*values)
    run.absorb(sink)
    return outs


def remat(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """A checkpointed call keeps its policy."""
    body = body_of(run, eqn, eqn.params["jaxpr"])
    if eqn.params["differentiated"] and eqn.params["prevent_cse"]:
        # `jax.checkpoint` alone would put this barrier only once it is differentiated; this call has been already.
        values = lax.optimization_barrier(list(values))
    outs, sink = jax.checkpoint(body, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])(*values)
    run.absorb(sink)
    return outs


def scan(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Leaves enter a scan as constants, as loop-invariant carries, or sliced along their stack axis."""
    params = eqn.params
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    inner, consts = closed(params["jaxpr"])
    invariant = invariant_results(inner, n_consts, n_carry)
    consts_in, carry, xs = values[:n_consts], list(values[n_consts : n_consts + n_carry]), values[n_consts + n_carry :]
    fixed = {i: c for i, c in enumerate(carry) if i in invariant and is_lazy(c)}
    carry = [c if i in fixed else densify(run, eqn, c, "it changes from step to step") for i, c in enumerate(carry)]
    moving = [c for i, c in enumerate(carry) if i not in fixed]
    sliced, rebuild = _sliced(run, eqn, xs)

    def step(state: tuple[list[Any], Sink], x: list[Any]) -> Any:
        pool, total = state
        entering = iter(pool)
        full = [fixed[i] if i in fixed else next(entering) for i in range(n_carry)]
        with run.frame(eqn, params["length"]) as sink:
            outs = run.evaluate(inner, consts, [*consts_in, *full, *rebuild(x)])
        leaving = [dense_value(out) for i, out in enumerate(outs[:n_carry]) if i not in fixed]
        once = {key: value for key, value in sink.items() if key in total}
        total = {key: run.listener.combine(total[key], value) for key, value in once.items()} if run.listener else {}
        stacked = {key: value for key, value in sink.items() if key not in total}
        ys = [densify(run, eqn, y, "it leaves the loop stacked") for y in outs[n_carry:]]
        return (leaving, total), (ys, stacked)

    stacking = {x.origin.path for x in xs if isinstance(x, View)}
    start = _empty_sums(run, lambda: step((moving, {}), _first(sliced)), stacking)
    (ended, total), (ys, stacked) = lax.scan(
        step,
        (moving, start),
        sliced,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
        **({"_split_transpose": params["_split_transpose"]} if params.get("_split_transpose") else {}),
    )
    run.absorb(total)
    run.absorb(stacked)
    left = iter(ended)
    return [*(fixed[i] if i in fixed else next(left) for i in range(n_carry)), *ys]


def _sliced(run: Interpreter, eqn: JaxprEqn, xs: Sequence[Value]) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """What ``lax.scan`` slices, and how a slice becomes a view again."""
    plans: list[Any] = []
    entering: list[Any] = []
    for x in xs:
        plan = x.unstacked() if isinstance(x, View) else None
        plans.append((x, plan))
        if isinstance(x, View) and plan is not None:
            entering.append(plan[0])
        else:
            entering.append(densify(run, eqn, x, "not every field of the leaf carries the scanned axis"))

    def rebuild(slices: list[Any]) -> list[Any]:
        return [
            piece if plan is None else View(piece, x.scale, plan[1], plan[2])
            for piece, (x, plan) in zip(slices, plans, strict=True)
        ]

    return entering, rebuild


def densify(run: Interpreter, eqn: JaxprEqn, value: Value, why: str) -> jax.Array:
    """The dense array of a value, with a note of why it had to be."""
    run.record_dense(eqn, value, why)
    return dense_value(value)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _empty_sums(run: Interpreter, step: Any, stacking: set[str | None]) -> Sink:
    """Starting values for the statistics that sum over steps: those of leaves that are the same in every step."""
    if run.listener is None:
        return {}
    _, (_, found) = jax.eval_shape(step)
    return {key: run.listener.empty(stats) for key, stats in found.items() if key[0] not in stacking}


def invariant_results(jaxpr: Any, skip: int, count: int) -> set[int]:
    """Indices ``i < count`` with result ``i`` the same variable as argument ``skip + i``, seen through nested calls."""
    source = _sources(jaxpr)
    arguments = jaxpr.invars[skip : skip + count]
    return {
        i
        for i, (out, argument) in enumerate(zip(jaxpr.outvars[:count], arguments, strict=True))
        if isinstance(out, Var) and source.get(out, out) is argument
    }


def _sources(jaxpr: Any) -> dict[Any, Any]:
    """Variables that nested calls and checkpoints merely pass on, mapped to where they come from."""
    source: dict[Any, Any] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in ("jit", "remat2", "checkpoint"):
            continue
        inner, _ = closed(eqn.params["jaxpr"])
        deeper = _sources(inner)
        outer = dict(zip(inner.invars, eqn.invars, strict=True))
        for out, result in zip(eqn.outvars, inner.outvars, strict=True):
            origin = None if isinstance(result, Literal) else outer.get(deeper.get(result, result))
            if isinstance(origin, Var):
                source[out] = source.get(origin, origin)
    return source


def while_(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Leaves enter a ``while`` as constants of condition and body, or as loop-invariant carries."""
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts, carry = values[:n_cond], values[n_cond : n_cond + n_body], list(values[n_cond + n_body :])
    body, consts = closed(params["body_jaxpr"])
    invariant = invariant_results(body, n_body, len(carry))
    fixed = {i: c for i, c in enumerate(carry) if i in invariant and is_lazy(c)}
    moving = [densify(run, eqn, c, "it changes from step to step") for i, c in enumerate(carry) if i not in fixed]

    def full(pool: list[Any]) -> list[Any]:
        entering = iter(pool)
        return [fixed[i] if i in fixed else next(entering) for i in range(len(carry))]

    def test(state: tuple[list[Any], Sink]) -> Any:
        (out,), _ = body_of(run, eqn, params["cond_jaxpr"], None)(*test_consts, *full(state[0]))
        return dense_value(out)

    def step(state: tuple[list[Any], Sink]) -> tuple[list[Any], Sink]:
        with run.frame(eqn, None) as sink:
            outs = run.evaluate(body, consts, [*body_consts, *full(state[0])])
        listener = run.listener
        total = (
            {k: listener.combine(value, sink[k]) for k, value in state[1].items()} if listener and state[1] else sink
        )
        return [dense_value(out) for i, out in enumerate(outs) if i not in fixed], total

    start: Sink = {}
    if run.listener is not None:
        _, found = jax.eval_shape(lambda: step((moving, {})))
        start = {key: run.listener.empty(stats) for key, stats in found.items()}
    ended, total = lax.while_loop(test, step, (moving, start))
    run.absorb(total)
    return full(list(ended))


def cond(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Every branch gets the leaves; results are dense and statistics equal in structure, so that branches agree."""
    index, *operands = values
    bodies = [body_of(run, eqn, branch) for branch in eqn.params["branches"]]
    wanted: Sink = {}
    listener = run.listener
    if listener is not None:
        for body in bodies:
            wanted |= jax.eval_shape(lambda b=body: b(*operands)[1])

    def branch(body: Any) -> Callable[..., tuple[list[jax.Array], Sink]]:
        def evaluated(*operands: Value) -> tuple[list[jax.Array], Sink]:
            outs, sink = body(*operands)
            full = {k: sink[k] if k in sink else listener.empty(v) for k, v in wanted.items()} if listener else {}
            return [densify(run, eqn, out, "it leaves a branch") for out in outs], full

        return evaluated

    if platforms := eqn.params.get("branches_platforms"):  # `lax.platform_dependent`: other platforms see no branch
        named = dict(zip(platforms, map(branch, bodies), strict=True))
        others = named.pop(None, None)
        by_platform = {name: body for names, body in named.items() for name in names}
        found: Any = lax.platform_dependent(*operands, default=others, **by_platform)
        outs, sink = found
        run.absorb(sink)
        return outs
    outs, sink = lax.switch(jnp.asarray(dense_value(index), jnp.int32), [branch(body) for body in bodies], *operands)
    run.absorb(sink)
    return outs


RULES = {
    "jit": jit,
    "closed_call": closed_call,
    "core_call": closed_call,
    "remat2": remat,
    "checkpoint": remat,
    "scan": scan,
    "while": while_,
    "cond": cond,
}
