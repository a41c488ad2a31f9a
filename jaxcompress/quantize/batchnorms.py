"""Batch normalizations in evaluation mode, recognized in the affine chains of a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcompress.core.affine import Chains, Data, Expression, Key


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A batch normalization in evaluation mode, as `find_batchnorms` found it.

    Attributes:
        kernel: path of the kernel whose outputs it normalizes; None if they do not come from one.
        gain: paths of what it multiplies by: usually one, none without a learned scale.
        variance: path of the variance.
        epsilon: what is added to the variance.
        shifts: paths of what is added or subtracted: biases of the kernel, the mean, the bias.
        holder: that of the shifts which takes all of them up when the normalization is folded.
        reason: why it cannot be folded; empty if it can.
    """

    kernel: str | None
    gain: tuple[str, ...]
    variance: str
    epsilon: float
    shifts: tuple[str, ...]
    holder: str | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Steps:
    """One chain: what comes before the steps, the steps, and what they are made of."""

    start: Data
    steps: tuple[Data, ...]
    variances: Mapping[Key, float]
    gain: tuple[Key, ...]
    shifts: tuple[Key, ...]

    @property
    def layer(self) -> tuple[int, ...]:
        """Which layer of a stack this is: the index into the first axes of every leaf; empty for whole leaves."""
        return next(iter(self.variances))[1]

    @property
    def name(self) -> tuple[str, ...]:
        """Paths that this chain shares with its like in the other steps of a scan."""
        return tuple(path for path, _ in (*self.variances, *self.gain, *self.shifts))


def normalizations(found: Chains) -> list[list[Steps]]:
    """All normalizations of a walk; those of the layers of a scan together."""
    stacks: dict[object, list[Steps]] = {}
    seen = set[int]()
    for end in found.ends:
        steps = _normalization(end)
        if steps is None or id(steps.steps[-1]) in seen:
            continue
        seen.add(id(steps.steps[-1]))
        stacks.setdefault(steps.name if steps.layer else id(steps), []).append(steps)
    return list(stacks.values())


def _normalization(end: Data) -> Steps | None:
    """The longest run of steps with one variance in it; None if there is no variance."""
    steps: list[Data] = []
    start = end
    while start.before is not None:
        steps.insert(0, start)
        start = start.before
    forks = [i + 1 for i, step in enumerate(steps) if step.uses != 1]
    for stop in [*(range(fork, 0, -1) for fork in forks[:1]), range(len(steps), 0, -1)]:
        for length in stop:
            last = steps[length - 1].operand
            read = _read(start, steps[:length]) if last is not None and last.leaves else None
            if read is not None and len(read.variances) == 1:
                return read
    return None


def _read(start: Data, steps: Sequence[Data]) -> Steps:
    """Which leaves of the steps multiply, and which only add."""
    variances: dict[Key, float] = {}
    factors, terms = dict[Key, None](), dict[Key, None]()
    for step in steps:
        if step.operand is None:
            continue
        for expression in step.operand.walk():
            variances |= _variance(expression)
        into = factors if step.step in ("mul", "div") else terms
        into |= dict.fromkeys(sorted(step.operand.leaves))
    gain = tuple(leaf for leaf in factors if leaf not in variances)
    shifts = tuple(leaf for leaf in terms if leaf not in variances and leaf not in gain)
    return Steps(start, tuple(steps), variances, gain, shifts)


def _variance(root: Expression) -> dict[Key, float]:
    """The leaf under a root, and what is added to it."""
    if root.eqn is None or root.eqn.primitive.name not in ("rsqrt", "sqrt", "pow"):
        return {}
    inside = _moved(root.operands[0])
    if inside.leaf is not None:
        return {inside.leaf: 0.0}
    if inside.eqn is None or inside.eqn.primitive.name != "add":
        return {}
    parts = [_moved(operand) for operand in inside.operands]
    leaf = next((part.leaf for part in parts if part.leaf is not None), None)
    constant = next((part.value for part in parts if part.eqn is None and part.leaf is None), None)
    if leaf is None or constant is None or np.size(constant) != 1:
        return {}
    return {leaf: float(np.asarray(constant).ravel()[0])}


def _moved(expression: Expression) -> Expression:
    """What was moved, repeated or converted."""
    while expression.eqn is not None and expression.eqn.primitive.name in _MOVES:
        expression = expression.operands[0]
    return expression


