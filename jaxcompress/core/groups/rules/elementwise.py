"""Elementwise primitives: axes of the operands are tied index by index; zeros survive where the function keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, shape_of
from jaxcompress.core.groups.rules.structural import SINGLE
from jaxcompress.core.groups.walk import Walk


def _names(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


_KEEP = _names("""
abs asinh asin atan atanh cbrt ceil complex conj convert_element_type copy copy_p erf erf_inv expm1 floor imag log1p
name neg pvary real reduce_precision reshard round sharding_constraint sign sin sinh sqrt square stop_gradient tan tanh
""")
_ALL = _names("add add_any atan2 or select_n shift_left sub xor")
_ANY = _names("and mul mulhi")
_NONE = _names("""
acos acosh bessel_i0e bessel_i1e clz cos cosh digamma eq eq_to erfc exp exp2 ge gt igamma igamma_grad_a igammac
is_finite le le_to lgamma log logistic lt lt_to ne nextafter not polygamma population_count regularized_incomplete_beta
rsqrt shift_right_arithmetic shift_right_logical zeta
""")
_UNBOUNDED_AT_ZERO = ("digamma", "lgamma", "log", "polygamma", "rsqrt", "acosh")

Zeros = Sequence[np.ndarray]


def elementwise(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Ties the axes that meet. Operands of equal rank may have axes of size 1, scalars may stand beside any shape."""
    shape = shape_of(eqn.outvars[0])
    labels, zeros = [], []
    for axis, size in enumerate(shape):
        for value in values:
            if len(value.labels) == len(shape) and len(value.labels[axis]) == 1 != size:
                walk.graph.pin(value.labels[axis], SINGLE, eqn)
        meeting = [v.labels[axis] for v in values if len(v.labels) == len(shape) and len(v.labels[axis]) == size]
        labels.append(meeting[0] if meeting else walk.graph.fresh(size))
        for other in meeting[1:]:
            walk.graph.tie(meeting[0], other)
        met = [_zeros_along(v, axis, shape) for v in values]
        _pin_unbounded(walk, eqn, values, met, labels[-1])
        zeros.append(_kept_zeros(eqn, values, met))
    result = Labelled(tuple(labels), tuple(zeros), _const(eqn, values), any(v.weight for v in values))
    return [result] * len(eqn.outvars)


def bitcast(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The bits of a zero are zero; a change of width makes an axis of bits."""
    if shape_of(eqn.outvars[0]) == values[0].shape:
        return elementwise(walk, eqn, values)
    return walk.unknown(eqn, values, "a bitcast to another width")


def barrier(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Passes every operand on."""
    del walk, eqn
    return list(values)


def _zeros_along(value: Labelled, axis: int, shape: Sequence[int]) -> np.ndarray:
    """Where an operand is zero along an axis of the result; one that does not carry the axis only if it is all zero."""
    if len(value.labels) == len(shape) and len(value.labels[axis]) == shape[axis]:
        return value.zeros[axis] | (value.const == 0)
    return np.full(shape[axis], value.const == 0)


def _kept_zeros(eqn: JaxprEqn, values: Sequence[Labelled], zeros: Zeros) -> np.ndarray:
    name = eqn.primitive.name
    if name == "bitcast_convert_type":
        return zeros[0]
    special = _SPECIAL.get(name)
    if special is not None:
        return special(eqn, values, zeros)
    if name in _NONE:
        return np.zeros_like(zeros[0])
    if name in _ANY:
        return reduce(np.logical_or, zeros)
    return reduce(np.logical_and, zeros[1:] if name == "select_n" else zeros)


def _bounded(values: Sequence[Labelled], zeros: Zeros, fits: Callable[[float], bool]) -> np.ndarray:
    """``max`` or ``min`` of something zero and others that are zero too or constants on its far side."""
    far = [zero | (v.const is not None and fits(v.const)) for v, zero in zip(values, zeros, strict=True)]
    return reduce(np.logical_and, far) & reduce(np.logical_or, zeros)


def _clamp(eqn: JaxprEqn, values: Sequence[Labelled], zeros: Zeros) -> np.ndarray:
    del eqn
    low, _, high = (value.const for value in values)
    return zeros[1] & (low is not None and low <= 0) & (high is not None and high >= 0)


def _power(eqn: JaxprEqn, values: Sequence[Labelled], zeros: Zeros) -> np.ndarray:
    exponent = eqn.params["y"] if "y" in eqn.params else values[1].const
    return zeros[0] & (exponent is not None and exponent > 0)


_SPECIAL: dict[str, Callable[[JaxprEqn, Sequence[Labelled], Zeros], np.ndarray]] = {
    "max": lambda eqn, values, zeros: _bounded(values, zeros, lambda const: const <= 0),
    "min": lambda eqn, values, zeros: _bounded(values, zeros, lambda const: const >= 0),
    "clamp": _clamp,
    "div": lambda eqn, values, zeros: zeros[0],
    "rem": lambda eqn, values, zeros: zeros[0],
    "pow": _power,
    "integer_pow": _power,
}


def _pin_unbounded(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled], zeros: Zeros, labels: np.ndarray) -> None:
    """Pins what would be divided by zero once it is masked: an infinity times zero is no zero."""
    name = eqn.primitive.name
    if name in ("div", "rem"):
        at = zeros[1]
    elif name in _UNBOUNDED_AT_ZERO:
        at = zeros[-1]
    elif name in ("pow", "integer_pow"):
        exponent = eqn.params["y"] if name == "integer_pow" else values[1].const
        at = zeros[0] & (exponent is None or exponent < 0)
    else:
        return
    if at.any() and any(value.weight for value in values):
        walk.graph.pin(labels[at], f"{name} of values that are zero when masked", eqn)


def _const(eqn: JaxprEqn, values: Sequence[Labelled]) -> float | None:
    name, first = eqn.primitive.name, values[0].const
    if first is None:
        return None
    if name in ("convert_element_type", "copy", "copy_p", "stop_gradient", "sharding_constraint", "reshard", "pvary"):
        return float(bool(first)) if eqn.params.get("new_dtype") == jnp.bool_ else first
    return -first if name == "neg" else None


RULES: dict[str, Any] = dict.fromkeys((*_KEEP, *_ALL, *_ANY, *_NONE, *_SPECIAL), elementwise)
RULES |= {"bitcast_convert_type": bitcast, "optimization_barrier": barrier, "device_put": barrier}
