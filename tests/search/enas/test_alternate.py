"""Shared weights and controller in turn: each half by hand, and a search on real digits."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxcompress as jc
from jaxcompress.search import ENAS, Choice, Conditional, GrowthStage, Space, allowed_values, alternate
from jaxcompress.search.enas.alternation import Alternation
from jaxcompress.search.minibatches import minibatch_rows

pytestmark = pytest.mark.standard_promotion  # optax.adam

WIDTHS = (1, 3, 48)
SPACE = Space({
    "width": Choice(WIDTHS),
    "act": Choice(("none", "relu", "broken")),
    "scale": Conditional(Choice((0.5, 1.0)), on="act", equals="relu"),
})  # fmt: skip


def apply(params, genome, x):
    """One hidden layer; ``none`` hands on nothing, ``broken`` gives NaN."""
    hidden = x @ params["first"]
    hidden = jax.lax.switch(genome["act"], [jnp.zeros_like, jax.nn.relu, lambda h: h * jnp.nan], hidden)
    there = jnp.arange(WIDTHS[-1]) < genome["width"]
    hidden = jnp.where(there[None], hidden * genome["scale"], 0.0)
    return hidden @ params["second"] + params["bias"][None]


def loss(outputs, targets):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def error(outputs, targets):
    return jnp.mean((outputs.argmax(-1) != targets).astype(jnp.float32))


def params():
    first, second = jax.random.split(jax.random.key(1))
    return {
        "first": 0.2 * jax.random.normal(first, (64, WIDTHS[-1])),
        "second": 0.2 * jax.random.normal(second, (WIDTHS[-1], 10)),
        "bias": jnp.zeros(10),
    }


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    return jc.search.split((np.float32(x / 16), np.int32(y)), (0.5, 0.3, 0.2), jax.random.key(0))


STRATEGY = ENAS(batch=4, hidden=16, learning_rate=0.02)


@cache
def searched():
    train, validation, _ = digits()
    stages = [GrowthStage(4, {"width": (1, 3)}), GrowthStage(12)]
    return alternate(
        SPACE, apply, params(), loss=loss, error=error, train=train, validation=validation, key=jax.random.key(2),
        rounds=stages, strategy=STRATEGY, samples=2, controller_steps=20,
    )  # fmt: skip


@cache
def weight_step():
    """One step of SGD on 16 rows for three subnets, compiled; and a state before it."""
    halves = Alternation(SPACE, apply, loss, error, STRATEGY, optax.sgd(0.5), samples=3, batch_size=16)
    return jax.jit(halves.train_weights), halves.init(params(), jax.random.key(6))


def test_a_weight_step_descends_the_mean_gradient_of_its_samples():
    train = digits()[0]
    (step, state), rows, key = weight_step(), jnp.arange(16)[None], jax.random.key(5)
    drawn, _ = STRATEGY.draw(SPACE, state.controller, jax.random.split(key, 1)[0], 3)
    whole = [i for i, codes in enumerate(drawn.codes.tolist()) if codes[1] != 2]
    assert len(whole) == 2  # the third one is broken

    def mean_loss(weights):
        genomes = [SPACE.decode(jax.tree.map(lambda row, i=i: row[i], drawn)) for i in whole]
        return sum(loss(apply(weights, genome, train[0][:16]), train[1][:16]) for genome in genomes) / 2

    after, told = step(state, train, rows, key)
    value, slope = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    np.testing.assert_allclose(told, value, rtol=1e-5)
    for name, weight in state.params.items():
        np.testing.assert_allclose(after.params[name], weight - 0.5 * slope[name], rtol=1e-5, atol=1e-6)


def test_one_program_for_each_half_however_the_network_grows(compilations):
    found = searched()
    assert compilations("train_weights") == compilations("train_controller") == 1
    assert found.course.loss.shape == (16,)


def test_finds_what_is_good_on_digits():
    """From 9 % of all images in a small network to most of them; then what it draws is better than what is random."""
    found, report = searched(), digits()[2]
    genes, errors = found.derive(jax.random.key(3), report, samples=16)
    assert (np.diff(errors) >= 0).all()
    assert SPACE.config(jax.tree.map(lambda row: row[0], genes))["width"] == 48
    assert errors[0] < 0.15
    other = SPACE.sample(jax.random.key(4), 16)
    random = np.asarray(jax.jit(found.alternation.errors)(found.params, other, report))
    assert np.median(errors) < 0.5 * np.median(np.where(np.isfinite(random), random, 1.0))
    assert found.course.error[-1] < 0.6 * found.course.error[0]


def test_subnets_that_break_ruin_nothing():
    found = searched()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))
    assert found.course.failed[0] > 5 * max(found.course.failed[-1], 1)
    assert np.isfinite(found.course.best).all()


def test_a_small_network_stays_small():
    """Columns of the weights that only the widest network has are untouched until the limits widen."""
    step, state = weight_step()
    small = allowed_values(SPACE, {"width": (1, 3)})

    def moved(allowed):
        now = state._replace(controller=STRATEGY.grow(state.controller, allowed))
        for i in range(6):
            now, _ = step(now, digits()[0], 16 * i + jnp.arange(16)[None], jax.random.key(i))
        return np.abs(np.asarray(now.params["first"] - state.params["first"])).sum(0)

    within = moved(small)
    assert (within[:3] > 0).any()
    assert (within[3:] == 0).all()
    assert (moved(allowed_values(SPACE))[3:] > 0).mean() > 0.8  # some units are dead


@pytest.mark.slow
def test_goes_on_where_it_stopped():
    train, validation, _ = digits()
    found = searched()
    again = alternate(
        SPACE, apply, None, loss=loss, error=error, train=train, validation=validation, key=jax.random.key(7),
        rounds=1, strategy=STRATEGY, optimizer=found.alternation.optimizer, samples=2, controller_steps=20,
        state=found.state,
    )  # fmt: skip
    assert again.course.error[0] < 0.6 * found.course.error[0]
    assert again.state.controller.step == found.state.controller.step + 20


def test_minibatches_see_every_row_before_any_again():
    rows = np.asarray(minibatch_rows(jax.random.key(0), 10, batch_size=4, steps=7)).reshape(-1)
    for start in range(0, 20, 10):
        assert sorted(rows[start : start + 10]) == list(range(10))
    assert (rows[:10] != rows[10:20]).any()


def test_what_it_refuses():
    train, validation, _ = digits()
    options = {"loss": loss, "error": error, "validation": validation, "key": jax.random.key(0), "rounds": 16}
    options |= {"samples": 2, "strategy": STRATEGY}  # the programs of `searched`
    with pytest.raises(ValueError, match=r"alternate\(samples=0\) must be at least 1"):
        alternate(SPACE, apply, params(), train=train, **(options | {"samples": 0}))
    with pytest.raises(ValueError, match=r"alternate\(batch_size=0\) must be at least 1"):
        alternate(SPACE, apply, params(), train=train, **(options | {"batch_size": 0}))
    for rounds in ((), [3]):
        with pytest.raises(ValueError, match="a number of rounds, or some GrowthStages"):
            alternate(SPACE, apply, params(), train=train, **(options | {"rounds": rounds}))
    with pytest.raises(TypeError, match="must be an ENAS, whose policy draws the subnets, got 'ENAS'"):
        alternate(SPACE, apply, params(), train=train, **(options | {"strategy": "ENAS"}))
    with pytest.raises(ValueError, match=r"GrowthStage\(rounds=0\)"):
        GrowthStage(0)
    with pytest.raises(ValueError, match="no weight step of round 0 had a finite gradient"):
        alternate(SPACE, apply, params(), train=(train[0] * np.float32(np.nan), train[1]), **options)
