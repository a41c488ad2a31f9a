"""Control flow: bodies are entered with cut values, and stay bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.jaxprs import closed
from jaxcompress.core.shrink.cut import Keep, array_of, is_cut, keep_of, value_of
from jaxcompress.core.shrink.propagate import Propagation
from jaxcompress.core.shrink.rules.elementwise import dividing


def body_of(run: Propagation, eqn: JaxprEqn, jaxpr: Any) -> Callable[..., list[Any]]:
    """A Python function that evaluates a body."""
    inner, consts = closed(jaxpr)

    def body(*values: Any) -> list[Any]:
        with run.frame(eqn):
            return run.evaluate(inner, consts, values)

    return body


def jit(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A nested ``jit`` stays one; the shardings it asked for become constraints."""
    params = eqn.params
    body = body_of(run, eqn, params["jaxpr"])
    body.__name__ = params["name"]
    values = [_constrained(value, s) for value, s in zip(values, params["in_shardings"], strict=True)]
    outs = jax.jit(body, inline=params["inline"])(*values)
    return [_constrained(out, s) for out, s in zip(outs, params["out_shardings"], strict=True)]


def _constrained(value: Any, sharding: Any) -> Any:
    if not isinstance(sharding, jax.sharding.Sharding):
        return value
    if is_cut(value):
        if not isinstance(sharding, jax.sharding.NamedSharding):
            return value
        sharding = dividing(sharding, value.array.shape)
    return value_of(lax.with_sharding_constraint(array_of(value), sharding), keep_of(value))


