import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.train import factorized, gradual_rank, nuclear_norm, reached_ranks, trace_norm
from tests.train.optimizers import OPTIMIZERS

pytestmark = pytest.mark.standard_promotion
RNG = np.random.default_rng(0)


def with_spectrum(*s, rows=None):
    """A matrix of these singular values."""
    n = len(s)
    u, _ = np.linalg.qr(RNG.normal(size=(rows or n, n)))
    v, _ = np.linalg.qr(RNG.normal(size=(n, n)))
    return (u * np.array(s)) @ v


def numeric_rank(w):
    return int(np.linalg.matrix_rank(np.asarray(w, np.float64), tol=1e-5))


@pytest.mark.parametrize("every", [1, 4])
def test_proximal_gradient_finds_the_closed_form(every, compilations):
    """min |W - A|^2 / 2 + strength * |W|_* is the soft threshold of A, known from its singular values."""
    a = with_spectrum(3.0, 2.0, 0.6, 0.4, 0.1, rows=8)
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    expected = (u * np.maximum(s - 0.5, 0)) @ vt
    target, tx = jnp.asarray(a, jnp.float32), nuclear_norm(optax.sgd(0.1), strength=0.5, learning_rate=0.1, every=every)
    params = {"w": jnp.zeros((8, 5)), "b": jnp.zeros(5)}

    @jax.jit
    def step(params, state):
        gradient = {"w": params["w"] - target, "b": params["b"] - 1}
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    assert reached_ranks(state) == {"w": 5}
    for _ in range(80):
        params, state = step(params, state)
    assert compilations("step") == 1
    # Steps of 0.1 contract by 0.9: after 80 of them 2e-4 is left. Proximal steps of four at once stop a little besides.
    np.testing.assert_allclose(params["w"], expected, atol=2e-3 if every == 1 else 0.1)
    np.testing.assert_allclose(params["b"], 1, atol=1e-3)
    assert numeric_rank(params["w"]) == 3
    assert reached_ranks(state) == {"w": 3}
    thin = factorized(params, state)
    assert thin["w"].rank == 3
    np.testing.assert_allclose(thin["w"].materialize(), params["w"], atol=1e-5)
    x = jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32)
    fn = lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None])  # noqa: E731
    np.testing.assert_allclose(jc.lift(fn)(thin, x), fn(params, x), atol=1e-5)


@pytest.mark.slow
def test_the_subgradient_lowers_singular_values_and_never_ranks():
    a = jnp.asarray(with_spectrum(3.0, 2.0, 0.3, 0.2), jnp.float32)
    loss = lambda w: jnp.sum((w - a) ** 2) / 2 + 0.5 * trace_norm({"w": w})  # noqa: E731
    w, step = a, jax.jit(lambda w: w - 0.1 * jax.grad(loss)(w))
    for _ in range(60):
        w = step(w)
    s = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(s[:2], [2.5, 1.5], atol=0.02)
    assert (s[2:] < 0.1).all()
    assert (s[2:] > 1e-4).all()  # they swing around zero by steps of 0.05
    stacked = {"w": jnp.stack([a, 2 * a])}
    sites = jc.sites(lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0], stacked, jnp.ones((2, 4)))
    np.testing.assert_allclose(trace_norm(stacked, sites=sites), 3 * 5.5, rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda w: trace_norm({"w": w}))(jnp.zeros((3, 4)))).all()


def test_gradient_of_the_trace_norm_is_that_of_numpy():
    w = with_spectrum(3.0, 2.0, 1.0, rows=5)
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    found = jax.grad(lambda w: trace_norm({"w": w}))(jnp.asarray(w.T, jnp.float32))
    np.testing.assert_allclose(found, (u @ vt).T, atol=1e-5)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "chain")]


@pytest.mark.parametrize("optimizer", ["MultiSteps outside", "partition", *SLOW])
def test_around_any_optimizer_convolutions_and_layers_have_ranks_of_their_own(optimizer):
    def model(params, x):
        x = jax.lax.conv_general_dilated(x, params["inner"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.lax.scan(lambda x, w: (x @ w, None), x, params["outer"])[0]

    conv = with_spectrum(2.0, 1.0, 0.01, 0.01, 0.01, 0.01, rows=18).reshape(3, 3, 2, 6)
    layers = np.stack([with_spectrum(2.0, *[0.01] * 5), with_spectrum(2.0, 1.0, 1.0, *[0.01] * 3)])
    params = {"inner": jnp.asarray(conv, jnp.float32), "outer": jnp.asarray(layers, jnp.float32)}
    sites = jc.sites(model, params, jnp.ones((1, 4, 4, 2)))
    wrap = lambda tx: nuclear_norm(tx, strength=2.0, learning_rate=1e-2, sites=sites)  # noqa: E731
    tx = (
        OPTIMIZERS[optimizer](wrap)
        if optimizer != "partition"
        else optax.partition({"both": wrap(optax.adam(1e-3))}, {"inner": "both", "outer": "both"})
    )
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(2):
        updates, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
    assert reached_ranks(state) == {"inner": 2, "outer": 3}
    assert [numeric_rank(w) for w in params["outer"]] == [1, 3]
    assert numeric_rank(params["inner"].reshape(18, 6)) == 2
    thin = factorized(params, state, sites=sites)
    assert thin["inner"].rank == 2
    assert thin["outer"] is params["outer"]  # rank 3 of 6 x 6 saves nothing


def test_both_transformations_lower_for_every_platform():
    params = jax.eval_shape(lambda: {"w": jnp.ones((6, 5))})
    for tx in (
        nuclear_norm(optax.sgd(0.1), strength=1.0, learning_rate=0.1, every=2),
        gradual_rank(optax.sgd(0.1), rank=2, begin_step=0, end_step=4),
    ):
        state = jax.eval_shape(tx.init, params)
        jax.export.export(jax.jit(tx.update), platforms=["cpu", "cuda", "tpu"])(params, state, params)


def test_half_precision_and_errors():
    params = {"w": jnp.asarray(with_spectrum(2.0, 1.0, 0.01), jnp.bfloat16)}
    tx = nuclear_norm(optax.sgd(0.1), strength=1.0, learning_rate=0.1)
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert optax.apply_updates(params, updates)["w"].dtype == jnp.bfloat16
    assert reached_ranks(state) == {"w": 2}
    with pytest.raises(ValueError, match="strength must be 0 or more, got -1"):
        nuclear_norm(optax.sgd(0.1), strength=-1, learning_rate=0.1)
    with pytest.raises(ValueError, match="every must be an integer of 1 or more, got 0"):
        nuclear_norm(optax.sgd(0.1), strength=1, learning_rate=0.1, every=0)
    with pytest.raises(ValueError, match="pass sites="):
        tx.init({"w": jnp.ones((3, 3, 2, 2))})
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="opt_state holds no ranks"):
        reached_ranks(optax.adam(1e-3).init(params))
    with pytest.raises(TypeError, match="'w' is compressed"):
        tx.init(jc.prune.magnitude(params, sparsity=0.5))
