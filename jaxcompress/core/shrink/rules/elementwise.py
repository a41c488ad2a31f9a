"""Primitives that act entry by entry: operands that meet are cut alike, whole ones on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.shrink.cut import Keep, Kept, array_of, is_cut, keep_of, value_of
from jaxcompress.core.shrink.propagate import Propagation, shape_out, shapes_in

NAMES = """
abs acos acosh add add_any add_jaxvals and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex
conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul name ne neg
nextafter not or pcast polygamma population_count pow pvary random_gamma_grad real reduce_precision
regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh
sqrt square stop_gradient sub tan tanh xor zeta
"""


def elementwise(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Axes that meet keep the same; scalars and axes of size 1 serve every entry."""
    shape, shapes = shape_out(eqn), shapes_in(eqn)
    keep = tuple(_met(run, eqn, values, shapes, axis, size) for axis, size in enumerate(shape))
    arrays = []
    for value, own in zip(values, shapes, strict=True):
        wanted = _of_operand(keep, own, shape)
        arrays.append(array_of(run.fit(eqn, value, wanted)))
    return [value_of(out, keep) for out in bind(eqn, arrays)]


def _met(
    run: Propagation, eqn: JaxprEqn, values: Sequence[Any], shapes: Sequence[Any], axis: int, size: Any
) -> Kept | None:
    met = [value for value, own in zip(values, shapes, strict=True) if len(own) > axis]
    sizes = [own[axis] for own in shapes if len(own) > axis]
    for value, own in zip(met, sizes, strict=True):
        if own != size:
            run.whole(eqn, value, [axis], "an axis that is repeated")
    return run.join(eqn, [keep_of(v)[axis] for v, own in zip(met, sizes, strict=True) if own == size], f"axis {axis}")


def _of_operand(keep: Keep, own: Sequence[Any], shape: Sequence[Any]) -> Keep:
    if len(own) != len(shape):
        return (None,) * len(own)  # a scalar
    return tuple(kept if a == b else None for kept, a, b in zip(keep, own, shape, strict=True))


def bitcast(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Reads the bits as another dtype; an axis of parts comes or goes at the end, and must be whole."""
    (value,) = values
    keep, ndim = keep_of(value), len(shape_out(eqn))
    run.whole(eqn, value, range(ndim, len(keep)), "the axis of the parts")
    out = bind(eqn, [array_of(value)])[0]
    return [value_of(out, (*keep, None)[:ndim])]


def each(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Primitives that pass every operand on: each keeps what it kept."""
    outs = bind(eqn, [array_of(value) for value in values])
    return [value_of(out, keep_of(value)) for out, value in zip(outs, values, strict=True)]


def constraint(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A sharding constraint holds on; along axes that no longer divide by their devices it is dropped."""
    (value,) = values
    sharding = eqn.params["sharding"]
    array = array_of(value)
    if isinstance(sharding, jax.sharding.NamedSharding):
        return [value_of(lax.with_sharding_constraint(array, dividing(sharding, array.shape)), keep_of(value))]
    return [value]


def dividing(sharding: jax.sharding.NamedSharding, shape: Sequence[int]) -> jax.sharding.NamedSharding:
    """The sharding without the entries whose devices do not divide the axis."""
    entries: list[Any] = []
    for size, entry in zip(shape, (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))), strict=True):
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        count = 1
        for name in names:
            count *= sharding.mesh.shape[name]
        entries.append(entry if size % count == 0 else None)
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*entries))


def effect(run: Propagation, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    """A printed value is printed as it is now, small."""
    if eqn.outvars:
        cut = [kept for value in values if is_cut(value) for kept in keep_of(value)]
        run.fail(eqn, "a callback cannot know what was cut", cut)
    return bind(eqn, [array_of(value) for value in values])


RULES = {
    **dict.fromkeys(NAMES.split(), elementwise),
    "bitcast_convert_type": bitcast,
    "optimization_barrier": each,
    "sharding_constraint": constraint,
    "debug_callback": effect,
    "debug_print": effect,
}
