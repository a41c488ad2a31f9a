import flax.linen as linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jaxcompress as jc
from jaxcompress.prune import Masked, finish
from jaxcompress.train import gradual_pruning

pytestmark = pytest.mark.standard_promotion

X = jnp.ones((5, 4))


def pruned_adam():
    return gradual_pruning(optax.adam(1e-2), sparsity=0.5, begin_step=0, end_step=3)


def test_linen_train_state_and_its_serialization():
    model = linen.Dense(8)
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), X), tx=pruned_adam())

    @jax.jit
    def step(state):
        gradient = jax.grad(lambda params: jnp.mean((state.apply_fn(params, X) - 1) ** 2))(state.params)
        return state.apply_gradients(grads=gradient)

    for _ in range(5):
        state = step(state)
    blank = TrainState.create(apply_fn=model.apply, params=jax.tree.map(jnp.zeros_like, state.params), tx=state.tx)
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(state))
    pruned = finish(restored.params, restored.opt_state)
    assert int(pruned["params"]["kernel"].mask.sum()) == 16
    np.testing.assert_allclose(jc.lift(model.apply)(pruned, X), model.apply(state.params, X), rtol=1e-6)  # one matmul


def test_nnx_optimizer():
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    optimizer = nnx.Optimizer(model, pruned_adam(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(X) - 1) ** 2))(model))

    for _ in range(5):
        step(model, optimizer)
    fn, variables = jc.nnx.split(model)
    pruned = finish(variables, optimizer.opt_state)
    kernels = [pruned["layers"][i]["kernel"] for i in (0, 1)]
    assert all(isinstance(kernel, Masked) for kernel in kernels)
    assert [int(kernel.mask.sum()) for kernel in kernels] == [16, 8]
    np.testing.assert_allclose(jc.lift(fn)(pruned, X), model(X), rtol=1e-6)  # two small matmuls of the same values
