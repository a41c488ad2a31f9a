"""A traced call as one list of equations, and what of it depends on parameters alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxcompress.core.interpreter import bind, user_line
from jaxcompress.core.jaxprs import closed

# Calls that are entered, and the parameter that holds their body. A derivative of one's own does not matter here.
_BODIES = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "call_jaxpr",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation.

    Attributes:
        eqn: as it was traced.
        inputs: values that it takes, by number.
        outputs: values that it gives.
        line: file and line of the user's code.
    """

    eqn: JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    line: str


class Flat:
    """A call without nested calls. Values are numbers, the same for inputs of every shape.

    Attributes:
        steps: the equations in order.
        inputs: values of the arguments.
        outputs: values of the results.
        avals: shape and dtype of every value.
        constants: values that are known from the trace: literals, and arrays that the function closes over.
        uses: how often each value is an operand or a result.
        paths: of every value that no data enters, the parameters that it comes from.
        even: of such values, axes along which they are certainly constant.
    """

    def __init__(self, jaxpr: Any, params: Mapping[int, str]) -> None:
        """Flattens a closed jaxpr.

        Args:
            jaxpr: the trace.
            params: paths of those arguments that are parameters, by position.
        """
        self.steps: list[Step] = []
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}
        self.uses: dict[int, int] = {}
        self.paths: dict[int, frozenset[str]] = {}
        self.even: dict[int, frozenset[int]] = {}
        self.inputs = tuple(self._new(v.aval) for v in jaxpr.jaxpr.invars)
        for position, path in params.items():
            self.paths[self.inputs[position]] = frozenset([path])
        self.outputs = tuple(self._body(jaxpr.jaxpr, jaxpr.consts, self.inputs, ""))
        for value in (*self.outputs, *(value for step in self.steps for value in step.inputs)):
            self.uses[value] = self.uses.get(value, 0) + 1

    def known(self, value: int) -> bool:
        """True for a value that no data enters."""
        return value in self.paths

    def shape(self, value: int) -> tuple[Any, ...]:
        """Its shape."""
        return tuple(self.avals[value].shape)

    def varies(self, value: int) -> frozenset[int]:
        """Axes along which a known value may vary."""
        sizes = enumerate(self.shape(value))
        return frozenset(axis for axis, size in sizes if size != 1) - self.even.get(value, frozenset())

    def needed(self, wanted: Sequence[int]) -> list[Step]:
        """The steps that some values come from."""
        missing, found = set(wanted), []
        for step in reversed(self.steps):
            if missing & set(step.outputs):
                found.append(step)
                missing |= set(step.inputs)
        return found[::-1]

    def evaluate(self, arrays: Mapping[int, Any], wanted: Sequence[int]) -> list[Any]:
        """Evaluates some values, given some others."""
        env = {**self.constants, **arrays}
        for step in self.needed(wanted):
            if step.outputs[0] in env:
                continue
            with step.eqn.ctx.manager:
                outs = bind(step.eqn, [env[value] for value in step.inputs])
            env.update(zip(step.outputs, outs, strict=True))
        return [env[value] for value in wanted]

    # Flattening -------------------------------------------------------------------------------------------------

    def _new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _constant(self, array: Any, aval: Any) -> int:
        value = self._new(aval)
        self.constants[value], self.paths[value] = array, frozenset()
        return value

    def _body(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[int], line: str) -> list[int]:
        env: dict[Any, int] = dict(zip(jaxpr.invars, args, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self._constant(const, var.aval)

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._constant(np.asarray(atom.val, jax.typeof(atom.val).dtype), atom.aval)
            return env[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            own = user_line(eqn.source_info) or line
            body = _BODIES.get(eqn.primitive.name)
            if body is not None:
                outputs = self._body(*closed(eqn.params[body]), inputs, own)
            else:
                outputs = [self._new(var.aval) for var in eqn.outvars]
                self._step(Step(eqn, tuple(inputs), tuple(outputs), own))
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, step: Step) -> None:
        self.steps.append(step)
        if not all(map(self.known, step.inputs)):
            return
        paths = frozenset().union(*(self.paths[value] for value in step.inputs))
        even = self._even(step)
        for value in step.outputs:
            self.paths[value], self.even[value] = paths, even

    def _even(self, step: Step) -> frozenset[int]:
        """Axes along which the result of known operands is constant."""
        shape = self.shape(step.outputs[0])
        if step.eqn.primitive.name == "broadcast_in_dim":
            varies = {step.eqn.params["broadcast_dimensions"][axis] for axis in self.varies(step.inputs[0])}
            return frozenset(range(len(shape))) - varies
        alike = all(not self.shape(value) or len(self.shape(value)) == len(shape) for value in step.inputs)
        entrywise = step.eqn.primitive.name in _ENTRYWISE and alike
        if not entrywise or not step.inputs or math.prod(map(_size, shape)) == 1:
            return frozenset()
        return frozenset(range(len(shape))) - frozenset().union(*(self.varies(value) for value in step.inputs))


_ENTRYWISE = frozenset(
    (
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "max",
        "min",
        "rsqrt",
        "sqrt",
        "exp",
        "tanh",
        "convert_element_type",
        "select_n",
    )
)


def _size(size: Any) -> Any:
    return size if isinstance(size, int) else 2
