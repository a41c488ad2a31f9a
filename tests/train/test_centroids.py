"""Fine-tuning of codebooks needs no function of its own: the gradient through `lift` is the sum over the members."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.cluster import Codebook
from jaxcompress.prune import Masked

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32)
TARGET = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)


def loss(params, x):
    return jnp.mean(jnp.square(jnp.tanh(x @ params["w"]) - TARGET))


def shared_weights(masked):
    codes = jnp.asarray(RNG.integers(0, 3, size=(5, 4)), jnp.uint8)
    leaf = Codebook.create(codes, jnp.array([-0.7, 0.1, 0.9]))
    mask = jnp.asarray(RNG.random((5, 4)) < 0.6)
    return {"w": Masked.create(leaf, mask) if masked else leaf}, codes, mask if masked else jnp.ones((5, 4), bool)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_an_entry_is_the_sum_over_its_weights(masked):
    params, codes, mask = shared_weights(masked)
    trainable, frozen = jc.split_trainable(params)
    ours = jax.grad(lambda t: jc.lift(loss)(jc.merge(t, frozen), X))(trainable)
    dense = np.asarray(jax.grad(loss)(jc.materialize(params), X)["w"], np.float64)
    summed = np.zeros(3)
    np.add.at(summed, np.asarray(codes)[np.asarray(mask)], dense[np.asarray(mask)])
    (codebook_gradient,) = jax.tree.leaves(ours)
    np.testing.assert_allclose(codebook_gradient, summed, rtol=1e-4, atol=1e-7)  # sums of 20 float32 gradients


@pytest.mark.standard_promotion
def test_an_optax_loop_trains_tables_and_leaves_codes_and_masks():
    params, codes, mask = shared_weights(masked=True)
    trainable, frozen = jc.split_trainable(params)
    tx = optax.adam(0.05)

    @jax.jit
    def step(trainable, state):
        value, gradient = jax.value_and_grad(lambda t: jc.lift(loss)(jc.merge(t, frozen), X))(trainable)
        updates, state = tx.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), state, value

    state, values = tx.init(trainable), []
    for _ in range(20):
        trainable, state, value = step(trainable, state)
        values.append(float(value))
    tuned = jc.merge(trainable, frozen)["w"]
    assert values[-1] < values[0]
    np.testing.assert_array_equal(tuned.values.codes, codes)
    np.testing.assert_array_equal(tuned.mask, mask)
    assert len(np.unique(np.asarray(tuned.materialize())[np.asarray(mask)])) <= 3


def test_gradient_of_tables_of_channels_is_the_sum_over_the_channel():
    codes = RNG.integers(0, 2, size=(5, 4))
    table = jnp.asarray(RNG.normal(size=(1, 4, 2)), jnp.float32)
    params = {"w": Codebook.create(jnp.asarray(codes, jnp.uint8), table)}
    trainable, frozen = jc.split_trainable(params)
    ours = jax.grad(lambda t: jc.lift(loss)(jc.merge(t, frozen), X))(trainable)["w"].codebook
    dense = np.asarray(jax.grad(loss)(jc.materialize(params), X)["w"], np.float64)
    summed = np.zeros((4, 2))
    np.add.at(summed, (np.arange(4)[None], codes), dense)
    np.testing.assert_allclose(ours[0], summed, rtol=1e-4, atol=1e-7)


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    "tx", [optax.sgd(0.02, momentum=0.9), optax.adamw(0.05), optax.lion(0.01), optax.adafactor(0.05), optax.lamb(0.05)]
)
def test_any_optimizer_trains_codebooks_of_both_kinds(tx):
    w = jnp.asarray(0.5 * RNG.normal(size=(6, 4)), jnp.float32)
    params = {"w": jc.cluster.product({"w": w}, block=2, levels=4)["w"], "v": jc.cluster.kmeans({"v": w}, bits=1)["v"]}
    trainable, frozen = jc.split_trainable(params)
    x = jnp.asarray(RNG.normal(size=(16, 6)), jnp.float32)

    def value(t):
        tree = jc.merge(t, frozen)
        return jnp.mean(jnp.square(jc.lift(lambda p: x @ p["w"] * (x @ p["v"]))(tree) - TARGET))

    @jax.jit
    def step(carry, _):
        trainable, state = carry
        found, gradient = jax.value_and_grad(value)(trainable)
        updates, state = tx.update(gradient, state, trainable)
        return (optax.apply_updates(trainable, updates), state), found

    (tuned, _), values = jax.lax.scan(step, (trainable, tx.init(trainable)), None, length=30)
    assert values[-1] < 0.9 * values[0]
    assert jax.tree.structure(jc.merge(tuned, frozen)) == jax.tree.structure(params)
