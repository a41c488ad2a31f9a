"""A search in a ready-made space finds what arithmetic knows to be best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search import RandomSearch, scan
from jaxcompress.search.spaces import EfficientNet


@pytest.mark.slow
def test_the_largest_network_within_a_limit():
    """One knob, at most 4e9 FLOPs: the largest knob that keeps to it, by bisection, against a search."""
    family = EfficientNet()
    space = family.space(flops=4e9)
    flops = jax.jit(lambda phi: family.costs({"phi": phi}).flops)
    low, high = 0.0, 7.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if float(flops(jnp.float32(middle))) <= 4e9 else (low, middle)
    _, history = scan(
        space, lambda genome, key: {"error": -genome["phi"]}, RandomSearch(batch=64), jax.random.key(0), generations=8
    )
    phi = np.asarray(space.decode(history.genes)["phi"]).ravel()
    broken = np.asarray(history.violation).ravel()
    best = phi[broken == 0].max()
    assert low - 7 * 12 / 512 < best <= low  # a gap of 12 mean distances: once in e^12
    assert (broken[phi > high] > 0).all()
