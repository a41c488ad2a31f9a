"""What is computed from parameters and constants alone, followed for `sites` and `observe`.

A weight that is masked, normalised or standardised before it is used is still that weight: its axes keep their meaning
through elementwise operations with values that do not depend on the inputs. Such values are held as `Dense` views; the
path of a weight survives where shapes do, everything else that is derived carries no path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.tag import Dense
from jaxcompress.core.view import Concat, Origin, Value, View, view_of

_NAMES = """
abs add and ceil clamp convert_element_type copy cos cube div eq erf exp exp2 expm1 floor ge gt integer_pow is_finite
le log log1p logistic lt max min mul ne neg not or pow reduce_precision rem round rsqrt select_n sign sin sqrt square
stop_gradient sub tanh xor
"""
ELEMENTWISE = frozenset(_NAMES.split())


def constant(value: Any) -> Value:
    """A value that depends on nothing but constants."""
    return view_of(Dense(value if isinstance(value, jax.Array) else jnp.asarray(value)), None)


def derive(eqn: JaxprEqn, values: Sequence[Value], outs: Sequence[Any]) -> Sequence[Value]:
    """The results of an equation of derived values, as derived values; of others as they are."""
    if not all(isinstance(value, View | Concat) for value in values):
        return outs
    origin = _origin(values, outs[0]) if eqn.primitive.name in ELEMENTWISE else None
    if origin is None:
        return [constant(out) for out in outs]
    return [View(Dense(outs[0]), None, view_of(Dense(outs[0]), None).layout, origin)]


def _origin(values: Sequence[Value], out: Any) -> Origin | None:
    """The weight that an elementwise result stands for: the first operand of its shape that is one."""
    for value in values:
        if not isinstance(value, View) or value.origin.path is None or value.shape != out.shape:
            continue
        if value.leaf_axes() == tuple(range(value.ndim)):
            return value.origin
    return None
