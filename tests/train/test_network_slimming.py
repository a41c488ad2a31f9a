import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.train import network_slimming

pytestmark = pytest.mark.standard_promotion


def test_ista_finds_the_lasso_s_closed_form():
    """min 0.5 * (s - a)^2 + strength * |s| is soft thresholding of a, zeros exact; other leaves meet a alone."""
    target = jnp.array([3.0, -2.0, 0.4, -0.5, 0.0])
    rate = optax.cosine_decay_schedule(0.5, 200)
    tx = network_slimming(optax.sgd(rate), strength=0.5, learning_rate=rate)
    params = {"norm": {"scale": jnp.ones(5), "bias": jnp.ones(5)}}

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(lambda p: p - target, params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(100):
        params, state = step(params, state)
    scale = np.asarray(params["norm"]["scale"])
    np.testing.assert_allclose(scale, [2.5, -1.5, 0, 0, 0], atol=1e-5)  # steps of 0.25 or more contract by 3/4
    assert (scale[2:] == 0).all()
    np.testing.assert_allclose(params["norm"]["bias"], target, atol=1e-5)


def test_the_subgradient_of_the_paper_never_reaches_zero_where_this_does():
    gradient = lambda s: jnp.sin(37 * s)  # noqa: E731  (a small data gradient, without a minimum at zero)
    prox = network_slimming(optax.sgd(0.1), strength=1.0, learning_rate=0.1, where="scale")
    ours, state, theirs = {"scale": jnp.full(3, 0.33)}, prox.init({"scale": jnp.ones(3)}), jnp.full(3, 0.33)
    update = jax.jit(prox.update)
    for _ in range(20):
        updates, state = update({"scale": 0.1 * gradient(ours["scale"])}, state, ours)
        ours = optax.apply_updates(ours, updates)
        theirs = theirs - 0.1 * (0.1 * gradient(theirs) + 1.0 * jnp.sign(theirs))
    assert (ours["scale"] == 0).all()
    assert (theirs != 0).all()


def test_half_precision_and_errors():
    params = {"scale": jnp.array([0.01, 1.0], jnp.bfloat16)}
    tx = network_slimming(optax.sgd(0.1), strength=1.0, learning_rate=0.1, where="scale")
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    after = optax.apply_updates(params, updates)["scale"]
    assert after.dtype == jnp.bfloat16
    assert after[0] == 0
    with pytest.raises(ValueError, match="strength must be 0 or more, got -1"):
        network_slimming(optax.sgd(0.1), strength=-1, learning_rate=0.1)
    with pytest.raises(ValueError, match="matches no leaf"):
        network_slimming(optax.sgd(0.1), strength=1, learning_rate=0.1).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="network_slimming needs the parameters"):
        tx.update(params, state)
