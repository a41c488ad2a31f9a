"""Finds in the trace of a function which kernels hold several gates: their product is cut into equal parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.lift import array_paths, split_static, trace

# Equations that run a jaxpr on their operands, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A parameter, or a product with it: for each axis of the value that of the parameter (None: of the data)."""

    path: str
    axes: tuple[int | None, ...]
    product: bool = False


_Values = frozenset[_Seen]


def gates_of(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> dict[str, int]:
    """How many gates the kernels of a function hold side by side: how often it cuts their product along its outputs.

    Args:
        fn: a function that ``jit`` accepts.
        params: its first argument.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`. Only their shapes count.
        **kwargs: keyword arguments.

    Returns:
        A dict from the paths of the kernels whose product is split, or sliced in full, into equal parts to the number
        of parts: what `per_gate` takes as ``gates=``. Parts of different sizes are no gates.

    Example:
        >>> def cell(p, x):
        ...     i, f, g, o = jnp.split(x @ p["kernel"] + p["bias"][None], 4, axis=-1)
        ...     return jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(i) * jnp.tanh(g))
        >>> gates_of(cell, {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)}, jnp.ones((2, 3)))
        {'kernel': 4}
    """
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    closed, _ = trace(fn, static, arrays)
    values = [
        frozenset([_Seen(path, tuple(range(len(array.shape))))])
        if len(array.shape) > 1 and path[:1] != "["
        else frozenset()
        for path, array in zip(array_paths(static), arrays, strict=True)
    ]
    cuts: dict[str, set[tuple[int, int, int]]] = {}  # path -> (start, size, whole)
    _walk(closed.jaxpr, values, cuts)
    found: dict[str, int] = {}
    for path, parts in cuts.items():
        (size, whole), *others = {(size, whole) for _, size, whole in parts}
        starts = {start for start, _, _ in parts}
        if not others and size < whole and starts == set(range(0, whole, size)):
            found[path] = whole // size
    return found


def _walk(jaxpr: Any, values: Sequence[_Values], cuts: dict[str, set[tuple[int, int, int]]]) -> list[_Values]:
    held: dict[Any, _Values] = dict(zip(jaxpr.invars, values, strict=True))
    for eqn in jaxpr.eqns:
        own = [frozenset() if isinstance(v, Literal) else held.get(v, frozenset()) for v in eqn.invars]
        held.update(zip(eqn.outvars, _outputs(eqn, own, cuts), strict=True))
    return [frozenset() if isinstance(v, Literal) else held.get(v, frozenset()) for v in jaxpr.outvars]


def _outputs(eqn: JaxprEqn, own: list[_Values], cuts: dict[str, set[tuple[int, int, int]]]) -> list[_Values]:
    name, nothing = eqn.primitive.name, [frozenset()] * len(eqn.outvars)
    if not any(own):
        return nothing
    if name in CALLS:
        inner = eqn.params[CALLS[name]]
        return _walk(getattr(inner, "jaxpr", inner), own, cuts)
    if name == "scan":
        return _scan(eqn, own, cuts)
    if name == "dot_general":
        return [_product(eqn, own)]
    if name == "transpose":
        order = eqn.params["permutation"]
        return [frozenset(dataclasses.replace(s, axes=tuple(s.axes[i] for i in order)) for s in own[0])]
    if name in ("split", "slice"):
        _cut(eqn, own[0], cuts)
        return nothing
    kept = frozenset(seen for v, values in zip(eqn.invars, own, strict=True) for seen in values
                     if _shape(v) == _shape(eqn.outvars[0]))  # fmt: skip
    return [kept, *nothing[1:]]


def _scan(eqn: JaxprEqn, own: list[_Values], cuts: dict[str, set[tuple[int, int, int]]]) -> list[_Values]:
    """The body sees what is scanned without its first axis; what leaves it is not followed."""
    first = eqn.params["num_consts"] + eqn.params["num_carry"]
    inner = [
        frozenset(dataclasses.replace(seen, axes=seen.axes[1:]) for seen in values) if i >= first else values
        for i, values in enumerate(own)
    ]
    _walk(eqn.params["jaxpr"].jaxpr, inner, cuts)
    return [frozenset()] * len(eqn.outvars)


def _product(eqn: JaxprEqn, own: list[_Values]) -> _Values:
    (contracts, batches) = eqn.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(_shape(v))) if axis not in {*contract, *batch}]
        for v, contract, batch in zip(eqn.invars, contracts, batches, strict=True)
    ]
    before = len(batches[0]), len(batches[0]) + len(free[0])
    found = set()
    for side in (0, 1):
        for seen in own[side]:
            if not seen.product:
                axes: list[int | None] = [None] * len(_shape(eqn.outvars[0]))
                for i, axis in enumerate(free[side]):
                    axes[before[side] + i] = seen.axes[axis]
                found.add(_Seen(seen.path, tuple(axes), True))
    return frozenset(found)


def _cut(eqn: JaxprEqn, values: _Values, cuts: dict[str, set[tuple[int, int, int]]]) -> None:
    shape = _shape(eqn.invars[0])
    if eqn.primitive.name == "split":
        axis, parts, start = eqn.params["axis"], [], 0
        for size in eqn.params["sizes"]:
            parts.append((start, int(size), shape[axis]))
            start += int(size)
    else:
        starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
        cut = [i for i, size in enumerate(shape) if (starts[i], limits[i]) != (0, size)]
        if len(cut) != 1 or eqn.params["strides"] is not None:
            return
        (axis,) = cut
        parts = [(starts[axis], limits[axis] - starts[axis], shape[axis])]
    for seen in values:
        if seen.product and seen.axes[axis] is not None:
            cuts.setdefault(seen.path, set()).update(parts)


def _shape(var: Any) -> tuple[Any, ...]:
    return var.aval.shape
