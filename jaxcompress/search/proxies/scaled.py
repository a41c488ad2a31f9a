"""Numbers beyond the range of their dtype: arrays with a common factor that is kept as its logarithm.

In a network of absolute weights activations grow by orders of magnitude in each layer: that of a NAS-Bench-201 cell
passes 1e38, the end of float32, and published code computes in float64. Here each array is held as ``value * exp(log)``
with the largest entry of ``value`` near 1, so that float32, the only precision of many accelerators, is enough, also
for networks that would leave the range of float64. The factor is a constant for the derivative: that of the logarithm
of a result is exact, and its terms are of ordinary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.search.proxies.walk import Key, Walk

_NOTHING = -1e30  # the logarithm beside an array of zeros: it gives way to any other


class Scaled(NamedTuple):
    """``value * exp(log)``.

    Attributes:
        value: an array.
        log: float ``[]``, or ``[stack]`` while a scan stacks or slices it.
    """

    value: Any
    log: Any


class ScaledWalk(Walk):
    """Evaluates with floats as `Scaled`; other dtypes stay arrays. Nothing is summed.

    Operations that are homogeneous (products, sums, maxima, roots, everything that moves entries) keep or combine the
    factors; all others see the number itself, as they would without this walk.
    """

    def entered(self, value: Any) -> Any:
        """An array with its own factor."""
        return _normal(value, 0.0) if _is_float(value) else value

    def plain(self, value: Any) -> Any:
        """The number itself, which may overflow."""
        return value.value * _factor(value.log, value.value) if isinstance(value, Scaled) else value

    def stacked(self, value: Any) -> Any:
        """The factor repeated for every slice."""
        return Scaled(value.value, jnp.broadcast_to(value.log, value.value.shape[:1])) if _scaled(value) else value

    def unstacked(self, value: Any) -> Any:
        """One factor for all slices."""
        if not _scaled(value):
            return value
        log = jnp.max(value.log)
        shift = jnp.exp(value.log - log).reshape(-1, *(1,) * (value.value.ndim - 1))
        return Scaled(value.value * shift.astype(value.value.dtype), log)

    def equation(self, eqn: JaxprEqn, values: Sequence[Any], key: Key, total: Any) -> tuple[Sequence[Any], Any]:
        """One equation on scaled values."""
        del key
        rule = _RULES.get(eqn.primitive.name)
        scaled = any(map(_scaled, values))
        if scaled and rule is not None:
            return rule(eqn, values), total
        return [self.entered(out) for out in bind(eqn, [self.plain(value) for value in values])], total


def log_of_sum(outs: Sequence[Any], weights: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Logarithm of the absolute value of the weighted sum of all scaled values; minus infinity where it is zero.

    Args:
        outs: values of a walk; arrays that are no floats do not count.
        weights: from an array to factors of its shape.
    """
    scaled = [out for out in outs if isinstance(out, Scaled)]
    if not scaled:
        raise ValueError("fn: returns no float array, so nothing flows through it")
    log = jnp.max(jnp.stack([out.log for out in scaled]))
    parts = [jnp.sum(out.value * weights(out.value)) * jnp.exp(out.log - log).astype(out.value.dtype) for out in scaled]
    flow = jnp.abs(sum(part.astype(log.dtype) for part in parts))
    some = flow > 0
    return jnp.where(some, jnp.log(jnp.where(some, flow, 1.0)) + log, -jnp.inf)


def _scaled(value: Any) -> bool:
    return isinstance(value, Scaled)


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _log_dtype() -> Any:
    return jnp.zeros((), float).dtype


def _factor(log: Any, like: Any) -> Any:
    return jnp.exp(log).astype(like.dtype)


def _normal(value: Any, log: Any, *, zero: Any = _NOTHING) -> Scaled:
    """The same number with its largest entry 1; what is not finite stays as it is, zeros get the logarithm ``zero``.

    Zeros that are masked or given are nothing, and nothing is what varies with them. Differences that happen to be zero
    keep their logarithm: they have derivatives.
    """
    value = jnp.asarray(value)
    log = jnp.asarray(log, _log_dtype())
    if value.size == 0:
        return Scaled(value, jnp.full((), _NOTHING, _log_dtype()))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(value)))
    usable = (largest > 0) & jnp.isfinite(largest)
    factor = jnp.where(usable, largest, jnp.ones((), value.dtype))
    moved = log + jnp.log(factor.astype(log.dtype))
    return Scaled(value / factor, jnp.where(usable, moved, zero))


def _aligned(values: Sequence[Any]) -> tuple[list[Any], Any]:
    """Values under the largest of their factors; arrays that are not scaled pass."""
    log = jnp.max(jnp.stack([value.log for value in values if _scaled(value)]))

    def moved(value: Any) -> Any:
        if not _scaled(value):
            return value
        finite = jnp.isfinite(value.value)  # a padding of -inf stays one
        shifted = jnp.where(finite, value.value, jnp.zeros((), value.value.dtype)) * _factor(
            value.log - log, value.value
        )
        return jnp.where(finite, shifted, value.value)

    return [moved(value) for value in values], log


def _same_factor(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Entries are moved, chosen or added: all float operands under one factor, which the results keep."""
    plain, log = _aligned(values)
    return [Scaled(out, log) if _is_float(out) else out for out in bind(eqn, plain)]


def _summed(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    return [_normal(*out, zero=out.log) if _scaled(out) else out for out in _same_factor(eqn, values)]


def _selected(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    return [_normal(*out) if _scaled(out) else out for out in _same_factor(eqn, values)]


def _converted(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    if _is_float(jnp.zeros((), eqn.params["new_dtype"])):
        return _summed(eqn, values)
    return list(bind(eqn, [value.value * _factor(value.log, value.value) for value in values]))


def _product(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    log = sum(value.log for value in values if _scaled(value))
    return [_normal(out, log) for out in bind(eqn, [value.value if _scaled(value) else value for value in values])]


def _quotient(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    above, below = values
    return [_normal(out, above.log - below.log) for out in bind(eqn, [above.value, below.value])]


def _power(exponent: Callable[[JaxprEqn], float]) -> Callable[[JaxprEqn, Sequence[Any]], list[Any]]:
    def rule(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
        return [_normal(out, values[0].log * exponent(eqn)) for out in bind(eqn, [values[0].value])]

    return rule


def _names(text: str, rule: Any) -> dict[str, Any]:
    return dict.fromkeys(text.split(), rule)


_RULES: dict[str, Callable[[JaxprEqn, Sequence[Any]], list[Any]]] = {
    **_names(
        "reshape transpose broadcast_in_dim squeeze expand_dims slice dynamic_slice rev gather copy copy_p neg abs "
        "reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin sort max min clamp "
        "concatenate pad dynamic_update_slice scatter reduce_precision optimization_barrier split "
        "sharding_constraint stop_gradient eq ne lt le gt ge argmax argmin",
        _same_factor,
    ),
    **_names("add add_any sub reduce_sum cumsum reduce_window_sum scatter-add scatter_add", _summed),
    "convert_element_type": _converted,
    "select_n": _selected,
    **_names("mul dot_general conv_general_dilated ragged_dot_general", _product),
    "div": _quotient,
    "integer_pow": _power(lambda eqn: eqn.params["y"]),
    "square": _power(lambda _: 2.0),
    "sqrt": _power(lambda _: 0.5),
    "rsqrt": _power(lambda _: -0.5),
}
