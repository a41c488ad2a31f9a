"""Where parameters alone scale and shift what a product gave: chains of affine steps, found in a trace.

A batch normalization in evaluation mode is such a chain, whoever wrote it. What parameters alone determine is kept as
an expression, which can be evaluated anew with other parameters; everything else is data, of which only is known by
which steps it came from a product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.groups.labels import shape_of
from jaxcompress.core.interpreter import bind
from jaxcompress.core.jaxprs import CALLS, called, closed, walk_through
from jaxcompress.core.lift import array_paths, split_static, trace

Key = tuple[str, tuple[int, ...]]
"""A leaf: its path, and the entries of its first axes that enclosing scans took."""


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """A value that depends on parameters and constants alone: one result of an equation, a leaf, or a constant.

    Attributes:
        shape: of the value.
        leaf: the leaf, if it is one.
        eqn: the equation.
        operands: of the equation.
        index: which of its results.
        value: the constant.
        leaves: all leaves that it depends on.
        origin: if it is a leaf with its axes in another order: for every axis the one of the leaf, None for new ones.
    """

    shape: tuple[int, ...]
    leaf: Key | None = None
    eqn: JaxprEqn | None = None
    operands: tuple[Expression, ...] = ()
    index: int = 0
    value: Any = None
    leaves: frozenset[Key] = frozenset()
    origin: tuple[int | None, ...] | None = None

    def evaluate(self, params: Mapping[str, jax.Array], known: dict[int, Any] | None = None) -> jax.Array:
        """The value at some parameters; axes along which it is only repeated may have length 1."""
        known = {} if known is None else known
        if id(self) not in known:
            if self.eqn is None:
                known[id(self)] = self._given(params)
            else:
                operands = [operand.evaluate(params, known) for operand in self.operands]
                known[id(self)] = _computed(self, operands)
        return known[id(self)]

    def _given(self, params: Mapping[str, jax.Array]) -> jax.Array:
        if self.leaf is None:
            return self.value
        path, steps = self.leaf
        return params[path][steps]

    def walk(self) -> Iterator[Expression]:
        """This expression and all that it is made of, each once."""
        seen = set[int]()
        waiting: list[Expression] = [self]
        while waiting:
            here = waiting.pop()
            if id(here) not in seen:
                seen.add(id(here))
                yield here
                waiting += here.operands


@dataclasses.dataclass(eq=False)
class Data:
    """A value that depends on the inputs.

    Attributes:
        shape: of the value.
        before: the value that a step made it from.
        step: name of the step (``add``, ``sub``, ``from`` for ``operand - value``, ``mul``, ``div``, ``convert``,
            ``transpose``).
        operand: what the step takes besides.
        product: the equation, if it is a product or a convolution of data with an expression.
        kernel: that expression.
        side: which operand the kernel is.
        order: of the axes after a transpose.
        uses: how many equations it meets; results of the whole count.
    """

    shape: tuple[int, ...]
    before: Data | None = None
    step: str = ""
    operand: Expression | None = None
    product: JaxprEqn | None = None
    kernel: Expression | None = None
    side: int = 0
    order: tuple[int, ...] = ()
    uses: int = 0

    def channels(self) -> dict[int, int] | None:
        """Of the product: for every axis of the result that comes from the kernel alone, the kernel's axis.

        None if the kernel is what a convolution slides over.
        """
        if self.product is None or self.kernel is None:
            return {}
        numbers = self.product.params["dimension_numbers"]
        if self.product.primitive.name == "conv_general_dilated":
            return {numbers.out_spec[1]: numbers.rhs_spec[0]} if self.side else None
        (contract, batch), ndim = numbers, len(self.kernel.shape)
        own = [axis for axis in range(ndim) if axis not in (*contract[self.side], *batch[self.side])]
        first = len(self.shape) - len(own) if self.side else len(batch[0])
        mapped = {first + i: axis for i, axis in enumerate(own)}
        return mapped | dict(enumerate(batch[self.side]))


@dataclasses.dataclass
class Chains:
    """All that a walk found.

    Attributes:
        ends: the last values of chains, in order of evaluation.
        met: for every leaf how many equations with data it meets, alone or in an expression.
    """

    ends: list[Data] = dataclasses.field(default_factory=list)
    met: dict[Key, int] = dataclasses.field(default_factory=dict)


def chains(fn: Callable[..., Any], params: Any, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> Chains:
    """Walks a call. Nothing is computed."""
    count = len(split_static(fn, (params,), {})[1])
    static, arrays = split_static(fn, (params, *inputs), dict(kwargs))
    jaxpr, _ = trace(fn, static, arrays)
    args: list[Expression | Data] = []
    for i, (path, var) in enumerate(zip(array_paths(static), jaxpr.jaxpr.invars, strict=True)):
        args.append(_leaf((path, ()), shape_of(var)) if i < count else Data(shape_of(var)))
    walk = _Walk()
    for out in walk.run(jaxpr.jaxpr, jaxpr.consts, args):
        walk.meet(out)
    return Chains([data for data in walk.made if data.step and not walk.continued(data)], walk.met)


class _Walk:
    def __init__(self) -> None:
        self.made: list[Data] = []
        self.met: dict[Key, int] = {}
        self._before: set[int] = set()

    def continued(self, data: Data) -> bool:
        """True if a step follows."""
        return id(data) in self._before

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        return walk_through(jaxpr, consts, args, self.equation, _constant)

    def equation(self, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        name = eqn.primitive.name
        if name in CALLS:
            return self.run(*called(eqn), values)
        if all(isinstance(value, Expression) for value in values) and not eqn.effects:
            return _derived(eqn, values)
        if name == "scan" and self._unrolls(eqn, values):
            return self.scan(eqn, values)
        for value in values:
            self.meet(value)
        made = [self._made(eqn, values) if len(eqn.outvars) == 1 else Data(shape_of(out)) for out in eqn.outvars]
        self.made += made
        return made

    def meet(self, value: Any) -> None:
        """An equation with data, or the end, meets a value."""
        if isinstance(value, Data):
            value.uses += 1
            return
        for leaf in value.leaves:
            self.met[leaf] = self.met.get(leaf, 0) + 1

    def _made(self, eqn: JaxprEqn, values: Sequence[Any]) -> Data:
        name, shape = eqn.primitive.name, shape_of(eqn.outvars[0])
        if name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
            return self._step(shape, values[0], "convert", None)
        if name == "transpose":
            self._before.add(id(values[0]))
            return Data(shape, values[0], "transpose", order=tuple(eqn.params["permutation"]))
        if len(values) != 2 or isinstance(values[0], Data) == isinstance(values[1], Data):
            return Data(shape)
        first = isinstance(values[0], Data)
        data, other = values if first else values[::-1]
        if name in _PRODUCTS:
            return Data(shape, product=eqn, kernel=other, side=int(first))
        step = {"add": "add", "mul": "mul", "sub": "sub" if first else "from", "div": "div" if first else ""}.get(name)
        return self._step(shape, data, step, other) if step else Data(shape)

    def _step(self, shape: tuple[int, ...], data: Data, step: str, operand: Expression | None) -> Data:
        if data.shape != shape:
            return Data(shape)
        self._before.add(id(data))
        return Data(shape, data, step, operand)

    def _unrolls(self, eqn: JaxprEqn, values: Sequence[Any]) -> bool:
        """True if layers are scanned: something sliced is a parameter."""
        xs = values[eqn.params["num_consts"] + eqn.params["num_carry"] :]
        return eqn.params["length"] <= _MOST_STEPS and any(isinstance(x, Expression) and x.leaf for x in xs)

    def scan(self, eqn: JaxprEqn, values: Sequence[Any]) -> list[Data]:
        """Every step is walked by itself."""
        params = eqn.params
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        inner, consts = closed(params["jaxpr"])
        fixed, carry, xs = values[:n_consts], list(values[n_consts : n_consts + n_carry]), values[n_consts + n_carry :]
        for x in xs:
            if not (isinstance(x, Expression) and x.leaf):
                self.meet(x)
        for step in reversed(range(length)) if params["reverse"] else range(length):
            slices = [self._slice(x, step) for x in xs]
            outs = self.run(inner, consts, [*fixed, *carry, *slices])
            carry = outs[:n_carry]
            for out in outs[n_carry:]:
                self.meet(out)
        for out in carry:
            self.meet(out)
        return [Data(shape_of(out)) for out in eqn.outvars]

    def _slice(self, x: Any, step: int) -> Expression | Data:
        if isinstance(x, Expression) and x.leaf:
            path, steps = x.leaf
            return _leaf((path, (*steps, step)), x.shape[1:])
        return Data(x.shape[1:])


def _leaf(key: Key, shape: tuple[int, ...]) -> Expression:
    return Expression(shape, leaf=key, leaves=frozenset([key]), origin=tuple(range(len(shape))))


def _constant(value: Any) -> Expression:
    return Expression(jnp.shape(value), value=value)


def _derived(eqn: JaxprEqn, values: Sequence[Expression]) -> list[Expression]:
    leaves = frozenset[Key]().union(*(value.leaves for value in values))
    origin = _origin(eqn, values[0]) if values else None
    return [
        Expression(shape_of(out), None, eqn, tuple(values), index, None, leaves, origin)
        for index, out in enumerate(eqn.outvars)
    ]


def _origin(eqn: JaxprEqn, value: Expression) -> tuple[int | None, ...] | None:
    """Where the axes of a moved leaf come from."""
    name, params = eqn.primitive.name, eqn.params
    if value.origin is None:
        return None
    if name in ("convert_element_type", "copy", "reduce_precision", "stop_gradient"):
        return value.origin
    if name == "rev":
        return tuple(None if i in params["dimensions"] else axis for i, axis in enumerate(value.origin))
    if name == "transpose":
        return tuple(value.origin[i] for i in params["permutation"])
    if name == "broadcast_in_dim":
        target: list[int | None] = [None] * len(params["shape"])
        for axis, to in enumerate(params["broadcast_dimensions"]):
            target[to] = value.origin[axis] if value.shape[axis] == params["shape"][to] else None
        return tuple(target)
    if name == "squeeze":
        return tuple(axis for i, axis in enumerate(value.origin) if i not in params["dimensions"])
    if name == "reshape":
        before = [axis for axis, size in zip(value.origin, value.shape, strict=True) if size != 1]
        after = [i for i, size in enumerate(shape_of(eqn.outvars[0])) if size != 1]
        sizes = [size for size in value.shape if size != 1]
        if sizes == [size for size in shape_of(eqn.outvars[0]) if size != 1]:
            places = dict(zip(after, before, strict=True))
            return tuple(places.get(i) for i in range(len(shape_of(eqn.outvars[0]))))
    return None


def _computed(expression: Expression, operands: Sequence[jax.Array]) -> jax.Array:
    """Binds the equation; what would only be repeated is left at length 1."""
    eqn = expression.eqn
    assert eqn is not None  # the caller looked
    if eqn.primitive.name == "broadcast_in_dim":
        shape = [1] * len(eqn.params["shape"])
        for size, to in zip(operands[0].shape, eqn.params["broadcast_dimensions"], strict=True):
            shape[to] = size
        return operands[0].reshape(shape)
    if eqn.primitive.name in _THIN:
        if len(operands) == 1:
            return bind(eqn, operands)[0]
        ndim = max(operand.ndim for operand in map(jnp.asarray, operands))
        raised = [jnp.reshape(operand, jnp.shape(operand) or (1,) * ndim) for operand in operands]
        return bind(eqn, jnp.broadcast_arrays(*raised))[0]
    full = [jnp.broadcast_to(x, operand.shape) for x, operand in zip(operands, expression.operands, strict=True)]
    return bind(eqn, full)[expression.index]


_MOST_STEPS = 64
_PRODUCTS = ("dot_general", "conv_general_dilated")
_NAMES = "add convert_element_type div exp integer_pow log max min mul neg pow rsqrt sqrt square sub"
_THIN = frozenset(_NAMES.split())
