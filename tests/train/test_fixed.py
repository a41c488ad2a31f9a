import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.prune import finish, magnitude, masks_of
from jaxcompress.train import fixed_masks

pytestmark = pytest.mark.standard_promotion


def make_params():
    draw = np.random.default_rng(0).normal
    return {"a": jnp.asarray(draw(size=(4, 6)), jnp.float32), "b": jnp.zeros(6)}


def train(tx, params, steps=4):
    update = jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_masks_of_a_pruned_tree_hold_under_noise_and_decay():
    pruned = magnitude(make_params(), sparsity=0.5)
    noisy = optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.adamw(1e-2))
    params, state = train(fixed_masks(noisy, pruned), jc.materialize(pruned))
    np.testing.assert_array_equal(params["a"] != 0, pruned["a"].mask)
    assert (params["b"] != 0).all()  # a bias that starts at zero is no pruned weight
    np.testing.assert_array_equal(finish(params, state)["a"].mask, pruned["a"].mask)


def test_masks_drop_what_is_not_zero_yet():
    keep = jnp.arange(24).reshape(4, 6) % 3 == 0
    params, _ = train(fixed_masks(optax.sgd(0.1), {"a": keep}), make_params(), steps=1)
    np.testing.assert_array_equal(params["a"] != 0, keep)


def test_zeros_of_the_parameters_are_the_masks_by_default():
    params = jc.materialize(magnitude(make_params(), sparsity=0.25))
    trained, state = train(fixed_masks(optax.adam(1e-2)), params)
    np.testing.assert_array_equal(trained["a"] != 0, params["a"] != 0)
    assert list(masks_of(state)) == ["a"]


def test_masked_leaves_train_without_a_wrapper():
    pruned = magnitude(make_params(), sparsity=0.5)
    values, masks = jc.split_trainable(pruned)
    tx = optax.adamw(1e-2)
    state = tx.init(values)

    @jax.jit
    def step(values, state):
        gradient = jax.grad(lambda v: jnp.sum(jc.materialize(jc.merge(v, masks))["a"] ** 3))(values)
        updates, state = tx.update(gradient, state, values)
        return optax.apply_updates(values, updates), state

    for _ in range(3):
        values, state = step(values, state)
    trained = jc.merge(values, masks)["a"]
    np.testing.assert_array_equal(trained.values != 0, pruned["a"].mask)
    assert not np.array_equal(trained.values, pruned["a"].values)


def test_errors_name_the_path():
    with pytest.raises(ValueError, match="holds no mask"):
        fixed_masks(optax.sgd(0.1), make_params()).init(make_params())
    with pytest.raises(ValueError, match=r"has \(2,\) at 'a', the parameters have \(4, 6\)"):
        fixed_masks(optax.sgd(0.1), {"a": jnp.ones(2, bool)}).init(make_params())
    with pytest.raises(ValueError, match="at 'c', the parameters have no such path"):
        fixed_masks(optax.sgd(0.1), {"c": jnp.ones(2, bool)}).init(make_params())
    tx = fixed_masks(optax.sgd(0.1), {"a": jnp.ones((4, 6), bool)})
    state = tx.init(make_params())
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(make_params(), state)
