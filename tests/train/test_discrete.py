"""Discrete gradient descent: on the grid after every step, right on average, and it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.quantize import QAT, convert, prepare
from jaxcompress.quantize.training.on_grid import power_of_two_step
from jaxcompress.train import anneal_bits, discrete
from jaxcompress.train.discrete import discrete_move
from tests.train.optimizers import OPTIMIZERS

KEY = jax.random.key(3)
RNG = np.random.RandomState(0)


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def on_the_grid(leaf):
    codes = np.asarray(leaf.values, np.float64) / np.asarray(
        jnp.broadcast_to(leaf.scale, leaf.values.shape), np.float64
    )
    return (codes == np.round(codes)).all() and np.abs(codes).max() <= 2 ** (leaf.bits - 1) - 1


# The move ---------------------------------------------------------------------------------------------------------


def test_moves_are_right_on_average():
    """40,000 draws: the mean is within five standard errors (at most half a step over 200) of what was wanted."""
    wanted = jnp.array([0.0, 0.1, -0.37, 0.5, 1.25, -2.6])
    keys = jax.random.split(KEY, 40_000)
    move = jax.jit(jax.vmap(lambda key: discrete_move(wanted, jnp.zeros(6), jnp.array([0.5]), key, bits=5)))(keys)
    assert set(np.unique(move / 0.5)) <= set(range(-6, 4))
    np.testing.assert_allclose(move.mean(0), wanted, atol=5 * 0.25 / 200)
    assert (move[:, 0] == 0).all()
    assert (move[:, 3] == 0.5).all()


def test_tanh_transitions_of_gxnor():
    """Deng 2018: a rest of half a step is taken with probability tanh(3 / 2)."""
    keys = jax.random.split(KEY, 40_000)
    told = {"bits": 4, "transition": "tanh"}
    draws = jax.vmap(lambda key: discrete_move(jnp.array([-0.75]), jnp.ones(1), jnp.array([0.5]), key, **told))
    move = jax.jit(draws)(keys)
    taken = float((move == -1.0).mean())
    assert set(np.unique(move)) == {-1.0, -0.5}
    assert taken == pytest.approx(np.tanh(1.5), abs=5 * 0.5 / 200)


def test_the_grid_ends():
    at = jnp.array([0.75, -0.75, 0.5])
    move = discrete_move(jnp.array([0.6, -9.0, 9.0]), at, jnp.array([0.25]), KEY, bits=3)
    assert (at + move).tolist() == [0.75, -0.75, 0.75]


@pytest.mark.parametrize("bits", [2, 8])
def test_steps_are_powers_of_two_of_least_error(bits):
    w = draw(64, 3) * jnp.array([[0.01, 1.0, 300.0]])
    step = power_of_two_step(w, (1, 3), bits=bits)
    mantissa, _ = np.frexp(np.asarray(step))
    assert (mantissa == 0.5).all()
    top = 2 ** (bits - 1) - 1

    def error(step):
        return ((np.clip(np.round(w / step), -top, top) * step - w) ** 2).sum(0)

    assert (error(step) <= error(2 * step) + 1e-6).all()
    assert (error(step) <= error(step / 2) + 1e-6).all()


# The transformation -----------------------------------------------------------------------------------------------

USUAL = ("adam", "MultiSteps outside", "masked outside", "partition")
CASES = [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in OPTIMIZERS]


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", CASES)
def test_on_the_grid_after_every_step_of_any_optimizer(name):
    params = prepare({part: {"w": draw(8, 6), "b": draw(6)} for part in ("inner", "outer")}, QAT(3, "on_grid"))
    tx = OPTIMIZERS[name](lambda inner: discrete(inner, key=KEY))
    state, update, first = tx.init(params), jax.jit(tx.update), params
    grads = jax.tree.map(lambda p: jnp.asarray(RNG.uniform(0.5, 1, p.shape), p.dtype), params)
    for _ in range(16):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for part in ("inner", "outer"):
            assert on_the_grid(params[part]["w"])
            np.testing.assert_array_equal(params[part]["w"].scale, first[part]["w"].scale)
    assert (params["inner"]["w"].values != first["inner"]["w"].values).any()


def test_nothing_float_is_kept_per_weight():
    params = prepare({"w": draw(32, 32)}, QAT(4, "on_grid"))
    state = discrete(optax.sgd(0.1), key=KEY).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 8


def test_bfloat16_holds_every_point():
    params = prepare({"w": draw(16, 16, dtype=jnp.bfloat16)}, QAT(8, "on_grid"))
    tx = discrete(optax.sgd(1.0), key=KEY)
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(3):
        updates, state = update({"w": params["w"].replace(values=draw(16, 16, dtype=jnp.bfloat16))}, state, params)
        params = optax.apply_updates(params, updates)
        assert params["w"].values.dtype == jnp.bfloat16
        assert on_the_grid(params["w"])


@pytest.mark.standard_promotion
def test_it_learns_and_converts():
    """A teacher of the same form: 4-bit weights, never held in float, come close to it."""
    x, teacher = draw(256, 8), {"a": draw(8, 16), "b": draw(16, 2)}
    net = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    y = net(teacher, x)
    params = prepare({"a": 0.5 * draw(8, 16), "b": 0.5 * draw(16, 2)}, QAT(4, "on_grid"))
    tx = discrete(optax.adam(optax.cosine_decay_schedule(0.02, 400)), key=KEY)

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: jnp.mean((jc.lift(net)(p, x) - y) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), length=400)

    (trained, _), losses = run(params, tx.init(params))
    assert losses[-20:].mean() < 0.25 * losses[0]
    packed = convert(trained)
    for name, leaf in packed.items():
        assert leaf.qvalue.dtype == jnp.int4
        np.testing.assert_array_equal(leaf.materialize(), trained[name].values)
    again, _ = run(params, tx.init(params))
    np.testing.assert_array_equal(again[0]["a"].values, trained["a"].values)  # the same key, the same run


def test_errors():
    with pytest.raises(ValueError, match="transition must be"):
        discrete(optax.sgd(0.1), key=KEY, transition="nearest")
    with pytest.raises(ValueError, match="m must be positive"):
        discrete(optax.sgd(0.1), key=KEY, transition="tanh", m=0)
    with pytest.raises(ValueError, match="hold no weights on a grid"):
        discrete(optax.sgd(0.1), key=KEY).init({"w": draw(2, 2)})
    params = prepare({"w": draw(4, 4)}, QAT(4, "on_grid"))
    tx = discrete(optax.sgd(0.1), key=KEY)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="hold no annealed weights"):
        anneal_bits(optax.sgd(0.1), optax.constant_schedule(4)).init(params)


# Annealed widths --------------------------------------------------------------------------------------------------


def test_annealing_ends_at_integers_of_that_width():
    params = prepare({"w": jnp.linspace(-1.0, 1.3, 64).reshape(16, 4)}, QAT(8, "annealed"))
    tx = anneal_bits(optax.sgd(1e-4), optax.linear_schedule(8.0, 2.0, 10))
    state, levels = tx.init(params), []

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: (p["w"].materialize() ** 3).sum())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(12):
        params, state = step(params, state)
        levels.append(len(np.unique(params["w"].materialize()[:, 0])))
    np.testing.assert_allclose(params["w"].bits, [[2.0]])
    assert levels[0] == 16
    assert levels[-1] <= 3
    assert sorted(levels, reverse=True) == levels  # even weights: fewer levels, never more
    packed = convert(params)["w"]
    assert packed.qvalue.bits == 2
    np.testing.assert_array_equal(packed.materialize(), params["w"].materialize())
