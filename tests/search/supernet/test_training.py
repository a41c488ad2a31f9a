"""Training of shared weights: steps by hand, the order of phases, and that it pays on digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jaxcompress.search import Choice, Float, Space
from jaxcompress.search.supernet import (
    Supernet,
    Training,
    largest,
    once_for_all,
    progressive_shrinking,
    sample_above,
    sandwich,
    smallest,
    soft_cross_entropy,
)
from tests.zoo.model import arrays, data

SPACE = Space(
    {"kernel": Choice((3, 5, 7)), "depth": Choice((1, 2)), "width": {"a": Choice((1, 2, 3)), "b": Float(0, 1)}}
)


def linear(params, genome, batch, key):
    """Outputs of the first ``width`` inputs."""
    kept = jnp.arange(3) < genome["width"]["a"]
    noise = jnp.zeros((), jnp.float32) if key is None else jax.random.normal(key)
    return batch["x"] @ jnp.where(kept[:, None], params["w"], 0.0) + noise


def squared(outputs, batch):
    return jnp.mean((outputs - batch["y"]) ** 2)


def distance(outputs, taught):
    return jnp.mean((outputs - taught) ** 2)


def problem():
    return arrays(w=(3, 2)), {"x": data(8, 3), "y": data(8, 2, seed=5)}


def test_a_sandwich_step_by_hand():
    """The largest learns from labels, the smallest from the largest's outputs; gradients are summed."""
    params, batch = problem()
    w, x, y = (np.asarray(a, np.float64) for a in (params["w"], batch["x"], batch["y"]))
    space = Space({"width": {"a": Choice((1, 3))}})
    apply = lambda p, genome, batch, key: linear(p, genome, batch, None)  # noqa: E731
    training = sandwich(space, apply, squared, optax.sgd(1.0), random=0, distill=distance)
    state, losses = jax.jit(training.step)(training.init(params, jax.random.key(0)), batch)
    taught = x @ w
    small = np.array([[1.0], [0.0], [0.0]])
    gradient = 2 * x.T @ (taught - y) / y.size + small * (2 * x.T @ (x @ (small * w) - taught) / y.size)
    np.testing.assert_allclose(state.params["w"], w - gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses["largest"], np.mean((taught - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(losses["subnets"], [np.mean((x @ (small * w) - taught) ** 2)], rtol=1e-5)
    assert int(state.step) == 1


def test_noise_reaches_the_largest_alone():
    params, batch = problem()
    found = {}
    for noise in ("largest", "all"):
        training = sandwich(SPACE, linear, squared, optax.sgd(0.0), noise=noise, distill=None, labels=1.0)
        _, losses = jax.jit(training.step)(training.init(params, jax.random.key(0)), batch)
        found[noise] = losses
    quiet = squared(linear(params, SPACE.decode(smallest(SPACE)), batch, None), batch)
    loud = squared(linear(params, SPACE.decode(largest(SPACE)), batch, None), batch)
    np.testing.assert_allclose(found["largest"]["subnets"][0], quiet, rtol=1e-5)
    assert abs(float(found["all"]["subnets"][0] - quiet)) > 1e-3
    assert abs(float(found["largest"]["largest"] - loud)) > 1e-3


def test_statistics_of_the_largest_are_kept():
    params, batch = problem()
    params = {"params": params, "batch_stats": {"mean": jnp.zeros(2)}}

    def apply(params, genome, batch, key):
        outputs = linear(params["params"], genome, batch, None) - params["batch_stats"]["mean"][None]
        return outputs, {"batch_stats": {"mean": outputs.mean(0)}}

    training = sandwich(SPACE, apply, squared, optax.sgd(0.1), updates=True)
    state, _ = jax.jit(training.step)(training.init(params, jax.random.key(0)), batch)
    np.testing.assert_allclose(
        state.params["batch_stats"]["mean"], (batch["x"] @ params["params"]["w"]).mean(0), rtol=1e-5
    )
    rest, _ = jax.tree.flatten(state.opt_state)
    assert not any(leaf.shape == (2,) for leaf in rest)


def test_all_phases_are_one_program(compilations):
    params, batch = problem()
    training = once_for_all(SPACE, linear, squared, optax.sgd(1e-2, momentum=0.9), distill=distance)
    step = jax.jit(training.step)
    state = training.init(params, jax.random.key(0))
    for phase in progressive_shrinking(SPACE):
        state, losses = step(state, batch, floors=phase.floors, teacher=params)
    assert compilations("step") == 1
    assert losses["subnets"].shape == (4,)
    assert "largest" not in losses


def test_trainings_side_by_side():
    """Vmapped over keys; and the program is one for every platform."""
    params, batch = problem()
    training = sandwich(SPACE, linear, squared, optax.sgd(1e-2), distill=distance)
    keys = jax.random.split(jax.random.key(1), 2)
    one = lambda key: training.step(training.init(params, key), batch)[0].params["w"]  # noqa: E731
    at_once = jax.jit(jax.vmap(one))(keys)
    np.testing.assert_allclose(at_once[1], jax.jit(one)(keys[1]), rtol=1e-6)
    assert np.any(np.asarray(at_once[0] != at_once[1]))
    state = training.init(params, jax.random.key(0))
    jax.export.export(jax.jit(training.step), platforms=("cpu", "cuda", "tpu"))(state, batch)


def test_phases_and_draws():
    """Kernel, then depth, then width, each staying elastic; draws stay above the floors and reach them."""
    phases = progressive_shrinking(SPACE)
    assert [phase.name for phase in phases] == ["whole", "kernel", "depth 1", "depth 2", "width 1", "width 2"]
    assert [phase.floors.tolist() for phase in phases] == [
        [2, 1, 2], [0, 1, 2], [0, 0, 2], [0, 0, 2], [0, 0, 1], [0, 0, 0]
    ]  # fmt: skip
    codes = sample_above(SPACE, jax.random.key(0), 200, phases[4].floors).codes
    assert codes.min(0).tolist() == [0, 0, 1]
    assert codes.max(0).tolist() == [2, 1, 2]
    assert SPACE.config(largest(SPACE)) == {"kernel": 7, "depth": 2, "width": {"a": 3, "b": 1.0}}
    with pytest.raises(ValueError, match="never makes 'depth' elastic"):
        progressive_shrinking(SPACE, order=("kernel", "width"), phases=1)
    with pytest.raises(ValueError, match="phases= must be 1 or more"):
        progressive_shrinking(SPACE, phases=(1, 0, 1))


def test_soft_cross_entropy_is_that_of_the_probabilities():
    a, b = data(4, 3), data(4, 3, seed=7)
    p, q = (np.exp(t) / np.exp(t).sum(-1, keepdims=True) for t in (np.asarray(b, float) / 2, np.asarray(a, float) / 2))
    wanted = -4 * np.mean((p * np.log(q)).sum(-1))
    np.testing.assert_allclose(soft_cross_entropy(a, b, temperature=2.0), wanted, rtol=1e-5)
    assert not np.any(np.asarray(jax.grad(lambda t: soft_cross_entropy(a, t))(b)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"random": 0, "extremes": False}, "draw no subnet"),
        ({"distill": None}, "learn nothing"),
        ({"noise": "some"}, "noise must be"),
    ],
)
def test_settings_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Training(space=SPACE, apply=linear, loss=squared, tx=optax.sgd(0.1), **options)


def test_bad_weights_are_named():
    training = sandwich(SPACE, linear, squared, optax.sgd(0.1))
    with pytest.raises(ValueError, match="NaN or infinity at 'w'"):
        training.init({"w": jnp.full((3, 2), jnp.nan)}, jax.random.key(0))


# Direction ------------------------------------------------------------------------------------------------------------


def mlp(p, x):
    x = jax.nn.relu(x @ p["a"]["w"] + p["a"]["b"][None])
    x = x + jax.nn.relu(x @ p["b"]["w"] + p["b"]["b"][None]) @ p["b"]["v"]
    return x @ p["c"]["w"] + p["c"]["b"][None]


@functools.cache
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order], jnp.int32)
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


