"""Elementwise primitives as NumPy functions ``(params, *operands)``: what they make of a value that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

Function = Callable[..., Any]


def _plain(function: Callable[..., Any]) -> Function:
    return lambda params, *operands: function(*operands)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _converted(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    dtype = params["new_dtype"]
    if dtype == jnp.bool_:
        return x != 0
    return np.trunc(x) if jnp.issubdtype(dtype, jnp.integer) else x


def _logical(function: Callable[..., Any]) -> Function:
    """Of truth values; what other integers give is not known."""

    def of_truth_values(params: Mapping[str, Any], *operands: np.ndarray) -> np.ndarray:
        del params
        known = np.all([(x == 0) | (x == 1) for x in operands], axis=0)
        return np.where(known, function(*(x != 0 for x in operands)), np.nan)

    return of_truth_values


_PLAIN: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("conj", "copy", "copy_p", "name", "pvary", "real", "reduce_precision", "reshard"), _same),
    **dict.fromkeys(("sharding_constraint", "stop_gradient", "layout_constraint"), _same),
    **dict.fromkeys(("add", "add_any"), np.add),
    **dict.fromkeys(("eq", "eq_to"), np.equal),
    **dict.fromkeys(("le", "le_to"), np.less_equal),
    **dict.fromkeys(("lt", "lt_to"), np.less),
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "bessel_i0e": special.i0e,
    "bessel_i1e": special.i1e,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "cos": np.cos,
    "cosh": np.cosh,
    "digamma": special.digamma,
    "div": np.divide,
    "erf": special.erf,
    "erf_inv": special.erfinv,
    "erfc": special.erfc,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "imag": np.zeros_like,
    "is_finite": np.isfinite,
    "lgamma": special.gammaln,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": special.expit,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "pow": np.power,
    "rem": np.fmod,
    "round": np.round,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
}
FUNCTIONS: Mapping[str, Function] = {
    **{name: _plain(function) for name, function in _PLAIN.items()},
    "and": _logical(np.logical_and),
    "or": _logical(np.logical_or),
    "xor": _logical(np.logical_xor),
    "not": _logical(np.logical_not),
    "convert_element_type": _converted,
    "integer_pow": lambda params, x: np.power(x, float(params["y"])),
}
