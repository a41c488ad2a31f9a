import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.prune import masks_of
from jaxcompress.train import network_surgery

pytestmark = pytest.mark.standard_promotion

KEY = jax.random.key(1)


def test_against_the_equations_in_numpy():
    """Equation 3 for the masks, equation 4 for the dense weights, decay of the dense weights included."""
    draw = np.random.default_rng(0).normal
    w = draw(size=(6, 8)).astype(np.float32)
    tx = network_surgery(
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.25)), c=0.5, end_step=4, key=KEY, gamma=0
    )
    params = {"w": jnp.asarray(w), "b": jnp.ones(8)}
    update, state = jax.jit(tx.update), tx.init(params)
    size = np.abs(w).astype(np.float64)
    t = size.mean() + 0.5 * size.std()
    dense, mask, spliced = w.astype(np.float64), np.ones(w.shape, bool), 0
    for i in range(6):
        gradient = draw(size=w.shape).astype(np.float32)
        updates, state = update({"w": jnp.asarray(gradient), "b": jnp.ones(8)}, state, params)
        params = optax.apply_updates(params, updates)
        dense -= 0.25 * (gradient + 0.1 * dense)
        if i < 4:
            new = np.where(np.abs(dense) < 0.9 * t, False, np.where(np.abs(dense) >= 1.1 * t, True, mask))
            spliced, mask = spliced + int((new & ~mask).sum()), new
        np.testing.assert_array_equal(masks_of(state)["w"], mask)
        np.testing.assert_allclose(state.dense["w"], dense, atol=1e-6)  # float32 against float64, six steps
        np.testing.assert_array_equal(params["w"], np.where(mask, state.dense["w"], 0))  # bit for bit
    assert spliced > 0
    np.testing.assert_allclose(params["b"], 1 - 0.25 * 6 * 1.0, atol=0.3)  # decays beside: not masked


def test_masks_change_ever_more_rarely_and_not_after_the_end():
    params = {"w": jnp.array([[0.1, 0.1, 4.0, 4.0]])}
    tx = network_surgery(optax.sgd(0.0), c=0.0, end_step=50, key=KEY, gamma=0.5, power=2.0)
    state = tx.init(params)

    @jax.jit
    def cuts(step):
        keys = jax.random.key_data(jax.random.split(KEY, 4000))

        def stays(key):
            return tx.update(params, state._replace(key=key, step=step), params)[1].masks.masks["w"][0, 0]

        return (~jax.vmap(stays)(keys)).mean()

    assert cuts(jnp.int32(0)) == 1
    chance = (1 + 0.5 * 2) ** -2  # a quarter at call 2
    np.testing.assert_allclose(cuts(jnp.int32(2)), chance, atol=5 * np.sqrt(chance * (1 - chance) / 4000))
    assert cuts(jnp.int32(50)) == 0


def test_stacked_layers_have_thresholds_of_their_own_and_globs_choose():
    params = {"layers": jnp.array([[[1.0, 3.0]], [[100.0, 300.0]]]), "head": jnp.ones((2, 2))}

    def fn(p, x):
        return jax.lax.scan(lambda h, w: ((h @ w.T) * jnp.ones((1, 2)), None), x, p["layers"])[0] @ p["head"]

    sites = jc.sites(fn, params, jnp.ones((2, 2)))
    tx = network_surgery(optax.sgd(0.0), c={"lay*": 0.0}, end_step=9, key=KEY, sites=sites)
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert {path: mask.tolist() for path, mask in masks_of(state).items()} == {
        "layers": [[[False, True]], [[False, True]]]  # thresholds 2 and 200
    }


def test_errors_name_the_way_out():
    for wrong, message in (
        ({"margin": 2.0}, r"margin must lie in \[0, 1\], got 2.0"),
        ({"gamma": -1.0}, "gamma must be 0 or more"),
        ({"power": -1.0}, "power must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            network_surgery(optax.sgd(0.1), **{"c": 1.0, "end_step": 4, "key": KEY} | wrong)
    tx = network_surgery(optax.sgd(0.1), c=1.0, end_step=4, key=KEY)
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="network_surgery needs the parameters"):
        tx.update(params, tx.init(params))