@pytest.mark.standard_promotion
def test_shared_weights_beat_slices_of_a_plain_network():
    """300 steps each on digits: subnets of a quarter and half of the width, best slices of either network."""
    (images, labels), (held, wanted) = digits()
    params = {
        "a": arrays(1, w=(64, 32), b=(32,)),
        "b": arrays(2, w=(32, 32), b=(32,), v=(32, 32)),
        "c": arrays(3, w=(32, 10), b=(10,)),
    }
    supernet = Supernet.from_model(mlp, params, images[:1], round_to=1)

    def apply(params, genome, batch, key):
        return supernet.apply(params, genome, batch[0])

    def loss(logits, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    training = sandwich(supernet.space, apply, loss, optax.adam(3e-3))
    rows = jax.random.randint(jax.random.key(1), (300, 64), 0, len(labels))

    @jax.jit
    def shared(params):
        start = training.init(params, jax.random.key(2))
        return jax.lax.scan(lambda s, at: training.step(s, (images[at], labels[at])), start, rows)[0].params

    @jax.jit
    def plain(params):
        tx = optax.adam(3e-3)

        def step(state, at):
            params, opt_state = state
            gradient = jax.grad(lambda p: loss(mlp(p, images[at]), (None, labels[at])))(params)
            change, opt_state = tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, change), opt_state), None

        return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]

    def errors(params, supernet):
        genes = jax.tree.map(lambda *g: jnp.stack(g), *(supernet.uniform(width) for width in (0.25, 0.5, 1.0)))
        run = jax.vmap(lambda g: jnp.mean(jnp.argmax(supernet.apply(params, g, held), -1) != wanted))
        return np.asarray(jax.jit(run)(genes))

    ours, alone = shared(params), plain(params)
    of_shared, of_plain = errors(ours, supernet), errors(alone, supernet.reordered(alone))
    assert of_shared[2] < of_plain[2] + 0.03  # the whole network pays little
    assert of_shared[0] < 0.2
    assert of_shared[0] < 0.5 * of_plain[0]
    assert of_shared[1] < of_plain[1]
