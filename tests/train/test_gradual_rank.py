import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.train import factorized, gradual_rank, reached_ranks
from tests.train.optimizers import OPTIMIZERS

pytestmark = pytest.mark.standard_promotion
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def numeric_rank(w):
    s = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    return int((s > 1e-5 * s[0]).sum())


@pytest.mark.parametrize("shape", [(12, 10), (10, 12)])
def test_ranks_fall_along_the_schedule_and_stay(shape, compilations):
    """From 10 to 2 over 8 steps, power 1: 10 at step 0, 10 - 8 * 4/8 = 6 at step 4, 2 at step 8 and ever after."""
    params = {"w": normal(*shape), "b": jnp.zeros(3)}
    tx = gradual_rank(optax.adam(1e-2), rank=2, begin_step=0, end_step=8, every=4, power=1.0)
    state, step = tx.init(params), jax.jit(tx.update)
    named, found = [], []
    for _ in range(12):
        gradient = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), params)
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        named.append(reached_ranks(state)["w"])
        found.append(numeric_rank(params["w"]))
    assert named == [10, 10, 10, 10, 6, 6, 6, 6, 2, 2, 2, 2]
    assert found == [10, 10, 10, 10, 6, 10, 10, 10, 2, 2, 2, 2]  # free in between
    assert compilations("update") == 1
    thin = factorized(params, state)
    np.testing.assert_allclose(thin["w"].materialize(), params["w"], atol=1e-5)
    assert (params["b"] != 0).all()


def test_a_held_rank_follows_its_directions():
    """Gradient descent to a matrix of rank 3 under a held rank of 3 arrives, though its directions have to turn."""
    target = normal(14, 3) @ normal(3, 9)
    tx = gradual_rank(optax.sgd(0.2), rank=3, begin_step=0, end_step=0)
    params = {"w": normal(14, 9)}

    @jax.jit
    def run(params, state):
        def step(_, carry):
            params, state = carry
            updates, state = tx.update({"w": params["w"] - target}, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 150, step, (params, state))

    after, state = run(params, tx.init(params))
    np.testing.assert_allclose(after["w"], target, atol=1e-3)
    assert numeric_rank(after["w"]) == 3
    assert int(state.step) == 150


@pytest.mark.slow
def test_training_on_the_way_down_beats_cutting_at_the_end():
    x = normal(256, 16) * jnp.asarray(2.0 ** -np.linspace(0, 3, 16), jnp.float32)[None]
    truth = {"a": normal(16, 24), "b": normal(24, 4)}
    model = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    y = model(truth, x)
    start = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(RNG.normal(size=p.shape), jnp.float32), truth)

    def trained(tx, steps=300):
        def loss(params):
            return jnp.mean((model(params, x) - y) ** 2)

        def step(_, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        params, state = jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, (p, tx.init(p))))(start)
        return params, state, loss

    plain, _, loss = trained(optax.adam(1e-2))
    cut = jc.factorize.svd(plain, rank=4, where="a")
    params, state, _ = trained(gradual_rank(optax.adam(1e-2), rank={"a": 4}, begin_step=0, end_step=150, every=10))
    thin = factorized(params, state)
    assert thin["a"].rank == 4
    assert thin["b"] is params["b"]
    lifted = float(jnp.mean((jc.lift(model)(thin, x) - y) ** 2))
    np.testing.assert_allclose(lifted, loss(params), rtol=1e-3)  # the product law
    assert lifted < 0.5 * float(loss(jc.materialize(cut)))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "chain", "inject_hyperparams outside")]


@pytest.mark.parametrize("optimizer", ["MultiSteps outside", *SLOW])
def test_around_any_optimizer_on_convolutions_and_scanned_layers(optimizer):
    def model(params, x):
        x = jax.lax.conv_general_dilated(x, params["inner"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return jax.lax.scan(lambda x, w: (x @ w.T, None), x.mean((2, 3)), params["outer"])[0]

    params = {"inner": normal(6, 2, 3, 3), "outer": normal(3, 6, 6)}
    sites = jc.sites(model, params, jnp.ones((1, 2, 4, 4)))
    wrap = lambda tx: gradual_rank(tx, rank=2, begin_step=0, end_step=1, every=1, sites=sites)  # noqa: E731
    tx = OPTIMIZERS[optimizer](wrap)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(6):
        gradient = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert reached_ranks(state) == {"inner": 2, "outer": 2}
    assert numeric_rank(params["inner"].reshape(6, 18)) == 2
    assert [numeric_rank(w) for w in params["outer"]] == [2, 2, 2]
    thin = factorized(params, state, sites=sites)
    x = normal(2, 2, 4, 4)
    np.testing.assert_allclose(jc.lift(model)(thin, x), model(params, x), rtol=1e-3, atol=1e-3)


def test_a_state_restored_half_way_goes_on_as_it_was():
    params = {"w": normal(6, 6)}
    tx = gradual_rank(optax.adam(1e-2), rank=1, begin_step=0, end_step=3, every=1)
    update = jax.jit(tx.update)
    gradients = [{"w": normal(6, 6)} for _ in range(6)]
    state = tx.init(params)
    for gradient in gradients[:4]:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    leaves, structure = jax.tree.flatten(state)
    assert structure == jax.tree.structure(jax.eval_shape(tx.init, params))
    again = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    first, second = update(gradients[4], state, params), update(gradients[4], again, params)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_float64():
    with jax.enable_x64(True):
        tx, params = (
            gradual_rank(optax.sgd(0.1), rank=1, begin_step=0, end_step=0),
            {"w": jnp.diag(jnp.arange(1.0, 5.0))},
        )
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        after = optax.apply_updates(params, updates)["w"]
        np.testing.assert_allclose(jnp.diagonal(after), [0, 0, 0, 4], atol=1e-12)


def test_what_cannot_be_asked_is_named():
    params, sgd = {"w": jnp.ones((6, 6))}, optax.sgd(0.1)
    with pytest.raises(ValueError, match="steps must be integers with 0 <= begin_step <= end_step, got 5 and 3"):
        gradual_rank(sgd, rank=1, begin_step=5, end_step=3)
    with pytest.raises(ValueError, match=r"steps must be integers with .*, got 0\.5 and 3"):
        gradual_rank(sgd, rank=1, begin_step=0.5, end_step=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"power must be above 0, got -1\.0"):
        gradual_rank(sgd, rank=1, begin_step=0, end_step=3, power=-1.0)
    with pytest.raises(ValueError, match="every must be an integer of 1 or more, got 0"):
        gradual_rank(sgd, rank=1, begin_step=0, end_step=3, every=0)
    with pytest.raises(ValueError, match=r"rank must be a positive integer, got 0\.9 for 'w'"):
        gradual_rank(sgd, rank=0.9, begin_step=0, end_step=3).init(params)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="rank 3 saves nothing in 'w'"):
        gradual_rank(sgd, rank=3, begin_step=0, end_step=3).init(params)
    with pytest.raises(ValueError, match="'v' fits none"):
        gradual_rank(sgd, rank={"v": 1}, begin_step=0, end_step=3).init(params)
    tx = gradual_rank(sgd, rank=1, begin_step=0, end_step=3)
    with pytest.raises(ValueError, match="gradual_rank needs the parameters"):
        tx.update(params, tx.init(params))
