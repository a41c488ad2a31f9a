"""Random networks, checked in float64: rounding is then 1e-12, and anything above is a wrong network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from tests.core.groups.law import check, sizes, some
from tests.core.groups.networks import OPERATIONS, network

NUMBER = st.integers(0, 3)
STEP = st.tuples(st.sampled_from(sorted(OPERATIONS)), NUMBER, NUMBER, st.integers(0, 63))
PROGRAM = st.lists(STEP, min_size=1, max_size=8).map(tuple)


def law(program, seed):
    """Masked == shrunk for a choice of units; returns the sizes of the groups."""
    with jax.enable_x64(True):
        fn, params, x = network(program)
        groups = jc.groups(fn, params, x)
        try:
            check(fn, params, (x,), [some(groups, seed)], tol=1e-9)
        except AssertionError:
            assume(all(bool(jnp.isfinite(out).all()) for out in jax.jit(fn)(params, x)))
            raise
        return sizes(groups)


@settings(max_examples=15)
@given(program=PROGRAM, seed=st.integers(0, 9))
def test_masked_is_shrunk(program, seed):
    law(program, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(program=PROGRAM, seed=st.integers(0, 9))
def test_masked_is_shrunk_at_length(program, seed):
    law(program, seed)


def test_networks_have_something_to_prune():
    """The generator is no test of pinning: most of its networks have groups."""
    random = np.random.RandomState(0)
    names, found = sorted(OPERATIONS), []
    for _ in range(25):
        length = random.randint(1, 9)
        program = tuple(
            (names[random.randint(len(names))], *random.randint(0, 4, 2).tolist(), random.randint(64))
            for _ in range(length)
        )
        with jax.enable_x64(True):
            found.append(sizes(jc.groups(*network(program))))
    assert sum(bool(some_sizes) for some_sizes in found) > 12, found
