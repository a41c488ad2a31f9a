"""How deep in a function each weight is met: after how many other weights, along the longest way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.sites import CONTRACTIONS

MEETINGS = (*CONTRACTIONS, "gather")


class _Known(NamedTuple):
    """What a value depends on: data behind ``depth`` weights; or, where that is None, on parameters alone."""

    depth: int | None
    paths: frozenset[str]


def weight_depths(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> dict[str, int]:
    """For every leaf that is contracted with data or looked up: how many such meetings its data come through at most.

    Leaves of one depth never feed each other. What a loop carries from step to step counts once: leaves inside have the
    depth of the first step. A leaf met several times has its greatest depth.

    Args:
        fn: as for `jaxcompress.sites`.
        params: its first argument; leaves may be compressed.
        *inputs: further positional arguments, may be abstract.
        **kwargs: keyword arguments.

    Returns:
        Depths by path, in the order of evaluation.

    Example:
        >>> def fn(p, x):
        ...     return jnp.tanh(x @ p["a"]) @ p["c"] + x @ p["b"]
        >>> weight_depths(fn, {name: jnp.eye(2) for name in "abc"}, jnp.ones((1, 2)))
        {'a': 0, 'c': 1, 'b': 0}
    """
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    closed, _ = trace(fn, static, arrays)
    found: dict[str, int] = {}
    _walk(closed.jaxpr, [_start(path) for path in array_paths(static)], found)
    return found


def _start(path: str) -> _Known:
    """An argument: `array_paths` puts the names of those that are no parameters in brackets."""
    return _Known(0, frozenset()) if path.startswith("[") else _Known(None, frozenset({path}))


def _walk(jaxpr: Jaxpr, values: Sequence[_Known], found: dict[str, int]) -> list[_Known]:
    env: dict[Any, _Known] = dict.fromkeys(jaxpr.constvars, _NOTHING)
    env.update(zip(jaxpr.invars, values, strict=True))

    def known(var: Any) -> _Known:
        return _NOTHING if isinstance(var, Literal) else env[var]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [known(var) for var in eqn.invars], found), strict=True))
    return [known(var) for var in jaxpr.outvars]


def _equation(eqn: JaxprEqn, values: list[_Known], found: dict[str, int]) -> list[_Known]:
    params = eqn.params
    if eqn.primitive.name == "while":
        carried = values[params["cond_nconsts"] + params["body_nconsts"] :]
        outs = _walk(params["body_jaxpr"].jaxpr, values[params["cond_nconsts"] :], found)
        return [_joined([before, after]) for before, after in zip(carried, outs, strict=True)]
    if eqn.primitive.name == "cond":
        branches = [_walk(branch.jaxpr, values[1:], found) for branch in params["branches"]]
        return [_joined([values[0], *outs]) for outs in zip(*branches, strict=True)]
    inner = _body(eqn)
    if inner is not None:
        return _walk(inner, values, found)
    joined = _joined(values)
    met = frozenset().union(*(value.paths for value in values)) if joined.depth is not None else frozenset()
    if eqn.primitive.name in MEETINGS and joined.depth is not None and met:
        for path in met:
            found[path] = max(joined.depth, found.get(path, 0))
        joined = _Known(joined.depth + 1, frozenset())
    return [joined] * len(eqn.outvars)


def _body(eqn: JaxprEqn) -> Jaxpr | None:
    """The body of a call or a scan, whose arguments and results are those of the equation."""
    for value in eqn.params.values():
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if not isinstance(inner, Jaxpr):
            continue
        if (len(inner.invars), len(inner.outvars)) == (len(eqn.invars), len(eqn.outvars)):
            return inner
    return None


def _joined(values: Sequence[_Known]) -> _Known:
    depths = [value.depth for value in values if value.depth is not None]
    if depths:
        return _Known(max(depths), frozenset())
    return _Known(None, frozenset().union(*(value.paths for value in values)))


_NOTHING = _Known(None, frozenset())
