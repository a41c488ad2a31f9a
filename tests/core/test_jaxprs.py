"""The loop over equations that all analyses share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import bind
from jaxcompress.core.jaxprs import CALLS, called, closed, walk_through

TABLE = np.arange(3, dtype=np.float32)


def traced(x):
    """A constant, literals, an equation of two results, calls within calls, and a result that is an argument."""
    double = jax.jit(lambda x: jax.checkpoint(lambda y: 2.0 * y)(x))
    values, _ = jax.lax.top_k(double(x) + jnp.asarray(TABLE), 2)
    return values, x, 7


def test_a_walk_with_arrays_is_the_function():
    entered = []

    def equation(eqn, values):
        if eqn.primitive.name in CALLS:
            entered.append(eqn.primitive.name)
            return walk_through(*called(eqn), values, equation, jnp.asarray)
        return bind(eqn, values)

    x = jnp.array([3.0, -1.0, 0.5])
    inner, consts = closed(jax.make_jaxpr(traced)(x))
    found = walk_through(inner, consts, [x], equation, jnp.asarray)
    assert entered[:1] == ["jit"]
    assert len(entered) > 1  # the checkpoint within
    for one, other in zip(found, traced(x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_may_be_of_any_kind():
    """How deep a value lies: one more than the deepest operand; constants and literals lie at 0."""

    def equation(eqn: JaxprEqn, depths):
        return [1 + max(depths)] * len(eqn.outvars)

    jaxpr, consts = closed(jax.make_jaxpr(lambda x: (jnp.sin(x * 2.0) + x, 1.0))(1.0))
    assert walk_through(jaxpr, consts, [10], equation, lambda _: 0) == [13, 0]
