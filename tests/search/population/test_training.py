"""A masked candidate is trained as the smaller network would be alone, whoever else is in the population."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.search import population, population_evaluator
from jaxcompress.search.minibatches import minibatch_rows
from tests.search.population.problems import (
    CNN,
    MLP,
    SGD,
    candidates_for,
    cross_entropy,
    data_for,
    error,
    nth,
    training,
)

KEYS = jax.random.split(jax.random.key(3), 3)


@partial(jax.jit, static_argnums=0)
def started(network, layers, key):
    """The initial weights that `Training` documents."""
    return network.init(layers, jax.random.split(key, 3)[0])


def trained_alone(network, optimizer, params, key, data, steps, table_steps):
    """Plain steps in Python on the standalone network, in the order that `Training` documents."""
    _, order_key, _ = jax.random.split(key, 3)
    order = minibatch_rows(order_key, len(data["x"]), batch_size=4, steps=table_steps)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, rows):
        grads = jax.grad(lambda p: cross_entropy(network.dense(p, data["x"][rows]), data["y"][rows]))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for rows in order[:steps]:
        params, state = step(params, state, rows)
    return params


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_masked_is_the_standalone_network_trained_alone(network):
    candidates, data = candidates_for(network), data_for(network)
    trained = population.train_population(training(network), candidates, KEYS, data)
    for i in (0, 1) if network is MLP else (0,):
        candidate = nth(candidates, i)
        small = network.extract(started(network, candidate["layers"], KEYS[i]), candidate["layers"])
        alone = trained_alone(network, SGD(learning_rate=candidate["rate"]), small, KEYS[i], data, 12, 12)
        ours = network.extract(nth(trained.params, i), candidate["layers"])
        # float32 sums of at most 36 terms in other orders, through 12 steps
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, alone)
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), ours, small)
        assert min(jax.tree.leaves(moved)) > 1e-3


def test_padding_is_zero_and_stays_zero():
    candidates = candidates_for(MLP)
    trained = population.train_population(training(MLP), candidates, KEYS, data_for(MLP))
    first = nth(trained.params, 0)
    assert not np.any(first["layer0"]["kernel"][:, 3:])
    assert not np.any(first["layer1"]["kernel"][3:])
    assert not np.any(nth(trained.params, 1)["layer1"]["kernel"])


@pytest.mark.standard_promotion
def test_any_optimizer_of_optax_with_hyperparameters_of_the_candidate():
    """AdamW with decay and clipping by the global norm: padding changes no norm."""

    def factory(rate, decay):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(rate, weight_decay=decay))

    candidates, data = candidates_for(MLP) | {"decay": jnp.array([0.5, 0.0, 0.1])}, data_for(MLP)
    ours = training(MLP, optimizer=population.from_candidate(factory, rate="rate", decay="decay"))
    trained = population.train_population(ours, candidates, KEYS, data)
    layers = nth(candidates, 0)["layers"]
    small = MLP.extract(started(MLP, layers, KEYS[0]), layers)
    alone = trained_alone(MLP, factory(0.1, 0.5), small, KEYS[0], data, 12, 12)
    found = MLP.extract(nth(trained.params, 0), layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, alone)


@pytest.mark.slow
def test_executors_agree_and_order_does_not_matter():
    candidates, data = candidates_for(MLP), data_for(MLP)
    one_by_one = population.train_population(training(MLP), candidates, KEYS, data)
    other = population.train_population(training(MLP), candidates, KEYS, data, executor="sharded")
    jax.tree.map(np.testing.assert_array_equal, one_by_one, other)
    back = jax.tree.map(lambda x: x[::-1], (candidates, KEYS))
    reversed_ = population.train_population(training(MLP), *back, data, executor="vmap")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=1e-4, atol=1e-5), one_by_one, reversed_)


def decaying(candidate, steps):
    """A schedule over the steps that this candidate is trained for."""
    return optax.sgd(
        lambda count: candidate["rate"] * (1 - jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32))
    )


def test_fidelity_is_a_number_of_steps_from_given_parameters_on():
    candidates, data = candidates_for(MLP), data_for(MLP)
    params = jax.jit(jax.vmap(MLP.init))(candidates["layers"], KEYS)
    trained = population.train_population(
        training(MLP, optimizer=decaying), candidates, KEYS, data, fidelity=jnp.array([0.25, 0.5, 1.0]), params=params
    )
    assert trained.steps.tolist() == [3, 6, 12]
    small = MLP.extract(nth(params, 0), nth(candidates, 0)["layers"])
    alone = trained_alone(MLP, decaying({"rate": 0.1}, 3), small, KEYS[0], data, 3, 12)
    found = MLP.extract(nth(trained.params, 0), nth(candidates, 0)["layers"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, alone)


def test_the_second_population_compiles_nothing(compilations):
    candidates, data, ours = candidates_for(MLP), data_for(MLP), training(MLP)
    population.train_population(ours, candidates, KEYS, data)
    other, keys = candidates | {"rate": jnp.array([0.3, 0.01, 0.02])}, KEYS[::-1]
    before = compilations()
    found = population.train_population(dataclasses.replace(ours), other, keys, data)
    assert compilations() == before
    assert bool(found.finite.all())


def test_a_candidate_that_diverges_fails_alone():
    candidates, data = candidates_for(MLP) | {"rate": jnp.array([1e30, 0.2, 0.05])}, data_for(MLP)
    evaluation = population.Evaluation(training(MLP), lambda *found: error(MLP, *found))
    both = {"train": data, "valid": data}
    metrics = population_evaluator(evaluation)(candidates, KEYS, both)
    assert np.isnan(metrics["error"]).tolist() == [True, False, False]
    assert np.isnan(metrics["loss"]).tolist() == [True, False, False]


def test_a_rate_that_learns_beats_one_that_does_not():
    x = data_for(MLP)["x"]
    data = {"x": x, "y": (x[:, 0] > 0).astype(jnp.int32)}
    candidates = nth(candidates_for(MLP), jnp.array([2, 2, 2])) | {"rate": jnp.array([0.0, 0.05, 0.2])}
    trained = population.train_population(training(MLP), candidates, jnp.stack([KEYS[0]] * 3), data)
    assert trained.loss[0] > trained.loss[1]
    assert trained.loss[0] > trained.loss[2]


def test_lowers_for_every_platform():
    ours, candidate, data = training(CNN), nth(candidates_for(CNN), 0), data_for(CNN)
    exported = jax.export.export(jax.jit(ours.fit), platforms=("cpu", "cuda", "tpu"))(candidate, KEYS[0], data)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_errors_name_what_is_wrong():
    candidates, data = candidates_for(MLP), data_for(MLP)
    with pytest.raises(ValueError, match="data holds 1 values that are NaN or infinite at 'x'"):
        population.train_population(training(MLP), candidates, KEYS, data | {"x": data["x"].at[0, 0].set(jnp.nan)})
    with pytest.raises(ValueError, match=r"fidelity is the part of the steps to take, in \(0, 1\]"):
        population.train_population(training(MLP), candidates, KEYS, data, fidelity=jnp.array([0.5, 1.0, 2.0]))
    with pytest.raises(ValueError, match="batch_size=4 has to be between 1 and the 2 rows"):
        population.train_population(training(MLP), candidates, KEYS, nth(data, slice(2)))
    with pytest.raises(ValueError, match="steps must be an integer of 1 or more, got 0"):
        training(MLP, steps=0)
    with pytest.raises(TypeError, match=r"optimizer must be a function, got Grad.*see from_candidate"):
        dataclasses.replace(training(MLP), optimizer=optax.sgd(0.1))
    with pytest.raises(KeyError, match="no 'speed': at 'speed' there is"):
        population.from_candidate(optax.sgd, learning_rate="speed")(nth(candidates, 0), 1)
