"""`integer_only`: a function of floats as a function of integers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcompress.core.granularity import Granularity
from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.tree import materialize, stored_bytes
from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.integer.build import IntegerParams, integer_params
from jaxcompress.quantize.integer.calibrate import Calibration
from jaxcompress.quantize.integer.flat import Flat
from jaxcompress.quantize.integer.plan import Plan, Tail
from jaxcompress.quantize.integer.report import IntegerReport
from jaxcompress.quantize.ranges import Range


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IntegerFunction:
    """A function computed in integers; what `integer_only` returns.

    ``int_fn(*inputs)`` is ``int_fn.apply(int_fn.params, *inputs)``, compiled. ``apply`` is pure: jit it, export it, or
    close over nothing. It traces the float function at the shapes of the inputs, any batch size, but takes only the
    structure from there: numbers come from ``params``.

    Attributes:
        params: the integer model: for each operation its int8 weights, int32 biases, multipliers and shifts, and zero
            points. The only floats are one scale for every input and result.
        report: the grids, the size, and whether there is a float tail.
    """

    params: IntegerParams
    report: IntegerReport
    _trace: Callable[[tuple[Any, ...]], tuple[Plan, list[Any], Any]]
    _signature: tuple[Any, ...]

    def apply(self, params: IntegerParams, *inputs: Any) -> Any:
        """The results, dequantized, of the structure that the float function returns.

        Args:
            params: as ``self.params``.
            *inputs: of the float function, behind its parameters; any batch size.

        Raises:
            ValueError: if the float function does something else for inputs of these shapes, or ``params`` are not of
                this function.
        """
        plan, entering, treedef = self._trace(inputs)
        if plan.signature() != self._signature:
            raise ValueError(
                "integer_only: for inputs of these shapes the function is another program than the one that was "
                "calibrated; calibrate with batches of these shapes"
            )
        missing = [node.name for node in plan.nodes if node.name and node.name not in params]
        if missing:
            raise ValueError(f"integer_only: params hold nothing for {missing[0]!r}; take those of this function")
        return jax.tree.unflatten(treedef, _executed(plan, params, entering))

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        return jax.jit(self.apply)

    def __call__(self, *inputs: Any) -> Any:
        """The results, compiled once per shape."""
        return self._compiled(self.params, *inputs)

    def with_params(self, params: IntegerParams) -> IntegerFunction:
        """The same function with other integer parameters: those of a file, say."""
        return dataclasses.replace(self, params=params)

    def __repr__(self) -> str:
        """One line."""
        report = self.report
        return f"IntegerFunction({len(report.sites)} sites, {report.integer_bytes:,} bytes, tail={report.tail!r})"


def integer_only(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    bits: int | Mapping[str, int] = 8,
    activation_bits: int = 8,
    granularity: Granularity = "channel",
    ranges: str | Range = "minmax",
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    tail: Tail = "error",
    **kwargs: Any,
) -> IntegerFunction:
    """Turns a float function into one whose arithmetic between its inputs and its results is in integers.

    Activations are int8 with a scale and a zero point for each tensor, weights symmetric int8 with a scale for each
    output channel, sums int32, biases int32 on the scale of the sum. A sum is brought to the grid of its result by an
    int32 multiplier and a rounding shift, as gemmlowp and LiteRT do it. Padding is the zero point, so that it stands
    for zero. What scales and shifts a contraction (a BatchNorm in evaluation mode, a bias) is folded into its weights
    before they are rounded; a ReLU, ReLU6 or clip behind it becomes two bounds. Residual additions, concatenations,
    average and max pooling, means and what moves entries follow. The program has no state and gives the same bits in
    every batch size, under ``jit`` and after `jax.export`.

    Everything is found from the jaxpr; a primitive that has no integer form is an error. A ``softmax`` at the end is
    such a primitive. The default is the error, as with a LiteRT converter that is asked for integers alone: leave it
    out of the function, or pass ``tail="float"``, with which everything from there on runs in floats, as the report
    then says. ``argmax`` is computed on the codes.

    Args:
        fn: ``fn(params, *inputs)``, in evaluation mode; a function that ``jit`` accepts.
        params: its first argument. Compressed leaves are made dense and quantized anew, to the same codes where they
            hold symmetric int8 with a scale per output channel and nothing is folded into them.
        batches: calibration data, run through the float function once.
        bits: width of weights, 2 to 8, or a dict from globs over paths to that; codes are held in int8 in any case.
        activation_bits: likewise of activations, for all.
        granularity: ``"channel"`` or ``"tensor"``: of the scales of weights.
        ranges: of activations: ``"minmax"``, ``"percentile"``, ``"mse"``, ``"entropy"``, ``"moving_average"``, or a
            range of `jaxcompress.quantize.ranges` with options. Only values that are rounded to a grid get one.
        inputs: turns a batch into the arguments after ``params``. Default: a tuple is spread, anything else is the only
            argument.
        tail: ``"error"`` or ``"float"``, see above.
        **kwargs: keyword arguments of ``fn``, fixed.

    Returns:
        The integer function.

    Raises:
        ValueError: if a primitive has no integer form (names it, the line and the way out), no batch came, a value was
            not finite (names the site), or an option is wrong.

    Example:
        >>> fn = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None])
        >>> params = {"w": jnp.array([[1.0, -0.5], [0.25, 2.0]]), "b": jnp.array([0.5, -0.5])}
        >>> x = jnp.array([[0.5, 1.0], [-1.0, 0.25]])
        >>> int_fn = integer_only(fn, params, [x])
        >>> fn(params, x).tolist(), bool(jnp.abs(int_fn(x) - fn(params, x)).max() < 0.01)
        ([[1.25, 1.25], [0.0, 0.5]], True)
        >>> int_fn.params["001_dot"]["weight_0"].dtype
        dtype('int8')

    References:
        Jacob et al., 2018. https://arxiv.org/abs/1712.05877
    """
    _check(tail, granularity, bits, activation_bits)
    dense = materialize(params)
    abstract = jax.tree.map(_abstract, dense)
    bound = functools.partial(fn, **kwargs)
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    traced = functools.partial(_traced, bound, abstract, tail)
    leaves = [leaf for leaf in jax.tree.leaves(dense) if _is_array(leaf)]

    def planner(args: tuple[Any, ...]) -> tuple[Plan, list[Any]]:
        plan, entering, _ = traced(args)
        return plan, [*leaves, *entering]

    calibration = Calibration(ranges, format_of("int", activation_bits, symmetric=False, method="integer_only"))
    plan = calibration.run(planner, batches, spread)
    grids = calibration.grids(plan.sites)
    found = integer_params(plan, grids, leaves, bits, granularity)
    first = plan.tail
    report = IntegerReport(
        tuple(plan.sites.values()),
        grids,
        first and f"{first.eqn.primitive.name} at {first.line}",
        stored_bytes(found),
        stored_bytes(_used(plan, leaves)),
    )
    return IntegerFunction(found, report, traced, plan.signature())


def _traced(fn: Callable[..., Any], abstract: Any, tail: Tail, args: tuple[Any, ...]) -> tuple[Plan, list[Any], Any]:
    """The plan of a call, the arrays of its inputs, and the structure of its results."""
    static, arrays = split_static(fn, (abstract, *args), {})
    paths = array_paths(static)
    count = sum(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    closed, out_shape = trace(fn, static, arrays)
    flat = Flat(closed, dict(enumerate(paths[:count])))
    data = dict(zip(flat.inputs[count:], paths[count:], strict=True))
    return Plan(flat, data, tail), arrays[count:], jax.tree.structure(out_shape)


def _executed(plan: Plan, params: IntegerParams, entering: Sequence[Any]) -> list[jax.Array]:
    env: dict[int, Any] = dict(zip(plan.inputs, entering, strict=True))
    for node in plan.nodes:
        outs = node.run(params.get(node.name, {}), [env[slot] for slot in node.inputs])
        env.update(zip(node.outputs, outs, strict=True))
    return [env[slot] for slot in plan.results]


def _used(plan: Plan, leaves: Sequence[Any]) -> list[Any]:
    return [leaf for value, leaf in zip(plan.flat.inputs, leaves, strict=False) if plan.flat.uses.get(value)]


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if _is_array(leaf) else leaf


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _check(tail: str, granularity: str, bits: int | Mapping[str, int], activation_bits: int) -> None:
    for name, value, allowed in (
        ("tail", tail, ("error", "float")),
        ("granularity", granularity, ("channel", "tensor")),
    ):
        if value not in allowed:
            raise ValueError(f"integer_only: {name} must be one of {allowed}, got {value!r}")
    widths = {"activation_bits": activation_bits} | (
        {f"bits[{glob!r}]": width for glob, width in bits.items()} if isinstance(bits, Mapping) else {"bits": bits}
    )
    for name, width in widths.items():
        if isinstance(width, bool) or not isinstance(width, int) or not 2 <= width <= 8:
            raise ValueError(f"integer_only: {name} must be an integer from 2 to 8, got {width!r}")
