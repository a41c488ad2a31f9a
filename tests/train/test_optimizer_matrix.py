"""Every method around every optimizer: exact zeros, counts, and what the bare optimizer would do elsewhere."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.prune import finish, masks_of
from jaxcompress.train import network_slimming, network_surgery, rigl, sparse_evolutionary, static_sparse
from tests.train.optimizers import OPTIMIZERS

pytestmark = pytest.mark.standard_promotion

KEY = jax.random.key(0)
RANDOM = {"sparsity": 0.75, "key": KEY, "allocation": "uniform"}
MOVING = {"every": 3, "end_step": 20, "drop_fraction": 0.5}
METHODS = {
    "rigl": lambda tx: rigl(tx, **RANDOM, **MOVING),
    "set": lambda tx: sparse_evolutionary(tx, **RANDOM, **MOVING),
    "static": lambda tx: static_sparse(tx, **RANDOM),
    "surgery": lambda tx: network_surgery(tx, c=1.0, end_step=4, key=KEY, gamma=1.0),
}
FEW = ("adam", "MultiSteps inside", "partition")  # what is run of each method but RigL in a plain `pytest`


def cases():
    for method, optimizer in itertools.product(METHODS, OPTIMIZERS):
        marks = () if method == "rigl" or optimizer in FEW else (pytest.mark.slow,)
        yield pytest.param(method, optimizer, marks=marks)


def make_params():
    draw = np.random.default_rng(0).normal
    return {
        name: {"kernel": jnp.asarray(draw(size=(8, 8)), jnp.float32), "bias": jnp.zeros(8)}
        for name in ("inner", "outer")
    }


def dropped(params, state):
    """The values at the entries that the masks drop."""
    return np.concatenate(
        [np.asarray(params[path.split("/")[0]]["kernel"])[~np.asarray(m)] for path, m in masks_of(state).items()]
    )


@pytest.mark.parametrize(("method", "optimizer"), list(cases()))
def test_zeros_counts_and_the_bare_optimizer(method, optimizer, compilations):
    wrap = METHODS[method]
    tx, bare = OPTIMIZERS[optimizer](wrap), OPTIMIZERS[optimizer](lambda tx: tx)

    @jax.jit
    def step(params, state, bare_state, gradient):
        masks = masks_of(state)
        kept = {
            p: {k: jnp.where(masks[f"{p}/{k}"], g, 0) if k == "kernel" else g for k, g in gradient[p].items()}
            for p in gradient
        }
        alone, bare_state = bare.update(kept, bare_state, params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, bare_state, updates, alone

    params = make_params()
    state = tx.init(params)
    params = jc.materialize(finish(params, state))
    bare_state = bare.init(params)
    counts = {path: int(mask.sum()) for path, mask in masks_of(state).items()}
    assert sorted(counts) == ["inner/kernel", "outer/kernel"]
    draw = np.random.default_rng(1).normal
    for i in range(9):
        before = masks_of(state)
        gradient = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape), jnp.float32), params)
        params, state, bare_state, updates, alone = step(params, state, bare_state, gradient)
        zeros = dropped(params, state)
        assert not zeros.any()
        assert not np.signbit(zeros).any()
        if method != "surgery":
            assert {path: int(mask.sum()) for path, mask in masks_of(state).items()} == counts
            if i < 3:  # no rewiring yet
                for path, mask in before.items():
                    name = path.split("/")[0]
                    expected = {"bias": alone[name]["bias"], "kernel": np.where(mask, alone[name]["kernel"], 0)}
                    # The same sums in two places of one program: XLA may fuse them differently, to the last bits.
                    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates[name], expected)
    assert compilations("step") == 1
    assert method == "static" or any((masks_of(state)[p] != jnp.ones((8, 8), bool)).any() for p in counts)
    finished = finish(params, state)
    jax.tree.map(np.testing.assert_array_equal, jc.materialize(finished), params)


@pytest.mark.parametrize("optimizer", ["adamw", "chain", "inject_hyperparams outside", "MultiSteps outside"])
def test_slimming_leaves_the_rest_to_the_optimizer(optimizer):
    tx = OPTIMIZERS[optimizer](lambda tx: network_slimming(tx, strength=2.0, learning_rate=1e-2, where="**/bias"))
    bare, params = OPTIMIZERS[optimizer](lambda tx: tx), make_params()
    params = jax.tree.map(lambda p: p + 0.01 * (p.ndim == 1), params)
    step = jax.jit(lambda g, s, b, p: (tx.update(g, s, p), bare.update(g, b, p)))
    state, bare_state = tx.init(params), bare.init(params)
    for _ in range(2):
        (updates, state), (alone, bare_state) = step(jax.tree.map(jnp.ones_like, params), state, bare_state, params)
    np.testing.assert_array_equal(updates["inner"]["kernel"], alone["inner"]["kernel"])
    # Adam's steps of 0.01 lead from 0.01 to 0; the proximal step of 0.02 stops there: exactly zero.
    assert (params["inner"]["bias"] + updates["inner"]["bias"] == 0).all()
