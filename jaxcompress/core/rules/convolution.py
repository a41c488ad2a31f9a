"""Convolutions whose kernel is a leaf."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter
from jaxcompress.core.view import Concat, Value, View


def conv_general_dilated(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """The kernel stays compressed when it is a leaf up to a transposition; a lazy input is materialized."""
    x, kernel = values
    if isinstance(x, View | Concat) or not isinstance(kernel, View):
        return None
    axes = kernel.leaf_axes()
    if axes is None:
        return None
    numbers = eqn.params["dimension_numbers"]
    out_axis, in_axis, *spatial = (axes[axis] for axis in numbers.rhs_spec)
    params = dict(eqn.params, dimension_numbers=numbers._replace(rhs_spec=(out_axis, in_axis, *spatial)))
    out = kernel.leaf.at_site(run.ordinal(eqn, kernel)).conv(x, **params)
    served = out is not None
    if out is None:
        out = lax.conv_general_dilated_p.bind(x, kernel.leaf.materialize(), **params)
    use = run.record(
        eqn,
        kernel,
        served=served,
        reason=f"{kernel.leaf.kind} conv"
        if served
        else f"a {kernel.leaf.kind} leaf has no compressed form of this convolution",
        contract=(in_axis, *spatial),
        macs=math.prod(out.shape) * math.prod(kernel.leaf.shape[axis] for axis in (in_axis, *spatial)),
    )
    out = kernel.scaled(out)
    if run.listener is not None:
        run.listener.convolution(run, use, x, out, params)
    return [out]


RULES = {"conv_general_dilated": conv_general_dilated}
