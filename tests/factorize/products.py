"""Contractions in every form that a leaf kind may be asked for, and what they cost."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.core.kinds import all_equations

# Shape of x, and ((x contracted, leaf contracted), (x batch, leaf batch)); the leaf is (6, 4, 5), the last ones
# (3, 6, 4, 5) with a stack axis.
PRODUCTS = {
    "first": ((7, 6), (((1,), (0,)), ((), ()))),
    "last": ((5, 7), (((0,), (2,)), ((), ()))),
    "two": ((4, 7, 6), (((2, 0), (0, 1)), ((), ()))),
    "all": ((5, 6, 4), (((1, 2, 0), (0, 1, 2)), ((), ()))),
    "in step": ((4, 7, 6), (((2,), (0,)), ((0,), (1,)))),
    "nothing": ((7,), (((), ()), ((), ()))),
}
STACKED = {
    "stack in step": ((3, 7, 6), (((2,), (1,)), ((0,), (0,)))),
    "stack free": ((7, 6), (((1,), (1,)), ((), ()))),
    "stack summed": ((7, 3, 6), (((1, 2), (0, 1)), ((), ()))),
}


def assert_product(leaf, x_shape, numbers):
    """`matmul` is the dense product."""
    x = jnp.asarray(np.random.default_rng(4).normal(size=x_shape), jnp.float32)
    out = leaf.matmul(x, contract=numbers[0], batch=numbers[1])
    expected = lax.dot_general(x, leaf.materialize(), numbers)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def multiplications(fn, *args):
    """Of all dot products that a function runs."""
    total = 0
    for eqn in all_equations(jax.make_jaxpr(fn)(*args).jaxpr):
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            summed = math.prod(eqn.invars[0].aval.shape[axis] for axis in contract)
            total += summed * math.prod(eqn.outvars[0].aval.shape)
    return total


def least_multiplications(terms, out, sizes):
    """By trying every order of pairs: terms are strings of axes, as in an Einstein sum."""
    if len(terms) == 1:
        return 0
    best = math.inf
    for i, j in itertools.combinations(range(len(terms)), 2):
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        union = set(terms[i]) | set(terms[j])
        kept = "".join(sorted(union & ({*out} | {name for term in rest for name in term})))
        own = math.prod(sizes[name] for name in union)
        best = min(best, own + least_multiplications([*rest, kept], out, sizes))
    return best
