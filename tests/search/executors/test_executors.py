"""Executors: the same fitness whoever evaluates, only what is asked for, one program for each size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxcompress.search.executors import Chunked, Executor, Loop, Map, Sharded, Vmap, population_evaluator

W = jax.random.normal(jax.random.key(1), (32, 10))
X = jax.random.normal(jax.random.key(0), (256, 32))


def trained(genome, key, data):
    """A few steps of training: sums, products, a loop, randomness: all that may round differently."""
    target = jnp.sin(data @ W)
    w = jax.random.normal(key, W.shape) * genome["scale"]

    def step(w, _):
        return w - genome["rate"] * jax.grad(lambda w: jnp.mean((jnp.tanh(data @ w) - target) ** 2))(w), None

    w = jax.lax.scan(step, w, length=3)[0]
    mask = jnp.arange(10)[None, :] < genome["width"]
    return {
        "error": jnp.mean((jnp.tanh(data @ jnp.where(mask, w, 0)) - target) ** 2),
        "bytes": 4 * 32 * genome["width"],
    }


def population(n):
    rng = np.random.default_rng(0)
    genomes = {
        "scale": jnp.asarray(rng.uniform(0, 1, n), jnp.float32),
        "rate": jnp.asarray(rng.uniform(0, 3, n), jnp.float32),
        "width": jnp.asarray(rng.integers(1, 11, n), jnp.int32),
    }
    return genomes, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(n))


def mesh(devices):
    return jax.make_mesh((devices,), ("population",), (AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.mark.parametrize("n", [8, 13])  # a multiple of the devices, where each has one round; and none
def test_same_bits_in_a_loop_in_a_map_and_on_1_and_8_devices(n):
    genomes, keys = population(n)
    by_map = population_evaluator(trained, "map")(genomes, keys, X)
    assert len(np.unique(by_map["error"])) == n
    for executor in (Loop(), Sharded(mesh(1 if n == 8 else 3)), Sharded()):
        found = population_evaluator(trained, executor)(genomes, keys, X)
        for name in by_map:
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(by_map[name]), err_msg=str(executor))


@pytest.mark.parametrize("executor", [Vmap(), Chunked(4), Chunked(100)])
def test_side_by_side_agrees_up_to_rounding(executor):
    genomes, keys = population(8)
    by_map = population_evaluator(trained, "map")(genomes, keys, X)
    found = population_evaluator(trained, executor)(genomes, keys, X)
    # float32 sums of 256 x 10 terms in other orders, three steps of training: a few units of 1e-7 each.
    np.testing.assert_allclose(found["error"], by_map["error"], rtol=2e-5)
    np.testing.assert_array_equal(found["bytes"], by_map["bytes"])


@pytest.mark.parametrize("executor", [Map(), Sharded(mesh(8)), Chunked(4), Loop()])
def test_only_the_first_are_evaluated(executor):
    """Those behind ``count`` would not end: that the call returns shows that they were left alone."""

    def one(item, shared):
        return jax.lax.while_loop(lambda x: x < 0, lambda x: x, item) + shared

    items = jnp.array([3.0, 1.0, 2.0, 5.0] + [-1.0] * 7)
    function = executor.population(one)
    results = (jax.jit(function) if executor.traced else function)(items, jnp.int32(4), jnp.float32(0.5))
    assert np.asarray(results).shape == (11,)
    assert np.asarray(results)[:4].tolist() == [3.5, 1.5, 2.5, 5.5]


@pytest.mark.parametrize("name", ["loop", "map", "sharded"])
def test_one_program_for_a_size(name, compilations):
    many = population_evaluator(lambda genome, key, data: {"error": genome * data.sum()}, name)
    keys = jax.random.split(jax.random.key(0), 5)
    one, other = (jnp.arange(5.0), X), (jnp.arange(5.0) + 1, X + 1)
    many(one[0], keys, one[1])
    before = compilations()
    many(other[0], keys, other[1])
    assert compilations() == before


def test_an_executor_of_ones_own():
    class Twice(Executor):
        def population(self, one):
            inner = Map().population(one)
            return lambda items, count, shared: jax.tree.map(lambda x: 2 * x, inner(items, count, shared))

    many = population_evaluator(lambda genome, key: genome, Twice())
    assert many(jnp.arange(3.0), jax.random.split(jax.random.key(0), 3)).tolist() == [0.0, 2.0, 4.0]


def test_names_and_settings_are_checked():
    with pytest.raises(ValueError, match=r"executor='pmap' is not one of \['chunked', 'loop'"):
        population_evaluator(trained, "pmap")
    with pytest.raises(TypeError, match="a name or an Executor, got 3"):
        population_evaluator(trained, 3)
    with pytest.raises(ValueError, match=r"Chunked\(size=\) must be a positive int, got 0"):
        Chunked(0)
    with pytest.raises(ValueError, match="one axis"):
        Sharded(jax.make_mesh((2, 4), ("a", "b"), (AxisType.Auto,) * 2))
    with pytest.raises(ValueError, match="leads with the number of candidates"):
        population_evaluator(trained, "map")({"scale": jnp.ones(3)}, jax.random.split(jax.random.key(0), 2), X)


@pytest.mark.parametrize("executor", [Map(), Vmap(), Chunked(4), Sharded(mesh(8))])
def test_executors_lower_for_other_platforms(executor):
    function = jax.jit(executor.population(lambda item, shared: jnp.tanh(item) * shared))
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(jnp.ones(13), jnp.int32(5), jnp.float32(2))
    assert exported.platforms == ("cpu", "cuda", "tpu")
