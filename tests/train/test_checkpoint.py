"""A run that is interrupted in the middle of its schedule and restored by Orbax is the run that went through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxcompress.prune import masks_of
from jaxcompress.train import gradual_pruning, network_surgery, rigl, sparse_evolutionary

pytestmark = pytest.mark.standard_promotion

KEY = jax.random.key(5)
METHODS = {
    "gradual": lambda: gradual_pruning(optax.adam(1e-2), sparsity=0.75, begin_step=1, end_step=7, every=2),
    "rigl": lambda: rigl(optax.MultiSteps(optax.adam(1e-2), 2), sparsity=0.75, end_step=9, every=3, key=KEY),
    "set": lambda: sparse_evolutionary(optax.sgd(1e-1, momentum=0.9), sparsity=0.75, end_step=9, every=3, key=KEY),
    "surgery": lambda: network_surgery(optax.adamw(1e-2), c=0.5, end_step=9, key=KEY, gamma=0.3),
}


@pytest.mark.parametrize("method", METHODS)
def test_orbax_restores_masks_bit_exact_mid_schedule(method, tmp_path):
    draw = np.random.default_rng(0).normal
    first = {"w": jnp.asarray(draw(size=(8, 8)), jnp.float32), "b": jnp.zeros(8)}
    gradients = [{"w": jnp.asarray(draw(size=(8, 8)), jnp.float32), "b": jnp.ones(8)} for _ in range(9)]

    def run(tx, params, state, gradients):
        update = jax.jit(tx.update)
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    tx = METHODS[method]()
    whole = run(tx, first, tx.init(first), gradients)
    half = run(tx, first, tx.init(first), gradients[:4])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", half)
        checkpointer.wait_until_finished()
        again = METHODS[method]()  # a new process: same arguments, nothing else
        target = jax.eval_shape(lambda: (first, again.init(first)))
        restored = checkpointer.restore(tmp_path / "run", target)
    assert jax.tree.structure(restored) == jax.tree.structure(half)
    jax.tree.map(np.testing.assert_array_equal, restored, half)
    resumed = run(again, *restored, gradients[4:])
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert (masks_of(resumed[1])["w"] != masks_of(half[1])["w"]).any()  # there was something left to do
