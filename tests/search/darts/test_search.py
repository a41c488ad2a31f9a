"""The bilevel step against one by hand; a search that has to find the operation the data was made with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.search import darts

pytestmark = pytest.mark.standard_promotion  # optax.adam

OPERATIONS = (jnp.zeros_like, lambda x: x, jnp.square, jnp.tanh)


def apply(params, mixture, x):
    return params["w"] * darts.mixed(mixture["edge"][0], [operation(x) for operation in OPERATIONS])


def mse(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets))


def split_of(seed, function=jnp.square, rows=128):
    x = jax.random.uniform(jax.random.key(seed), (rows,), minval=-2.0, maxval=2.0)
    return x, 1.5 * function(x)


def start():
    return {"w": jnp.float32(0.5)}, darts.start_alphas(jax.random.key(9), {"edge": (1, 4)})


def test_a_step_is_that_of_the_paper_by_hand():
    """First the architecture on validation with the weights of before, then the weights on train with the new one."""
    bilevel = darts.Bilevel(apply, mse, optax.sgd(0.1), optax.sgd(0.2))
    params, alphas = start()
    train, validation = split_of(0, rows=8), split_of(1, rows=8)
    state, losses = jax.jit(bilevel.step)(bilevel.init(params, alphas), train, validation)

    def at(w, a, x, y):
        m = np.exp(a) / np.exp(a).sum()
        g = np.stack([np.zeros_like(x), x, x**2, np.tanh(x)])
        rest = w * (m @ g) - y
        of_mixture = (2 * rest * w * g).mean(1)
        return (rest**2).mean(), (2 * rest * (m @ g)).mean(), m * (of_mixture - m @ of_mixture)

    w, a = float(params["w"]), np.asarray(alphas["edge"][0], np.float64)
    train, validation = (tuple(np.asarray(part, np.float64) for part in split) for split in (train, validation))
    validation_loss, _, slope = at(w, a, *validation)
    a = a - 0.2 * slope
    train_loss, slope, _ = at(w, a, *train)
    np.testing.assert_allclose(state.alphas["edge"][0], a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.params["w"], w - 0.1 * slope, rtol=1e-5)
    np.testing.assert_allclose(losses, [train_loss, validation_loss], rtol=1e-5)


@pytest.mark.parametrize("truth", [1, 2, 3])
def test_finds_the_operation_that_made_the_data(truth, compilations):
    found = darts.search(
        apply, *start(), loss=mse, train=split_of(0, OPERATIONS[truth]), validation=split_of(1, OPERATIONS[truth]),
        key=jax.random.key(0), epochs=20, batch_size=16, weights=optax.sgd(0.05), architecture=optax.adam(0.1),
    )  # fmt: skip
    assert darts.strongest_operations(found.alphas["edge"]).tolist() == [truth]
    assert found.losses.validation[-1] < 0.1 * found.losses.validation[0]
    assert found.doubt[-1] < 0.5 < 0.99 < found.doubt[0] + 0.2
    assert compilations("_epoch") == 1


def test_goes_on_where_it_stopped():
    train, validation = split_of(0), split_of(1)
    options = {"loss": mse, "train": train, "validation": validation, "batch_size": 32, "weights": optax.sgd(0.05)}
    first = darts.search(apply, *start(), key=jax.random.key(0), epochs=2, **options)
    second = darts.search(apply, None, None, key=jax.random.key(1), epochs=2, state=first.state, **options)
    assert second.losses.train[-1] < first.losses.train[-1] < first.losses.train[0]
    assert optax.tree_utils.tree_get(second.state, "count") == 4 * 4


def test_the_gap_and_what_makes_it_small():
    """Mixtures of twins are never decided by the loss: there a reward for decisions closes the gap."""

    def twins(params, mixture, x):
        first, second = mixture["edge"]
        outputs = [operation(x) for operation in (lambda x: x, jnp.tanh, jnp.square)]
        return params["w"] * (darts.mixed(first, outputs) + darts.mixed(second, outputs))

    x = jax.random.uniform(jax.random.key(0), (256,), minval=-2.0, maxval=2.0)
    targets = x + jnp.square(x) + 0.5 * jnp.tanh(x)
    train, validation = (x[:128], targets[:128]), (x[128:], targets[128:])

    def gap(decisiveness):
        alphas = darts.start_alphas(jax.random.key(1), {"edge": (2, 3)})
        found = darts.search(
            twins, {"w": jnp.float32(1.0)}, alphas, loss=mse, train=train, validation=validation, key=jax.random.key(2),
            epochs=30, batch_size=32, weights=optax.sgd(0.05), architecture=optax.adam(0.05), decisiveness=decisiveness,
        )  # fmt: skip
        codes = jax.tree.map(darts.strongest_operations, found.alphas)
        return darts.discretization_gap(twins, found.params, found.alphas, codes, validation, error=mse)

    plain, decided = gap(0.0), gap(1.0)
    assert decided.doubt < 0.5 * plain.doubt
    assert 0 <= decided.gap < 0.05 * plain.gap
    assert plain.relaxed < decided.relaxed  # what it costs


def test_what_it_refuses():
    good = split_of(0)
    call = partial(darts.search, apply, *start(), loss=mse, key=jax.random.key(0), validation=good)
    with pytest.raises(ValueError, match=r"epochs=0\): at least one"):
        call(train=good, epochs=0)
    with pytest.raises(ValueError, match=r"batch_size=0\): at least one row"):
        call(train=good, epochs=1, batch_size=0)
    with pytest.raises(ValueError, match=r"decisiveness=-1\.0\) must be 0 or more"):
        call(train=good, epochs=1, decisiveness=-1.0)
    with pytest.raises(ValueError, match=r"batch_size=500 has to be between 1 and the 128 rows"):
        call(train=good, epochs=1, batch_size=500)
    with pytest.raises(ValueError, match=r"train has to be arrays with one number of rows.*\(128,\), \(64,\)"):
        call(train=(good[0], good[1][:64]), epochs=1)
    with pytest.raises(ValueError, match="losses of epoch 0 are"):
        call(train=(good[0] * jnp.nan, good[1]), epochs=1)