def obstacle(stack: Sequence[Steps], record: BatchNorm, known: Mapping[str, Any], found: Chains) -> str:
    """Why a normalization cannot be folded, seen without its numbers."""
    start = stack[0].start
    if start.product is None or record.kernel is None:
        return "its input is not the result of a product with one parameter"
    mapped = start.channels()
    origin = start.kernel.origin if start.kernel is not None else None
    if origin is None or mapped is None or any(origin[axis] is None for axis in mapped.values()):
        return f"the kernel {record.kernel!r} is computed from its parameter, or reversed along its outputs"
    involved = (record.kernel, record.variance, *record.gain, *record.shifts)
    if len(set(involved)) < len(involved):
        return "one parameter has two roles in it"
    for path in involved:
        if path not in known:
            return f"{path!r} is a compressed leaf: fold before compressing"
    for steps in stack:
        values = (steps.start, *steps.steps[:-1])
        if any(value.uses != 1 for value in values):
            return "what it normalizes is used elsewhere too"
    own: dict[str, int] = {}
    for steps in stack:
        expressions = [steps.start.kernel, *(step.operand for step in steps.steps)]
        for path, _ in (leaf for expression in expressions if expression is not None for leaf in expression.leaves):
            own[path] = own.get(path, 0) + 1
    for path in involved:
        if own[path] != sum(times for (other, _), times in found.met.items() if other == path):
            return f"{path!r} is used elsewhere too"
        if {steps.layer for steps in stack} != set(np.ndindex(known[path].shape[: len(stack[0].layer)])):
            return f"not every layer of {path!r} is used here"
    if any(layer != steps.layer for steps in stack for _, layer in _leaves(steps)):
        return "its parameters come from different layers of a stack"
    return ""


def _leaves(steps: Steps) -> set[Key]:
    kernel = steps.start.kernel.leaves if steps.start.kernel is not None else frozenset[Key]()
    return {*kernel, *steps.variances, *steps.gain, *steps.shifts}


def affine(steps: Steps, params: Mapping[str, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
    """What the steps make of ``y``: ``gain * y + shift``, with the axes of ``y``, of length 1 where equal."""
    ndim = len(steps.start.shape)
    gain, shift = np.ones((1,) * ndim), np.zeros((1,) * ndim)
    order = np.arange(ndim)  # the axis of y that every axis is by now
    for step in steps.steps:
        if step.step == "transpose":
            order = order[list(step.order)]
        if step.operand is None:
            continue
        value = np.asarray(step.operand.evaluate(params), np.float64)
        value = value.reshape(value.shape or (1,) * ndim).transpose(np.argsort(order))
        if step.step in ("mul", "div"):
            value = value if step.step == "mul" else 1 / value
            gain, shift = gain * value, shift * value
        elif step.step == "from":
            gain, shift = -gain, value - shift
        else:
            shift = shift + (value if step.step == "add" else -value)
    return gain, shift


def laid_out(steps: Steps, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Values of the channels of a result as an array of a shift's shape."""
    mapped = steps.start.channels() or {}
    full = [steps.start.shape[axis] if axis in mapped else 1 for axis in range(values.ndim)]
    if any(size not in (1, whole) for size, whole in zip(values.shape, full, strict=True)):
        return None
    if [size for size in shape if size != 1] != [size for size in full if size != 1]:
        return None
    return np.broadcast_to(values, full).reshape(shape)


def for_kernel(steps: Steps, factor: np.ndarray, ndim: int) -> np.ndarray | None:
    """Factors of the channels of a result as an array of the ``ndim`` axes of the kernel's parameter."""
    mapped, kernel = steps.start.channels(), steps.start.kernel
    if mapped is None or kernel is None or kernel.origin is None:
        return None
    wide = [axis for axis, size in enumerate(factor.shape) if size != 1]
    if any(axis not in mapped for axis in wide):
        return None
    to = {axis: kernel.origin[mapped[axis]] or 0 for axis in wide}
    order = sorted(wide, key=to.__getitem__)
    shape = [1] * ndim
    for axis in order:
        shape[to[axis]] = factor.shape[axis]
    return factor.transpose(*order, *(axis for axis in range(factor.ndim) if axis not in wide)).reshape(shape)


_MOVES = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "transpose")
