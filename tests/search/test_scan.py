"""`scan`: the same search as `run`, bit for bit, as a function that `jit` and `vmap` accept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import search
from jaxcompress.search import scan
from tests.search import climbing
from tests.search.climbing import DATA, SPACE, Climb

KEY = jax.random.key(3)


def plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.mark.parametrize("cache", [False, True])
def test_scan_is_run(cache):
    found = climbing.search(cache=cache)
    options = {"generations": 10, "data": DATA, "cache": cache}
    state, history = jax.jit(lambda key: scan(SPACE, climbing.evaluate, Climb(), key, **options))(KEY)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(found.state), strict=True):
        np.testing.assert_array_equal(plain(one), plain(other))
    rows = jax.tree.map(lambda x: np.asarray(x).reshape(60, *x.shape[2:]), history)
    for one, other in ((rows.genes, found.archive.columns.genes), (rows.metrics, found.archive.columns.metrics)):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(rows.objectives[:, 0], found.archive.columns.metrics["error"])
    assert not rows.violation.any()


def test_searches_are_mapped_over_keys():
    def line(genome, key):
        return {"error": jnp.where(genome["width"] == 2, jnp.nan, jnp.abs(genome["width"] - 6).astype(jnp.float32))}

    def whole(key):
        return scan(SPACE, line, Climb(), key, generations=8)[1]

    keys = jax.random.split(KEY, 50)
    many = jax.jit(jax.vmap(whole))(keys)
    assert many.objectives.shape == (50, 8, 6, 1)
    one = jax.jit(whole)(keys[7])
    np.testing.assert_array_equal(many.genes.codes[7], one.genes.codes)  # nothing here rounds
    np.testing.assert_array_equal(many.objectives[7], one.objectives)
    failed = np.isnan(many.metrics["error"])
    assert failed.any()
    np.testing.assert_array_equal(np.isinf(many.objectives[..., 0]), failed)
    np.testing.assert_array_equal(np.isinf(many.violation), failed)
    assert (many.objectives.min(axis=(1, 2, 3)) == 0).mean() > 0.9


def test_what_cannot_be_scanned_is_refused():
    with pytest.raises(TypeError, match="marked as Python"):
        scan(SPACE, search.python(lambda config, key: 0.0), Climb(), KEY, generations=1)
    with pytest.raises(TypeError, match="executor='loop' is a loop in Python"):
        scan(SPACE, climbing.evaluate, Climb(), KEY, generations=1, data=DATA, executor="loop")
    for generations in (0, -1, 1.5):
        with pytest.raises(
            ValueError, match=rf"scan\(generations={generations}\) must be a whole number of at least 1"
        ):
            scan(SPACE, climbing.evaluate, Climb(), KEY, generations=generations, data=DATA)
