"""Which ReLUs of a network are on: found in its trace, whatever it was written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.lift import split_static, trace
from jaxcompress.search.proxies.walk import Key, Walk

_COMPARISONS = ("gt", "ge", "lt", "le")
_MOVED = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy")


class Patterns(NamedTuple):
    """What is summed over all rectified units.

    Attributes:
        agreement: ``[batch, batch]``: in how many units two examples are on the same side.
        units: how many units there are.
    """

    agreement: jax.Array
    units: jax.Array


class _Relus(Walk):
    """Sums over the rectified units; ``axes`` says which axis of what is rectified counts the examples."""

    def __init__(self, seen: Callable[[Key, str, jax.Array], Patterns | None]) -> None:
        super().__init__()
        self._seen = seen
        self._compared: dict[int, tuple[Any, jax.Array]] = {}

    def equation(self, eqn: JaxprEqn, values: Sequence[Any], key: Key, total: Any) -> tuple[Sequence[Any], Any]:
        """Computes it; adds the units of a rectification, and keeps known zeros known."""
        name = eqn.primitive.name
        if name in _MOVED and _is_zero(values[0]):
            out: Any = eqn.outvars[0].aval
            return [np.zeros(out.shape, out.dtype)], total
        outs = bind(eqn, values)
        rectified = None
        if name == "max" and any(map(_is_zero, values)):
            rectified = next((value for value in values if not _is_zero(value)), None)
        elif name in _COMPARISONS and any(map(_is_zero, values)):
            self._compared[id(outs[0])] = (outs[0], next((v for v in values if not _is_zero(v)), values[0]))
        elif name == "select_n":
            _, rectified = self._compared.pop(id(values[0]), (None, None))
        found = None if rectified is None else self._seen(key, self.line, rectified)
        return outs, total if found is None else jax.tree.map(jnp.add, total, found)


def relu_patterns(fn: Callable[..., Any], params: Any, inputs: Any) -> Patterns:
    """Walks ``fn(params, inputs)`` and counts in how many rectified units two examples agree.

    A unit is an entry of what stands in ``max(x, 0)`` or of the ``x`` in ``where(x > 0, ..., ...)``. Which axis counts
    the examples is found by tracing with one example more. Entries that are exactly 0 in every example are no units:
    they are masked away. What is not rectified by example (a function of parameters alone) does not count.

    Args:
        fn: ``(params, inputs) -> outputs``.
        params: a tree of arrays.
        inputs: a tree of arrays ``[batch, ...]``.

    Raises:
        ValueError: if nothing is rectified, or the examples are no axis of their own where something is.
    """
    batch = _batch(inputs)
    axes = _batch_axes(fn, params, inputs, batch)

    def seen(key: Key, line: str, x: jax.Array) -> Patterns | None:
        del line
        return agreement(jnp.moveaxis(x, axes[key], 0).reshape(batch, -1)) if key in axes else None

    closed, arrays = _traced(fn, params, inputs)
    zero = jnp.zeros((), float)
    start = Patterns(jnp.zeros((batch, batch), zero.dtype), zero)
    return _Relus(seen).evaluate(closed.jaxpr, closed.consts, arrays, start)[1]


def agreement(x: jax.Array) -> Patterns:
    """In how many columns two rows of ``x`` ``[batch, units]`` have the same side of zero.

    Example:
        >>> agreement(jnp.array([[1.0, -1.0, 2.0, 0.0], [1.0, 1.0, -2.0, 0.0]])).agreement.tolist()
        [[3.0, 1.0], [1.0, 3.0]]
    """
    dtype = jnp.zeros((), float).dtype
    alive = (x != 0).any(0)
    on, off = ((side & alive[None]).astype(dtype) for side in (x > 0, x <= 0))
    return Patterns(on @ on.T + off @ off.T, alive.sum(dtype=dtype))


def _batch(inputs: Any) -> int:
    lengths = {jnp.shape(array)[:1] for array in jax.tree.leaves(inputs)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(f"inputs: takes arrays with one leading batch axis; the leading lengths are {sorted(lengths)}")
    return lengths.pop()[0]


def _traced(fn: Callable[..., Any], params: Any, inputs: Any) -> tuple[Any, list[Any]]:
    static, arrays = split_static(fn, (params, inputs), {})
    return trace(fn, static, arrays)[0], arrays


def _batch_axes(fn: Callable[..., Any], params: Any, inputs: Any, batch: int) -> dict[Key, int]:
    """Of everything that is rectified the axis that grows with the batch; what has none is left out."""
    shapes = _rectified_shapes(fn, params, inputs)
    longer = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch + 1, *jnp.shape(x)[1:]), jnp.result_type(x)), inputs)
    grown = _rectified_shapes(fn, params, longer)
    axes = {}
    for key, (shape, line) in shapes.items():
        other = grown.get(key, ((), ""))[0]
        moved = [i for i, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
        if len(shape) != len(other) or len(moved) > 1 or any(other[i] - shape[i] != 1 for i in moved):
            raise ValueError(
                f"nwot: at {line} an array of shape {shape} is rectified, of shape {other} with one example more: the "
                "examples are no axis of their own there. Keep them one, or hand the activations to nwot_score yourself"
            )
        if moved:
            axes[key] = moved[0]
    if not axes:
        raise ValueError(
            "nwot: fn rectifies nothing, neither by max(x, 0) nor by where(x > 0, ...). For networks with other "
            "activations use jacobian_covariance, or hand activations to nwot_score"
        )
    return axes


def _rectified_shapes(fn: Callable[..., Any], params: Any, inputs: Any) -> dict[Key, tuple[tuple[int, ...], str]]:
    found: dict[Key, tuple[tuple[int, ...], str]] = {}

    def seen(key: Key, line: str, x: jax.Array) -> None:
        found[key] = (tuple(x.shape), line)

    closed, arrays = _traced(fn, params, inputs)
    walk = _Relus(seen)
    jax.eval_shape(lambda *values: walk.evaluate(closed.jaxpr, closed.consts, values, ())[0], *arrays)
    return found


def _is_zero(value: Any) -> bool:
    """Known to be zero before anything runs."""
    return isinstance(value, np.ndarray) and not value.any()