def closed_call(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A plain call is evaluated in place."""
    return body_of(run, eqn, eqn.params["call_jaxpr"])(*values)


def remat(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A checkpointed call keeps its policy."""
    params = eqn.params
    if params["differentiated"] and params["prevent_cse"]:
        # `jax.checkpoint` alone would put this barrier only once it is differentiated; this call has been already.
        values = lax.optimization_barrier(list(values))
    body = body_of(run, eqn, params["jaxpr"])
    return jax.checkpoint(body, policy=params["policy"], prevent_cse=params["prevent_cse"])(*values)


def settle(
    run: Propagation, eqn: JaxprEqn, carry: Sequence[Any], results: Callable[[list[Any]], list[Keep]]
) -> list[Any]:
    """Cuts a loop's carry until a step keeps what it was given: whole axes follow what a step makes of them.

    Args:
        run: the walk.
        eqn: the loop.
        carry: its values at the start.
        results: what the carry keeps after a step from the given one.
    """
    while True:
        held = [keep_of(value) for value in carry]
        keeps = [
            tuple(run.join(eqn, pair, "a carry of the loop") for pair in zip(before, after, strict=True))
            for before, after in zip(held, results(list(carry)), strict=True)
        ]
        if keeps == held:
            return list(carry)
        carry = [run.fit(eqn, value, keep) for value, keep in zip(carry, keeps, strict=True)]


def rewrapped(arrays: Sequence[Any], keeps: Sequence[Keep]) -> list[Any]:
    """Arrays with what their axes keep, as a loop's body receives them."""
    return [value_of(array, keep) for array, keep in zip(arrays, keeps, strict=True)]


def scan(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The carry settles; of a cut scanned axis only the kept steps run: exact where the others change nothing."""
    params = eqn.params
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    inner, consts = closed(params["jaxpr"])
    fixed, carry, xs = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]
    steps = run.join(eqn, [keep_of(x)[0] for x in xs], "the scanned axis")
    xs = [run.fit(eqn, x, (steps, *keep_of(x)[1:])) for x in xs]
    x_keeps = [keep_of(x)[1:] for x in xs]

    def results(carry: list[Any]) -> list[Keep]:
        def entering() -> list[Any]:
            first = rewrapped([_like_slice(array_of(x)) for x in xs], x_keeps)
            return [*fixed, *carry, *first]

        keeps = [*map(keep_of, fixed), *map(keep_of, carry), *x_keeps]
        return run.results(eqn, inner, consts, entering, keeps)

    carry = settle(run, eqn, carry, lambda c: results(c)[:n_carry])
    keeps = [keep_of(value) for value in carry]
    y_keeps = results(carry)[n_carry:]

    def step(state: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        with run.frame(eqn):
            outs = run.evaluate(inner, consts, [*fixed, *rewrapped(state, keeps), *rewrapped(x, x_keeps)])
        leaving = [array_of(run.fit(eqn, out, keep)) for out, keep in zip(outs[:n_carry], keeps, strict=True)]
        return leaving, [array_of(y) for y in outs[n_carry:]]

    ended, ys = lax.scan(
        step,
        [array_of(value) for value in carry],
        [array_of(x) for x in xs],
        length=params["length"] if steps is None else len(steps),
        reverse=params["reverse"],
        unroll=params["unroll"],
        **({"_split_transpose": params["_split_transpose"]} if params.get("_split_transpose") else {}),
    )
    return [*rewrapped(ended, keeps), *rewrapped(ys, [(steps, *keep) for keep in y_keeps])]


def _like_slice(x: jax.Array) -> jax.Array:
    """A step's slice for an abstract walk; of an axis without entries too."""
    return lax.squeeze(lax.slice_in_dim(x, 0, 1, axis=0), (0,)) if x.shape[0] != 0 else jnp.zeros(x.shape[1:], x.dtype)


def while_(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The carry settles."""
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_fixed, fixed, carry = values[:n_cond], values[n_cond : n_cond + n_body], values[n_cond + n_body :]
    test, body = body_of(run, eqn, params["cond_jaxpr"]), body_of(run, eqn, params["body_jaxpr"])
    inner, consts = closed(params["body_jaxpr"])

    def results(carry: list[Any]) -> list[Keep]:
        keeps = [*map(keep_of, fixed), *map(keep_of, carry)]
        return run.results(eqn, inner, consts, lambda: [*fixed, *carry], keeps)

    carry = settle(run, eqn, carry, results)
    keeps = [keep_of(value) for value in carry]

    def step(state: list[Any]) -> list[Any]:
        outs = body(*fixed, *rewrapped(state, keeps))
        return [array_of(run.fit(eqn, out, keep)) for out, keep in zip(outs, keeps, strict=True)]

    def more(state: list[Any]) -> Any:
        return test(*test_fixed, *rewrapped(state, keeps))[0]

    return rewrapped(lax.while_loop(more, step, [array_of(value) for value in carry]), keeps)


def cond(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Branches agree on what their results keep: whole ones are cut to the others."""
    index, *operands = values
    keeps = [keep_of(value) for value in operands]
    found = []
    for branch in eqn.params["branches"]:
        inner, consts = closed(branch)
        found.append(run.results(eqn, inner, consts, lambda: operands, keeps))
    agreed = [
        tuple(run.join(eqn, kept, "a result of the branches") for kept in zip(*outs, strict=True))
        for outs in zip(*found, strict=True)
    ]

    def branch(jaxpr: Any) -> Callable[..., list[jax.Array]]:
        body = body_of(run, eqn, jaxpr)

        def evaluated(*arrays: Any) -> list[jax.Array]:
            outs = body(*rewrapped(arrays, keeps))
            return [array_of(run.fit(eqn, out, keep)) for out, keep in zip(outs, agreed, strict=True)]

        return evaluated

    bodies = [branch(jaxpr) for jaxpr in eqn.params["branches"]]
    arrays = [array_of(value) for value in operands]
    if platforms := eqn.params.get("branches_platforms"):  # `lax.platform_dependent`: other platforms see no branch
        named = dict(zip(platforms, bodies, strict=True))
        others = named.pop(None, None)
        by_platform = {name: body for names, body in named.items() for name in names}
        outs: Any = lax.platform_dependent(*arrays, default=others, **by_platform)
    else:
        outs = lax.switch(jnp.asarray(index, jnp.int32), bodies, *arrays)
    return rewrapped(outs, agreed)


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
