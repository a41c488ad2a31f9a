"""Plans the integer program of a traced function: a walk over its equations with a rule per primitive.

What has no integer form between quantized values is an error that names the primitive and the line, never a silent
float: except at the end, where ``tail="float"`` allows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import jax.numpy as jnp

from jaxcompress.quantize.integer import nodes
from jaxcompress.quantize.integer.flat import Flat, Step
from jaxcompress.quantize.integer.sums import Contract, Sum
from jaxcompress.quantize.integer.values import (
    Codes,
    Contracted,
    Floating,
    Known,
    Native,
    Open,
    Operand,
    Summed,
    Value,
)

Tail = Literal["error", "float"]
PRODUCTS = ("dot_general", "conv_general_dilated")
_ENDS = ("add", "sub", "mul", "div", "neg", "max", "min", "clamp", "reshape", "squeeze", "convert_element_type", "copy")


def _ends(step: Step) -> bool:
    """What is still a part of the last operation: a bias, a scale, a bound."""
    return step.eqn.primitive.name in _ENDS


class NoIntegerForm(ValueError):
    """A primitive that cannot be computed in integers between quantized values."""


@dataclasses.dataclass(frozen=True)
class Site:
    """A place where reals are rounded to a grid.

    Attributes:
        name: of the site, and key of its constants.
        value: number of the value in the traced function.
        primitive: that gave it.
        parameters: paths of the weights that it is a product with.
        source: file and line of the user's code.
    """

    name: str
    value: int
    primitive: str
    parameters: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        """For messages."""
        weights = f" of {', '.join(self.parameters)}" if self.parameters else ""
        return f"{self.name!r} ({self.primitive}{weights}" + (f" at {self.source})" if self.source else ")")


class Plan:
    """The integer program of one call.

    Attributes:
        flat: the traced call.
        nodes: the operations, in order.
        sites: grids that need a range, by name.
        inputs: slots of the data.
        results: slots of the results.
        tail: the first step of the float tail, if there is one.
    """

    def __init__(self, flat: Flat, data: dict[int, str], tail: Tail) -> None:
        """Plans.

        Args:
            flat: the traced call.
            data: names of the arguments that are data, by value.
            tail: what happens where an operation has no integer form.
        """
        self.flat, self._data = flat, data
        self._origins = {value: step for step in flat.steps for value in step.outputs}
        self._steps = [step for step in flat.needed(flat.outputs) if not all(map(flat.known, step.outputs))]
        self._retried = False  # whether a float tail has been tried
        try:
            self._walk(len(self._steps))
        except NoIntegerForm:
            if tail != "float":
                raise
            self._retried = True
            products = [at for at, step in enumerate(self._steps) if step.eqn.primitive.name in PRODUCTS]
            self._walk(max(products, default=-1) + 1)

    def signature(self) -> tuple[Any, ...]:
        """What must be the same at every shape of the inputs, for one set of constants to serve."""
        return (*(node.signature() for node in self.nodes), len(self.results))

    # What the rules use ------------------------------------------------------------------------------------------

    def slot(self) -> int:
        """A new place for an array."""
        self._slots += 1
        return self._slots - 1

    def emit(self, node: nodes.Node) -> nodes.Node:
        """Adds an operation."""
        self.nodes.append(node)
        return node

    def name(self, kind: str) -> str:
        """A name for a node that holds constants."""
        self._names += 1
        return f"{self._names - 1:03d}_{kind}"

    def site(self, kind: str, value: int, *, parameters: Sequence[str] = (), source: str = "") -> str:
        """A new grid, for a value of the traced function."""
        name, step = self.name(kind), self._origins.get(value)
        primitive, line = (step.eqn.primitive.name, step.line) if step else (kind, source)
        self.sites[name] = Site(name, value, primitive, tuple(parameters), line)
        return name

    def opened(self, value: Value) -> Contracted | Summed | Codes:
        """Data to which something can be added: what has bounds already is rounded first."""
        if isinstance(value, Open) and value.bounds:
            return self.settled(value)
        assert isinstance(value, Contracted | Summed | Codes)
        return value

    def summed(self, value: Value) -> Summed:
        """Data as a sum of codes."""
        value = self.opened(value)
        if isinstance(value, Summed):
            return value
        codes, shape = self.settled(value), self.shape_of(value)
        return Summed(shape, operands=(Operand(codes),))

    def settled(self, value: Value, grid: str | None = None) -> Codes:
        """Data as codes, on a grid of its own or on one that is given."""
        if isinstance(value, Codes) and grid in (None, value.grid):
            return value
        if isinstance(value, Codes):
            value = Summed(self.shape_of(value), operands=(Operand(value),))
        if isinstance(value, Contracted):
            return self._contract(value, grid)
        assert isinstance(value, Summed)
        name = self.name("sum") if grid else self.site("sum", value.value)
        node = Sum(name, tuple(o.source.slot for o in value.operands), (self.slot(),), grid or name, value)
        return self.coded(self.emit(node), node.grid, value.shape)

    def coded(self, node: nodes.Node, grid: str, shape: Sequence[Any]) -> Codes:
        """The first result of a node as codes."""
        codes = Codes(node.outputs[0], grid)
        self._shapes[codes.slot] = tuple(shape)
        return codes

    def shape_of(self, value: Value) -> tuple[Any, ...]:
        """Shape of data."""
        return value.shape if isinstance(value, Open) else self._shapes[value.slot]  # type: ignore[union-attr]

    def moved(self, step: Step, operands: Sequence[Value], grid: str) -> list[Value]:
        """Binds the primitive of a step to codes of one grid."""
        slots = tuple(o.slot for o in operands if isinstance(o, Codes))
        node = nodes.Move("", slots, tuple(self.slot() for _ in step.outputs), step.eqn, self._fixed(operands))
        self.emit(node)
        found: list[Value] = []
        for slot, value in zip(node.outputs, step.outputs, strict=True):
            self._shapes[slot] = self.flat.shape(value)
            is_code = jnp.issubdtype(self.flat.avals[value].dtype, jnp.floating)
            found.append(Codes(slot, grid) if is_code else Native(slot))
        return found

    def fail(self, step: Step, why: str) -> NoReturn:
        """Raises an error that names the primitive, the line, and the way out."""
        way_out = (
            "A product with parameters stands behind it, so it is no tail: take it out of the function, or run the "
            "parts before and behind it as two integer functions"
            if self._retried
            else "Take it out of the function (softmax and the like: apply them to what the integer function returns), "
            'or pass tail="float" if no product with parameters stands behind it'
        )
        line = step.line or "an unknown line"
        raise NoIntegerForm(f"integer_only: {step.eqn.primitive.name} at {line}: {why}. {way_out}")

    # The walk ----------------------------------------------------------------------------------------------------

    def _walk(self, ending: int) -> None:
        """Plans all steps; those from ``ending`` on are computed in floats unless they end the operation before."""
        self.nodes: list[nodes.Node] = []
        self.sites: dict[str, Site] = {}
        self.tail: Step | None = None
        self._slots = self._names = 0
        self._shapes: dict[int, tuple[Any, ...]] = {}  # of codes, by slot
        self._floats: dict[tuple[int, Any], int] = {}  # slots of what was dequantized
        self._env: dict[int, Value] = {}
        self.inputs = tuple(self.slot() for _ in self._data)
        for (value, name), slot in zip(self._data.items(), self.inputs, strict=True):
            self._env[value] = self._entering(value, name, slot)
        for at, step in enumerate(self._steps):
            self._take(step, at >= ending)
        self.results = tuple(self._result(value, at) for at, value in enumerate(self.flat.outputs))

    def _entering(self, value: int, name: str, slot: int) -> Value:
        aval = self.flat.avals[value]
        if not jnp.issubdtype(aval.dtype, jnp.floating) or value not in self.flat.uses:
            return Native(slot)
        return self.quantized(value, slot, name)

    def quantized(self, value: int, slot: int, source: str = "") -> Codes:
        """Float data on a grid: the way in."""
        grid = self.site("input", value, source=source)
        node = nodes.Quantize(grid, (slot,), (self.slot(),), grid)
        return self.coded(self.emit(node), grid, self.flat.shape(value))

    def _take(self, step: Step, ending: bool) -> None:
        from jaxcompress.quantize.integer.rules import RULES  # the rules name this class in their signatures

        operands = [Known(v) if self.flat.known(v) else self._env[v] for v in step.inputs]
        rule = RULES.get(step.eqn.primitive.name)
        alone = len(operands) - sum(isinstance(operand, Known) for operand in operands) == 1
        if any(isinstance(o, Floating) for o in operands) or (ending and not (alone and _ends(step))):
            outs = self._floating(step, operands)
        elif all(isinstance(operand, Known | Native) for operand in operands):
            outs = self._native(step, operands)
        elif rule is None or any(isinstance(operand, Native) for operand in operands):
            self.fail(step, "it has no integer form between quantized values")
        else:
            try:
                outs = rule(self, step, operands)
            except NoIntegerForm:
                if not ending:
                    raise
                outs = self._floating(step, operands)
        for value, out in zip(step.outputs, outs, strict=True):
            self._env[value] = self._defined(value, out)

    def _defined(self, value: int, out: Value) -> Value:
        """What several steps read is rounded once, here."""
        if not isinstance(out, Open):
            return out
        out = dataclasses.replace(out, value=value)
        return self.settled(out) if self.flat.uses.get(value, 0) > 1 else out

    def _contract(self, value: Contracted, grid: str | None) -> Codes:
        paths = dict.fromkeys(p for part in value.products for p in sorted(self.flat.paths[part.weight]))
        kind = "conv" if type(value.products[0].op).__name__ == "Conv" else "dot"
        name = self.name(kind) if grid else self.site(kind, value.value, parameters=tuple(paths))
        slots = tuple(part.source.slot for part in value.products)
        node = Contract(name, slots, (self.slot(),), grid or name, value)
        return self.coded(self.emit(node), node.grid, value.shape)

    def _native(self, step: Step, operands: Sequence[Value]) -> list[Value]:
        """Integers and truth values of the traced function itself; where they become floats, a grid begins."""
        if any(isinstance(o, Known) and self.flat.paths[o.value] for o in operands):
            self.fail(step, "it brings parameters and data that is no float together (a lookup)")
        slots = tuple(o.slot for o in operands if isinstance(o, Native))
        made = nodes.Same("", slots, tuple(self.slot() for _ in step.outputs), step.eqn, self._fixed(operands))
        self.emit(made)
        floats = [jnp.issubdtype(self.flat.avals[value].dtype, jnp.floating) for value in step.outputs]
        if any(floats) and step.eqn.primitive.name != "convert_element_type":
            self.fail(step, "it makes floats of integers")
        pairs = zip(step.outputs, made.outputs, floats, strict=True)
        return [self.quantized(value, slot) if is_float else Native(slot) for value, slot, is_float in pairs]

    def _floating(self, step: Step, operands: Sequence[Value]) -> list[Value]:
        """A step of the float tail."""
        self.tail = self.tail or step
        pairs = zip(step.inputs, operands, strict=True)
        slots = tuple(self._dequantized(o, self.flat.avals[v].dtype) for v, o in pairs if not isinstance(o, Known))
        held = tuple(
            (at, o.value, self.flat.shape(o.value), self.flat.avals[o.value].dtype)
            for at, o in enumerate(operands)
            if isinstance(o, Known) and self.flat.paths[o.value]
        )
        outputs = tuple(self.slot() for _ in step.outputs)
        name = self.name(step.eqn.primitive.name) if held else ""
        self.emit(nodes.Tail(name, slots, outputs, step.eqn, self._fixed(operands), held))
        return [Floating(slot) for slot in outputs]

    def _fixed(self, operands: Sequence[Value]) -> tuple[tuple[int, Any], ...]:
        """Known operands that no parameter enters, evaluated."""
        pairs = [
            (at, o.value) for at, o in enumerate(operands) if isinstance(o, Known) and not self.flat.paths[o.value]
        ]
        return tuple(
            (at, array) for (at, _), array in zip(pairs, self.flat.evaluate({}, [v for _, v in pairs]), strict=True)
        )

    def _dequantized(self, value: Value, dtype: Any) -> int:
        if isinstance(value, Native | Floating):
            return value.slot
        codes = self.settled(value)
        key = codes.slot, dtype
        if key not in self._floats:
            node = nodes.Dequantize(self.name("output"), (codes.slot,), (self.slot(),), codes.grid, dtype)
            self._floats[key] = self.emit(node).outputs[0]
        return self._floats[key]

    def _result(self, value: int, at: int) -> int:
        if self.flat.known(value):
            raise ValueError(
                f"integer_only: result {at} of the function depends on no data; return what comes from the inputs alone"
            )
        return self._dequantized(self._env[value], self.flat.avals[value].dtype)
