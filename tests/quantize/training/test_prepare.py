"""`prepare` in training loops as people write them: Linen with TrainState, NNX, scanned layers, frozen parts."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jaxcompress as jc
from jaxcompress.quantize import QAT, Activations, FakeQuantized, convert, prepare
from jaxcompress.quantize.training.fake import LearnedStep, StraightThrough
from jaxcompress.quantize.training.pact import pact

RNG = np.random.RandomState(0)
X = jnp.asarray(RNG.standard_normal((64, 8)), jnp.float32)
Y = jnp.sin(2 * X[:, :1]) + X[:, 1:2] * X[:, 2:3]


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


class Net(nn.Module):
    """Three kernels, biases, a norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32)(x))
        x = nn.LayerNorm()(nn.relu(nn.Dense(32)(x)))
        return nn.Dense(1)(x)


@jax.jit
def step(state, x, y):
    """The step of the user, without a word of quantization."""

    def loss(params):
        return jnp.mean((state.apply_fn(params, x) - y) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


@pytest.mark.standard_promotion
def test_train_state_by_two_changed_lines():
    model = Net()
    params = model.init(jax.random.key(0), X)
    stats = jc.observe(model.apply, params, [X], what="histogram")
    spec = QAT({"**/Dense_0/*": 8, "**": 3}, activations=Activations(6))
    prepared = prepare(params, spec, sites=jc.sites(model.apply, params, X), stats=stats)  # changed
    tx = optax.adamw(3e-3, weight_decay=1e-3, mask=jc.train.decay_mask(prepared))
    state = TrainState.create(apply_fn=jc.lift(model.apply), params=prepared, tx=tx)  # changed
    losses = []
    for _ in range(60):
        state, value = step(state, X, Y)
        losses.append(float(value))
    assert losses[-1] < 0.3 * losses[0]
    before, after = prepared["params"]["Dense_1"]["kernel"], state.params["params"]["Dense_1"]["kernel"]
    assert (before.weight.scale != after.weight.scale).all()
    assert (before.scale != after.scale).all()
    packed = convert(state.params)
    ours, theirs = (jc.materialize(tree)["params"]["Dense_1"]["kernel"] for tree in (state.params, packed))
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours[:, 0])) <= 8
    loss = float(jnp.mean((jc.lift(model.apply)(packed, X) - Y) ** 2))
    np.testing.assert_allclose(loss, losses[-1], rtol=0.2)
    widths = {name: packed["params"][name]["kernel"].weight.qvalue for name in ("Dense_0", "Dense_1")}
    assert widths["Dense_0"].dtype == jnp.int8
    assert widths["Dense_1"].bits == 3


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_nnx_loop_by_two_changed_lines():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    model = Model(nnx.Rngs(0))
    fn, variables = jc.nnx.split(model)
    params = prepare(variables, QAT(4), sites=jc.sites(fn, variables, X))  # changed
    run = jc.lift(fn)  # changed
    tx = optax.adam(1e-2)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(lambda params: jnp.mean((run(params, X) - Y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(40):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    jc.nnx.update(model, jc.materialize(convert(params)))
    np.testing.assert_allclose(model(X), run(params, X), rtol=1e-4, atol=1e-4)


def test_decay_and_freezing_know_the_fields():
    prepared = prepare({"w": draw(8, 4), "b": draw(4)}, QAT(4, activations=Activations(4, "pact")))
    mask = jc.train.decay_mask(prepared)
    assert mask["w"].weight.values is True
    assert mask["w"].weight.scale is mask["w"].alpha is mask["b"] is False
    trainable, frozen = jc.split_trainable(prepared, where="w")
    assert frozen["w"].weight.values is frozen["w"].weight.scale is frozen["w"].alpha is None
    assert trainable["b"] is None
    merged = jc.merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(prepared)


def test_layers_in_a_scan_keep_steps_and_gradients_of_their_own():
    stacked = {"w": draw(3, 8, 8) * jnp.array([0.1, 1.0, 10.0])[:, None, None]}

    def fn(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]

    prepared = prepare(stacked, QAT(4, granularity="tensor"), sites=jc.sites(fn, stacked, X))
    assert prepared["w"].scale.shape == (3, 1, 1)
    grads = jax.jit(jax.grad(lambda p: (jc.lift(fn)(p, X) ** 2).sum()))(prepared)["w"]
    loop = prepared["w"].unstack()

    def unrolled(layers):
        x = X
        for layer in layers:
            x = jnp.tanh(x @ layer.materialize())
        return (x**2).sum()

    separate = jax.jit(jax.grad(unrolled))(loop)
    for layer in range(3):
        np.testing.assert_allclose(grads.values[layer], separate[layer].values, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(grads.scale[layer], separate[layer].scale, rtol=1e-3, atol=1e-4)
    mapped = jax.vmap(lambda leaf: leaf.materialize())(prepared["w"])
    np.testing.assert_array_equal(mapped, prepared["w"].materialize())


def test_slices_of_a_leaf_whose_scale_follows_its_values():
    """A row of an embedding cannot be rounded alone where the scale comes from the whole table."""
    table = {"table": draw(6, 8)}
    for granularity in ("tensor", "channel"):
        prepared = prepare(table, QAT(3, "ste", granularity=granularity))
        for fn in (lambda p: p["table"][jnp.array([4, 1])], lambda p: p["table"][:, 2:5], lambda p: p["table"].T[::-1]):
            np.testing.assert_array_equal(jc.lift(fn)(prepared), fn(jc.materialize(prepared)))


@pytest.mark.slow
def test_rows_of_a_kernel_meet_rounded_data():
    """A model that convolves by products of slices: the scale is that of the kernel, the data is rounded each time."""
    kernel = {"w": draw(2, 8, 4)}
    fn = lambda p, x: x @ p["w"][0] + (x + 1) @ p["w"][1]  # noqa: E731
    sites = jc.sites(fn, kernel, X)
    whole = [dataclasses.replace(site, stack=(), contracting=(0, 1)) for site in sites]
    for method in ("dorefa", "lsq"):
        spec = QAT(4, method, activations=Activations(2, "pact"))
        prepared = prepare(kernel, spec, sites=jc.Sites(whole))
        assert [line.served for line in jc.explain(fn, prepared, X)] == [True, True]
        expected = fn(jc.materialize(prepared), pact(X, jnp.full((1, 1), 10.0), bits=2))
        shifted = pact(X + 1, jnp.full((1, 1), 10.0), bits=2) - pact(X, jnp.full((1, 1), 10.0), bits=2) - 1
        expected += shifted @ prepared["w"].materialize()[1]
        np.testing.assert_allclose(jc.lift(fn)(prepared, X), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(jc.lift(fn)(convert(prepared), X), expected, rtol=1e-4, atol=1e-4)


def test_casts_keep_the_grid():
    """A model that computes in bfloat16 casts its float32 kernels: data is still rounded before it meets them."""
    fn = lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)  # noqa: E731
    params = {"w": draw(8, 4)}
    stats = jc.observe(fn, params, [X], what="histogram")
    prepared = prepare(params, QAT(4, activations=Activations(2)), sites=jc.sites(fn, params, X), stats=stats)
    assert [line.served for line in jc.explain(fn, prepared, X)] == [True]
    out = jc.lift(fn)(prepared, X)
    assert out.dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(out[:, 0], np.float32))) < len(
        np.unique(np.asarray(fn(params, X)[:, 0], np.float32))
    )


def test_settings_select_leaves():
    params = {"a": draw(8, 4), "b": draw(4, 4), "c": draw(4)}
    prepared = prepare(params, QAT({"b": 2}))
    assert isinstance(prepared["b"], LearnedStep)
    assert prepared["a"] is params["a"]
    both = prepare(params, QAT(activations=Activations({"a": 8}, "pact")))
    assert isinstance(both["b"], LearnedStep)
    assert both["a"].alpha.tolist() == [10.0]
    again = prepare(prepared, QAT(4, "ste"), where="a")  # one after the other: methods by leaf
    assert isinstance(again["a"], StraightThrough)
    assert all(isinstance(again[name], FakeQuantized) for name in "ab")


def test_inputs_are_not_changed():
    params = {"w": draw(8, 4)}
    before = np.asarray(params["w"]).copy()
    prepare(params, QAT(4, "on_grid"))
    np.testing.assert_array_equal(params["w"], before)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("'w' is a fake_learned_step leaf, .* prepared already", lambda p: prepare(prepare(p), QAT(4))),
        ("holds NaN or infinity", lambda p: prepare({"w": p["w"].at[0, 0].set(jnp.nan)})),
        ("group_size=5 does not divide", lambda p: prepare(p, QAT(4, group_size=5))),
        ("what the axes of 'w'", lambda p: prepare({"w": draw(3, 3, 4, 4)})),
        ("start from data, at 'w' from none", lambda p: prepare(p, QAT(activations=Activations()))),
        ("fit none of the chosen leaves", lambda p: prepare(p, QAT(activations=Activations({"x": 8})))),
        ("matches no leaf", lambda p: prepare(p, where="x")),
        ("fits none of the chosen", lambda p: prepare(p, QAT({"x": 4}))),
        ("method must be one of", lambda p: QAT(4, "lsq2")),
        ("Activations: method must be one of", lambda p: Activations(4, "lsq2")),
        ("QAT: bits must be integers from 2 to 8, got 9", lambda p: QAT(9)),
        ("Activations: bits must be integers from 2 to 8, got 1", lambda p: Activations({"a": 1})),
        ("'twn' has codes of 2 bits, got bits=4", lambda p: QAT(4, "twn")),
        ("symmetric=False is of method='ste' or 'lsq\\+'", lambda p: QAT(4, symmetric=False)),
        ("rescaled=True is of method='dorefa'", lambda p: QAT(4, rescaled=True)),
        ("one range per layer", lambda p: QAT(4, "dorefa", group_size=4)),
        ("levels that are fitted once", lambda p: QAT(4, "ste", format="levels")),
        ("ranges='nothing' is not known", lambda p: prepare(p, QAT(4, "ste", ranges="nothing"))),
        ("format must be one of", lambda p: prepare(p, QAT(4, "ste", format="int12"))),
    ],
)
def test_bad_settings(message, call):
    with pytest.raises(ValueError, match=message):
        call({"w": jnp.ones((8, 4))})


def test_sites_that_were_not_observed():
    params = {"w": draw(8, 8)}
    once, twice = (lambda p, x: x @ p["w"]), (lambda p, x: (x @ p["w"]) @ p["w"])
    stats = jc.observe(once, params, [X], what="histogram")
    with pytest.raises(ValueError, match="stats hold nothing of 'w' at its site 1"):
        prepare(params, QAT(activations=Activations()), sites=jc.sites(twice, params, X), stats=stats)
    lacking = jc.observe(once, params, [X], what="absmax")
    with pytest.raises(ValueError, match="'histogram' was not observed"):
        prepare(params, QAT(activations=Activations()), stats=lacking)
