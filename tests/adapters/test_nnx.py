"""Flax NNX: a module as a pure function of a tree of arrays, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxcompress as jc
from jaxcompress.adapters.nnx import split, split_stateful, update
from jaxcompress.core.paths import flatten_with_paths, replace_at
from tests.core.kinds import Probe

X = jnp.sin(jnp.arange(8.0)).reshape(2, 4)


class Net(nnx.Module):
    """Layers in a list, running statistics, dropout, a second method, a static attribute."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.asarray(0))
        self.scale = 2

    def __call__(self, x, *, train=False):
        self.calls[...] += 1
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        x = self.norm(x, use_running_average=not train)
        return self.dropout(x, deterministic=not train) * self.scale

    def encode(self, x):
        return self.layers[0](x)


@pytest.fixture
def model():
    return Net(nnx.Rngs(0))


def packed(variables):
    paths, leaves, _ = flatten_with_paths(variables)
    kernels = {p: Probe.of(leaf) for p, leaf in zip(paths, leaves, strict=True) if p.endswith("kernel")}
    assert len(kernels) == 2
    return replace_at(variables, kernels)


def test_split_is_the_module(model):
    fn, variables = split(model)
    paths = flatten_with_paths(variables)[0]
    assert {"layers/0/kernel", "layers/1/bias", "norm/mean", "norm/scale", "calls"} <= set(paths)
    np.testing.assert_array_equal(fn(variables, X), model(X))
    assert fn.__name__ == "Net.__call__"
    encode, _ = split(model, method="encode")
    np.testing.assert_array_equal(encode(variables, X), model.encode(X))


def test_calls_change_neither_the_module_nor_the_variables(model):
    fn, variables = split(model)
    before = int(model.calls[...])
    first, second = fn(variables, X, train=True), fn(variables, X, train=True)
    np.testing.assert_array_equal(first, second)  # the counters of the random streams did not move
    assert int(model.calls[...]) == before
    assert int(variables["calls"]) == before


def test_compressed_variables_under_lift_and_jit(model):
    fn, variables = split(model)
    leaves = packed(variables)
    for call in (jc.lift(fn), jax.jit(jc.lift(fn), static_argnames="train")):
        np.testing.assert_allclose(call(leaves, X, train=False), fn(variables, X, train=False), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(call(leaves, X, train=True), fn(variables, X, train=True), rtol=1e-4, atol=1e-5)
    lines = jc.explain(fn, leaves, X)
    assert [line.served for line in lines if line.path.endswith("kernel")] == [True, True]
    assert jc.sites(fn, variables, X).weights() == ("layers/0/kernel", "layers/1/kernel")
    assert list(jc.observe(fn, variables, [X], where="**/kernel")) == ["layers/0/kernel", "layers/1/kernel"]
    grads = jax.grad(lambda t, f: jc.lift(fn)(jc.merge(t, f), X).sum())(*jc.split_trainable(leaves))
    assert grads["layers"][0]["kernel"].value.shape == (4, 4)


def test_stateful_split_returns_what_the_call_changed(model):
    fn, variables = split_stateful(model)
    out, new = jax.jit(jc.lift(fn), static_argnames="train")(packed(variables), X, train=True)
    expected = model(X, train=True)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert int(new["calls"]) == int(variables["calls"]) + 1
    np.testing.assert_allclose(new["norm"]["mean"], model.norm.mean[...], rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(new) == jax.tree.structure(variables)


def test_update_writes_back_in_place(model):
    fn, variables = split(model)
    changed = jc.materialize(jax.tree.map(lambda a: a, packed(variables)))
    changed["layers"][0]["kernel"] = changed["layers"][0]["kernel"] * 0
    kernel = model.layers[0].kernel
    update(model, changed)
    assert model.layers[0].kernel is kernel
    np.testing.assert_array_equal(kernel[...], jnp.zeros((4, 4)))
    np.testing.assert_array_equal(fn(changed, X), model(X))


def test_update_refuses_and_writes_nothing(model):
    _, variables = split(model)
    before = np.asarray(model.layers[0].kernel[...])
    with pytest.raises(TypeError, match="'layers/0/kernel' is a compressed test_probe leaf"):
        update(model, packed(variables))
    wrong = jax.tree.map(lambda a: a, variables)
    wrong["layers"][0]["kernel"] = jnp.zeros((4, 4))
    wrong["layers"][1]["kernel"] = jnp.zeros((4, 5))
    with pytest.raises(ValueError, match=r"'layers/1/kernel' has shape \(4, 5\), the module \(4, 4\)"):
        update(model, wrong)
    with pytest.raises(ValueError, match="the module has no variable at 'extra'"):
        update(model, variables | {"extra": jnp.zeros(1)})
    np.testing.assert_array_equal(model.layers[0].kernel[...], before)


@pytest.mark.standard_promotion
def test_nnx_jit_and_optimizer_keep_working_after_update(model):
    _, variables = split(model)
    update(model, variables)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.sum(m(x, train=True) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    kernel = np.asarray(model.layers[0].kernel[...])
    assert np.isfinite(train_step(model, optimizer, X))
    assert np.abs(np.asarray(model.layers[0].kernel[...]) - kernel).max() > 0


def test_sizes_count_keys_of_random_streams(model):
    _, variables = split(model)
    assert jc.stored_bytes(variables) > 4 * 2 * 20
