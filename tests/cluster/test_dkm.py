"""Weights that train while they are clustered."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import jaxcompress as jc
from jaxcompress.cluster import (
    DKM,
    Codebook,
    ProductCodebook,
    Snap,
    SoftCodebook,
    kmeans,
    settle,
    snap,
    with_temperature,
)
from jaxcompress.cluster import dkm as soft
from tests.zoo.model import arrays, data

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(128, 6)), jnp.float32)
Y = jnp.sin(2 * X[:, :1]) + X[:, 1:2] * X[:, 2:3]
W = arrays(w=(12, 10))["w"]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(16)(nn.tanh(nn.Dense(16)(x)))))


@functools.partial(jax.jit, static_argnums=0)
def mean_error(apply_fn, params):
    return jnp.mean(jnp.square(apply_fn(params, X) - Y))


@jax.jit
def trained(state):
    """Steps as a user writes them, without a word of clustering."""

    def step(state, _):
        value, grads = jax.value_and_grad(lambda params: mean_error(state.apply_fn, params))(state.params)
        return state.apply_gradients(grads=grads), value

    return jax.lax.scan(step, state, None, length=200)


def fit(apply_fn, params):
    return trained(TrainState.create(apply_fn=apply_fn, params=params, tx=optax.adam(5e-3)))


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_train_state_with_dkm_beats_kmeans_after_the_same_steps():
    model = Net()
    dense, _ = fit(model.apply, model.init(jax.random.key(0), X))
    lifted = jc.lift(model.apply)
    options = {"levels": 3, "where": "**/kernel"}
    state, losses = fit(lifted, soft(dense.params, **options))
    assert losses[-1] < losses[0]
    shared = snap(state.params)
    assert isinstance(shared["params"]["Dense_1"]["kernel"], Codebook)
    later, _ = fit(model.apply, dense.params)  # the same steps without DKM, clustered then
    plain = mean_error(lifted, kmeans(later.params, **options))
    assert mean_error(lifted, shared) < 0.3 * plain


def test_cold_it_is_kmeans_and_warm_a_mixture():
    hard = kmeans({"w": W}, levels=4)["w"].materialize()
    cold, warm = (soft({"w": W}, levels=4, temperature=t)["w"] for t in (1e-3, 1e4))
    np.testing.assert_allclose(cold.materialize(), hard, atol=1e-3)
    np.testing.assert_allclose(warm.materialize(), jnp.full(W.shape, W.mean()), atol=0.05)
    np.testing.assert_array_equal(with_temperature({"w": warm}, 1e-3)["w"].materialize(), cold.materialize())
    np.testing.assert_allclose(snap({"w": cold})["w"].materialize(), hard, atol=1e-3)


def test_blocks_share_codes_of_vectors():
    trains = soft({"w": W}, levels=5, block=2, temperature=0.01)["w"]
    shared = snap({"w": trains})["w"]
    assert isinstance(shared, ProductCodebook)
    assert (shared.codes.shape, shared.block) == ((6, 10), (2, 1))
    np.testing.assert_allclose(shared.materialize(), trains.materialize(), atol=0.05)


@pytest.mark.slow
def test_layers_of_a_stack_are_clustered_one_by_one():
    params = arrays(layers=(2, 12, 12))
    fn = lambda p, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"])[0]  # noqa: E731
    stacked = soft(params, levels=4, sites=jc.sites(fn, params, data(2, 12)))
    assert stacked["layers"].codebook.shape == (2, 1, 1, 4, 1)
    alone = soft({"w": params["layers"][1]}, levels=4)["w"]
    np.testing.assert_allclose(stacked["layers"].unstack()[1].materialize(), alone.materialize(), atol=1e-5)
    assert jc.lift(fn)(stacked, data(2, 12)).shape == (2, 12)
    assert snap(stacked)["layers"].codebook.shape == (2, 4)


@pytest.mark.slow
def test_masks_stay_and_pruned_weights_have_no_say():
    pruned = jc.prune.magnitude({"w": W}, sparsity=0.5)
    trains = soft(pruned, levels=4, temperature=0.01)
    spoiled = trains["w"].values.replace(values=jnp.where(pruned["w"].mask, W, 77.0))
    np.testing.assert_allclose(trains["w"].replace(values=spoiled).materialize(), trains["w"].materialize(), atol=1e-4)
    trainable, frozen = jc.split_trainable(trains)
    grads = jax.grad(lambda t: jnp.sum(jc.merge(t, frozen)["w"].materialize() ** 2))(trainable)
    assert not np.asarray(grads["w"].values.values)[~np.asarray(pruned["w"].mask)].any()
    assert not np.asarray(grads["w"].values.temperature).any()
    shared = snap(trains)["w"]
    np.testing.assert_array_equal(shared.mask, pruned["w"].mask)
    assert isinstance(shared.values, Codebook)


def test_settled_it_starts_where_it_ends():
    trains = soft({"w": W}, levels=4, temperature=2.0)
    once = settle(trains)["w"]
    twice = settle({"w": once})["w"]
    assert float(jnp.abs(twice.codebook - once.codebook).max()) < float(
        jnp.abs(once.codebook - trains["w"].codebook).max()
    )


def test_a_temperature_that_falls_compiles_once(compilations):
    params = soft({"w": W}, levels=4)

    @jax.jit
    def cooled(params, temperature):
        return with_temperature(params, temperature)["w"].materialize()

    outs = [cooled(params, t) for t in (1.0, 0.1, 0.01)]
    assert compilations("cooled") == 1
    errors = [float(jnp.sum(jnp.square(out - W))) for out in outs]
    assert errors[0] != errors[2]


@pytest.mark.slow
def test_chains_files_and_stages(tmp_path):
    thin = soft(jc.factorize.svd(arrays(w=(24, 12)), rank=4), levels=4)
    assert isinstance(thin["w"].u, SoftCodebook)
    jc.save(tmp_path / "m.jxc", thin)
    np.testing.assert_array_equal(jc.load(tmp_path / "m.jxc").params["w"].materialize(), thin["w"].materialize())
    assert isinstance(Snap()(thin)["w"].v, Codebook)
    stage = DKM(bits=2, temperature=0.5)
    assert DKM(**json.loads(json.dumps(dataclasses.asdict(stage)))) == stage
    np.testing.assert_array_equal(
        stage({"w": W})["w"].materialize(), soft({"w": W}, bits=2, temperature=0.5)["w"].materialize()
    )


def test_what_does_not_work_is_named():
    with pytest.raises(ValueError, match="iterations must be a positive integer, got 0"):
        soft({"w": W}, bits=2, iterations=0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        soft({"w": W}, bits=2, temperature=0)
    trains = soft({"w": W}, bits=2)
    for method in (kmeans, soft):
        with pytest.raises(ValueError, match="'w' is a dkm leaf, a weight in training: snap it first"):
            method(trains, bits=2)
    with pytest.raises(ValueError, match="snap: 'b' is no weight that"):
        snap({**trains, "b": W}, where="b")
    broken = {"w": trains["w"].replace(values=W.at[0, 0].set(jnp.nan))}
    with pytest.raises(ValueError, match="snap: the values of 'w' hold NaN"):
        snap(broken)
