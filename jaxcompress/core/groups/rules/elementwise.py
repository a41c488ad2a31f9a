"""Elementwise primitives: axes of the operands are tied index by index, known values are mapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import Labelled, shape_of
from jaxcompress.core.groups.rules.functions import FUNCTIONS
from jaxcompress.core.groups.rules.structural import SINGLE
from jaxcompress.core.groups.walk import Walk

_UNKNOWN = np.nan
_PERHAPS_ZERO = np.inf  # of several values that a select may choose, one is zero; arithmetic makes it unknown again
_DIVIDING = {"div": 1, "rem": 1, "log": 0, "rsqrt": 0}  # operand that must not be zero where it is masked
_KEEPING_ZERO = ("convert_element_type", "copy", "neg", "abs", "square", "sqrt", "mul", "stop_gradient")


def elementwise(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Ties the axes that meet. Operands of equal rank may have axes of size 1, scalars may stand beside any shape."""
    shape = shape_of(eqn.outvars[0])
    weight = any(value.weight for value in values)
    labels, masked = [], []
    for axis, size in enumerate(shape):
        labels.append(_tied(walk, values, axis, shape))
        seen = [_along(value, axis, shape) for value in values]
        perhaps = np.any([np.isinf(operand) for operand in seen], axis=0)
        met = [np.where(np.isinf(operand), _UNKNOWN, operand) for operand in seen]
        found = _mapped(eqn, met)
        choice = eqn.primitive.name == "select_n" and np.isinf(found)
        unsure = _unsure(eqn, values, seen, axis, shape) | (_known(eqn, met) & ~np.isfinite(found))
        if weight and unsure.any():
            reason = f"{eqn.primitive.name} of values that masking makes zero, or perhaps zero"
            walk.graph.pin(labels[-1][unsure], reason)
        left = np.where(np.isfinite(found), found, _UNKNOWN)
        stays = choice | (perhaps & np.isnan(left) & (eqn.primitive.name in _KEEPING_ZERO))
        masked.append(np.where(stays, _PERHAPS_ZERO, left) if size else found)
    consts = [np.asarray(_UNKNOWN if value.const is None else value.const) for value in values]
    const = float(_mapped(eqn, consts))
    result = Labelled(tuple(labels), tuple(masked), const if np.isfinite(const) else None, weight)
    return [result] * len(eqn.outvars)


def _tied(walk: Walk, values: Sequence[Labelled], axis: int, shape: Sequence[int]) -> np.ndarray:
    carrying = [value.labels[axis] for value in values if len(value.labels) == len(shape)]
    meeting = [labels for labels in carrying if len(labels) == shape[axis]]
    for labels in carrying:
        if len(labels) == 1 != shape[axis]:
            walk.graph.pin(labels, SINGLE)
    for other in meeting[1:]:
        walk.graph.tie(meeting[0], other)
    return meeting[0] if meeting else walk.graph.fresh(shape[axis])


def _along(value: Labelled, axis: int, shape: Sequence[int]) -> np.ndarray:
    """The masked values of an operand along an axis of the result; its constant, if it does not carry the axis."""
    const = np.full(shape[axis], _UNKNOWN if value.const is None else value.const)
    return value.masked[axis] if value.const is None and _carries(value, axis, shape) else const


def _carries(value: Labelled, axis: int, shape: Sequence[int]) -> bool:
    return len(value.labels) == len(shape) and len(value.labels[axis]) == shape[axis]


def _mapped(eqn: JaxprEqn, operands: Sequence[np.ndarray]) -> np.ndarray:
    """What a primitive makes of known values; NaN where the result is not known."""
    name, params = eqn.primitive.name, eqn.params
    if name == "select_n":
        return _selected(*operands)
    function = FUNCTIONS.get(name)
    if function is None:
        return np.full_like(operands[0], _UNKNOWN)
    with np.errstate(all="ignore"):
        found = np.asarray(function(params, *operands), np.float64)
    if name in ("mul", "and"):  # nothing finite makes a zero anything else
        return np.where((operands[0] == 0) | (operands[1] == 0), 0.0, found)
    return np.where(_known(eqn, operands), found, _UNKNOWN)


def _known(eqn: JaxprEqn, operands: Sequence[np.ndarray]) -> np.ndarray:
    return np.all([~np.isnan(operand) for operand in operands], axis=0) & (eqn.primitive.name in FUNCTIONS)


def _selected(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    """The case that is chosen where that is known, else what all cases agree on, or that one of them is zero."""
    mixed = np.where(np.any([case == 0 for case in cases], axis=0), _PERHAPS_ZERO, _UNKNOWN)
    common = np.where(np.all([case == cases[0] for case in cases], axis=0), cases[0], mixed)
    index = np.nan_to_num(which).astype(int).clip(0, len(cases) - 1)
    return np.where(np.isnan(which), common, np.choose(index, cases))


def _unsure(
    eqn: JaxprEqn, values: Sequence[Labelled], met: Sequence[np.ndarray], axis: int, shape: Sequence[int]
) -> np.ndarray:
    """Where something that may be zero is divided by along the axis: infinity times zero is no zero."""
    name = eqn.primitive.name
    negative = (name == "pow" and not (values[1].const or -1) >= 0) or (name == "integer_pow" and eqn.params["y"] < 0)
    position = 0 if negative else _DIVIDING.get(name)
    if position is None or not _carries(values[position], axis, shape):
        return np.zeros(shape[axis], bool)
    return np.isinf(met[position])


def bitcast(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """The bits of a zero are zero; a change of width makes an axis of bits."""
    if shape_of(eqn.outvars[0]) != values[0].shape:
        return walk.unknown(eqn, values, "a bitcast to another width")
    value = values[0]
    zero = tuple(np.where(axis == 0, 0.0, _UNKNOWN) for axis in value.masked)
    return [Labelled(value.labels, zero, 0.0 if value.const == 0 else None, value.weight)]


def barrier(walk: Walk, eqn: JaxprEqn, values: Sequence[Labelled]) -> list[Labelled]:
    """Passes every operand on."""
    del walk, eqn
    return list(values)


_OTHERS = (
    "bitwise_not clz igamma igamma_grad_a igammac nextafter polygamma population_count regularized_incomplete_beta "
    "select_n shift_left shift_right_arithmetic shift_right_logical zeta mulhi complex random_gamma_grad"
)
RULES: dict[str, Any] = dict.fromkeys((*FUNCTIONS, *_OTHERS.split()), elementwise)
RULES |= {"bitcast_convert_type": bitcast, "optimization_barrier": barrier, "device_put": barrier}
